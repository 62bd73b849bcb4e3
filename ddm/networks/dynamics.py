"""Networks that predict what happens next, and the units in which they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

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


class Regression(Network):
    """A relu perceptron that maps observations (B, O) and actions (B, A) to numbers (B, N)."""

    hidden_sizes: tuple[int, ...]
    output_size: int = 0  # N; 0: as many as an observation has

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        inputs = jnp.concatenate([observations, actions], axis=-1)
        size = self.output_size or observations.shape[-1]
        return MLP(self.hidden_sizes, size, name="perceptron")(inputs)


class Moments(struct.PyTreeNode):
    """Mean and standard deviation of vectors: the units in which a network sees them."""

    mean: jax.Array  # (N,)
    std: jax.Array  # (N,) 0 for a dimension that does not vary

    @classmethod
    def neutral(cls, size: int) -> Moments:
        """Those that change nothing."""
        return cls(jnp.zeros(size, jnp.float32), jnp.ones(size, jnp.float32))

    @classmethod
    def of(cls, values: jax.Array) -> Moments:
        """Those of the rows of (R, N)."""
        std = jnp.std(values, axis=0)
        return cls(jnp.mean(values, axis=0), jnp.where(std > 1e-6, std, jnp.zeros_like(std)))

    def standardize(self, values: jax.Array) -> jax.Array:
        """(B, N) in these units; a dimension that does not vary is only shifted."""
        return (values - self.mean[None]) / jnp.where(self.std > 0.0, self.std, 1.0)[None]

    def restore(self, values: jax.Array) -> jax.Array:
        """The inverse; a dimension that does not vary is its mean, whatever is predicted."""
        return values * self.std[None] + self.mean[None]
