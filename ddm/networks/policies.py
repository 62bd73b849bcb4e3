"""Policy heads: a network from observations to an action or to a distribution over actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.networks import distributions
from ddm.networks.mlp import MLP, Initializer, Network, fan_in_uniform


class Start(NamedTuple):
    """Where a Gaussian begins to learn: the network's first output is about this."""

    mean: jax.Array | float  # (A,) an action inside the box
    log_std: jax.Array | float  # of every dimension


class DeterministicPolicy(Network):
    """tanh of an MLP: (..., O) to actions (..., A) in (-1, 1)."""

    hidden_sizes: tuple[int, ...]
    action_size: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        return jnp.tanh(
            MLP(self.hidden_sizes, self.action_size, layer_norm=self.layer_norm, name="mlp")(
                observations
            )
        )


class GaussianPolicy(Network):
    """N(tanh(mean(s)), std^2), not squashed: its density is finite at actions of +-1.

    The standard deviation is either one learned vector or, with `state_dependent_std`, a second
    half of the network's output.
    """

    hidden_sizes: tuple[int, ...]
    action_size: int
    state_dependent_std: bool = False
    layer_norm: bool = False
    dropout_rate: float = 0.0
    kernel_init: Initializer = fan_in_uniform

    @nn.compact
    def __call__(
        self,
        observations: jax.Array,
        log_std_min: jax.Array | float,
        log_std_max: jax.Array | float,
        *,
        start: Start | None = None,
        deterministic: bool = True,
    ) -> Any:
        num_stds = self.action_size if self.state_dependent_std else 0
        outputs = MLP(
            self.hidden_sizes,
            self.action_size + num_stds,
            layer_norm=self.layer_norm,
            dropout_rate=self.dropout_rate,
            kernel_init=self.kernel_init,
            output_bias_init=_beginning(start, self.action_size, num_stds),
            name="mlp",
        )(observations, deterministic=deterministic)
        if self.state_dependent_std:
            mean, log_std = jnp.split(outputs, 2, axis=-1)
        else:
            mean = outputs
            log_std = _log_std(self, self.action_size, start)
        log_std = jnp.clip(log_std, log_std_min, log_std_max)
        return distributions.diagonal_gaussian(jnp.tanh(mean), log_std)


class TanhGaussianPolicy(Network):
    """tanh(u) with u ~ N(mean(s), std(s)^2): a density on the open box (-1, 1)^A."""

    hidden_sizes: tuple[int, ...]
    action_size: int
    layer_norm: bool = False

    @nn.compact
    def __call__(
        self,
        observations: jax.Array,
        log_std_min: jax.Array | float,
        log_std_max: jax.Array | float,
        *,
        start: Start | None = None,
    ) -> distributions.TanhGaussian:
        outputs = MLP(
            self.hidden_sizes,
            2 * self.action_size,
            layer_norm=self.layer_norm,
            output_bias_init=_beginning(start, self.action_size, self.action_size),
            name="mlp",
        )(observations)
        mean, log_std = jnp.split(outputs, 2, axis=-1)
        return distributions.TanhGaussian(mean, jnp.clip(log_std, log_std_min, log_std_max))


class MixturePolicy(Network):
    """A mixture of K Gaussians N(tanh(mean_k(s)), std_k(s)^2), not squashed.

    Components start at means spread over the box: from a common start they would move alike. Of a
    `start` only the width is used.
    """

    hidden_sizes: tuple[int, ...]
    action_size: int
    num_components: int
    layer_norm: bool = False

    @nn.compact
    def __call__(
        self,
        observations: jax.Array,
        log_std_min: jax.Array | float,
        log_std_max: jax.Array | float,
        *,
        start: Start | None = None,
    ) -> distributions.GaussianMixture:
        shape = (self.num_components, self.action_size)
        size = self.num_components * self.action_size
        wide = None if start is None else start._replace(mean=0.0)
        outputs = MLP(
            self.hidden_sizes,
            self.num_components + 2 * size,
            layer_norm=self.layer_norm,
            output_bias_init=_beginning(wide, self.num_components + size, size),
            name="mlp",
        )(observations)
        logits, rest = jnp.split(outputs, [self.num_components], axis=-1)
        means, log_stds = jnp.split(rest.reshape(*rest.shape[:-1], 2 * shape[0], shape[1]), 2, -2)
        offsets = self.param("offsets", _uniform_box, shape)
        means = means + jnp.broadcast_to(offsets, means.shape)
        return distributions.GaussianMixture(
            logits, jnp.tanh(means), jnp.clip(log_stds, log_std_min, log_std_max)
        )


def _beginning(
    start: Start | None,
    num_means: int,
    num_stds: int,
    unsquash: Callable[[Any], jax.Array] = jnp.arctanh,
) -> Initializer:
    """The initialiser of a vector: means before they are squashed, then log standard deviations."""
    if start is None:
        return nn.initializers.zeros
    means = jnp.broadcast_to(unsquash(start.mean), (num_means,))
    values = jnp.concatenate([means, jnp.full(num_stds, start.log_std, jnp.float32)])
    return lambda key, shape, dtype: values.astype(dtype)


def _log_std(module: nn.Module, size: int, start: Start | None) -> jax.Array:
    """One learned vector of log standard deviations for all observations."""
    init = nn.initializers.constant(0.0 if start is None else start.log_std)
    return module.param("log_std", init, (size,), jnp.float32)


def _uniform_box(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)


class CategoricalPolicy(Network):
    """Softmax over K discrete actions."""

    hidden_sizes: tuple[int, ...]
    num_actions: int
    layer_norm: bool = False
    dropout_rate: float = 0.0

    def __call__(self, observations: jax.Array, *, deterministic: bool = True) -> Any:
        return distributions.categorical(self.logits(observations, deterministic=deterministic))

    @nn.compact
    def logits(self, observations: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """Logits (..., K) as the network gives them; those of the distribution are normalised."""
        return MLP(
            self.hidden_sizes,
            self.num_actions,
            layer_norm=self.layer_norm,
            dropout_rate=self.dropout_rate,
            name="mlp",
        )(observations, deterministic=deterministic)


class TabularPolicy(Network):
    """Softmax of a table of logits, one row per state, all zero at first.

    Observations (..., S) are one-hot; the table (S, K) is a linear layer without bias.
    """

    num_actions: int

    @nn.compact
    def __call__(self, observations: jax.Array) -> Any:
        logits = nn.Dense(
            self.num_actions, use_bias=False, kernel_init=nn.initializers.zeros, name="output"
        )(observations)
        return distributions.categorical(logits)


class LinearSoftmaxPolicy(Network):
    """Softmax over K actions of <phi(s, a), w>, one weight vector (F,), zero at first.

    `features` maps observations (..., O) to (..., K, F).
    """

    features: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, observations: jax.Array) -> Any:
        features = self.features(observations)
        weights = self.param("weights", nn.initializers.zeros, (features.shape[-1],), jnp.float32)
        return distributions.categorical(features @ weights)


class LinearGaussianPolicy(Network):
    """N(W phi(s) + b, diag(std)^2) with one learned vector of log std; all zero without a `start`.

    `features` maps observations (..., O) to (..., F); None: the observations.
    """

    action_size: int
    features: Callable[[jax.Array], jax.Array] | None = None

    @nn.compact
    def __call__(
        self,
        observations: jax.Array,
        log_std_min: jax.Array | float,
        log_std_max: jax.Array | float,
        *,
        start: Start | None = None,
    ) -> Any:
        features = observations if self.features is None else self.features(observations)
        mean = nn.Dense(
            self.action_size,
            kernel_init=nn.initializers.zeros,
            bias_init=_beginning(start, self.action_size, 0, unsquash=jnp.asarray),
            name="output",
        )(features)
        log_std = _log_std(self, self.action_size, start)
        return distributions.diagonal_gaussian(mean, jnp.clip(log_std, log_std_min, log_std_max))
