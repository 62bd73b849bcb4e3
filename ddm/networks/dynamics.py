"""Networks that predict what happens next: one member of a probabilistic ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.networks.mlp import MLP, Network


class Outcome(NamedTuple):
    """A Gaussian over the targets of a model, and whether the episode ends."""

    mean: jax.Array  # (..., 1 + O): the reward, and the change of the observation
    log_variance: jax.Array  # (..., 1 + O)
    termination_logit: jax.Array  # (...,)


def swish(inputs: jax.Array) -> jax.Array:
    """X sigmoid(x): smooth, so that a model's derivatives are, too."""
    return nn.swish(inputs)


def truncated_normal(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Normal of standard deviation 1 / (2 sqrt(fan in)), cut at two of them (Chua et al. 2018)."""
    std = jnp.asarray(0.5 / shape[-2] ** 0.5, dtype)
    return std * jax.random.truncated_normal(key, -2.0, 2.0, tuple(shape), dtype)


class GaussianDynamics(Network):
    """A perceptron whose log-variance has learned bounds (Chua et al. 2018, appendix A.1).

    Maps observations (B, O) and actions (B, A) to an :class:`Outcome` of 1 + O targets.
    """

    hidden_sizes: tuple[int, ...]
    log_variance_min: float = -10.0  # where the bounds start
    log_variance_max: float = 0.5

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> Outcome:
        targets = observations.shape[-1] + 1
        low = self.param("log_variance_min", nn.initializers.constant(self.log_variance_min),
                         (targets,), jnp.float32)  # fmt: skip
        high = self.param("log_variance_max", nn.initializers.constant(self.log_variance_max),
                          (targets,), jnp.float32)  # fmt: skip
        outputs = MLP(
            self.hidden_sizes,
            2 * targets + 1,
            activation=swish,
            kernel_init=truncated_normal,
            output_init=truncated_normal,
            name="perceptron",
        )(jnp.concatenate([observations, actions], axis=-1))
        mean, log_variance, logit = jnp.split(outputs, (targets, 2 * targets), axis=-1)
        low, high = (jnp.broadcast_to(bound, log_variance.shape) for bound in (low, high))
        log_variance = high - nn.softplus(high - log_variance)
        log_variance = low + nn.softplus(log_variance - low)
        return Outcome(mean, log_variance, logit[..., 0])
