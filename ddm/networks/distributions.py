"""The densities that policies use; the only module that imports distrax.

distrax brings TensorFlow Probability, a second of import time and a history of breaking with new
jax releases. It is imported where a density is made, and everything else sees only the functions
of this module.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from ddm.errors import MissingDependencyError

# Largest |action| whose inverse tanh is used: atanh(1) is infinite, and beyond atanh(1 - 1e-5) =
# 6.1 one saturated dimension would dominate the loss.
ACTION_BOUND = 1.0 - 1e-5


def _distrax() -> Any:
    try:
        import distrax
    except ImportError as error:
        raise MissingDependencyError(
            f"stochastic policies need distrax, which does not import ({error}); "
            "install it with `pip install distrax`"
        ) from error
    return distrax


def diagonal_gaussian(mean: jax.Array, log_std: jax.Array) -> Any:
    """N(mean, diag(exp(log_std))^2) over the last axis: samples (..., A), log-densities (...,)."""
    distrax = _distrax()
    log_std = jnp.broadcast_to(log_std, mean.shape)
    return distrax.Independent(distrax.Normal(mean, jnp.exp(log_std)), 1)


def categorical(logits: jax.Array) -> Any:
    """Softmax of logits (..., K): samples (...,) int32."""
    return _distrax().Categorical(logits=logits, dtype=jnp.int32)


def gaussian_parameters(policy: Any) -> tuple[jax.Array, jax.Array] | None:
    """Mean and standard deviation (..., A) of a diagonal Gaussian, or of the one under a tanh.

    Args:
      policy: a distribution; None is returned for one that is not made of a single Gaussian.
    """
    distrax = _distrax()
    base = policy._base if isinstance(policy, TanhGaussian) else policy
    if not isinstance(base, distrax.Independent):
        return None
    each = base.distribution
    return (each.loc, each.scale) if isinstance(each, distrax.Normal) else None


def clipped_log_prob(policy: Any, actions: jax.Array) -> jax.Array:
    """Log-probability (...,) of samples that were clipped to [-1, 1], as an action box does.

    A coordinate at a bound stands for all samples beyond it, so that its probability is that of a
    tail of the Gaussian (Fujita & Maeda 2018, arXiv 1802.07564); inside it has its density. Bounds
    begin at +-ACTION_BOUND, because a change of units may move the last bits of an action.

    Args:
      policy: a distribution. One that is neither a Gaussian nor a mixture of them has no samples to
        clip, and its own `log_prob` is returned.
      actions: (..., A), or (...,) indices.
    """
    if isinstance(policy, GaussianMixture):
        mean, std = policy.means, jnp.exp(policy.log_stds)
        each = _clipped_normal_log_prob(mean, std, actions[..., None, :])
        return jax.nn.logsumexp(jax.nn.log_softmax(policy.logits) + each, axis=-1)
    parameters = None if isinstance(policy, TanhGaussian) else gaussian_parameters(policy)
    if parameters is None:
        return policy.log_prob(actions)
    return _clipped_normal_log_prob(*parameters, actions)


def _clipped_normal_log_prob(mean: jax.Array, std: jax.Array, actions: jax.Array) -> jax.Array:
    scaled = (actions - mean) / std
    inside = -0.5 * (jnp.square(scaled) + math.log(2.0 * math.pi)) - jnp.log(std)
    above, below = (log_ndtr(x / std) for x in (mean - 1.0, -1.0 - mean))
    upper, lower = actions >= ACTION_BOUND, actions <= -ACTION_BOUND
    return jnp.sum(jnp.where(upper, above, jnp.where(lower, below, inside)), axis=-1)


def _distrax_adds_axes() -> Any:
    """Allows the rank promotion that distrax needs for samples, also if the user forbids it."""
    return jax.numpy_rank_promotion("allow")


class TanhGaussian:
    """tanh(u) with u ~ N(mean, diag(exp(log_std))^2), a density on (-1, 1)^A.

    The correction of the density is 2 (log 2 - u - softplus(-2u)), finite for every u.
    """

    def __init__(self, mean: jax.Array, log_std: jax.Array):
        self._mean = mean
        self._base = diagonal_gaussian(mean, log_std)

    def sample(self, *, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Actions (*sample_shape, ..., A)."""
        return jnp.tanh(self.sample_raw(seed=seed, sample_shape=sample_shape))

    def sample_raw(self, *, seed: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """The u (*sample_shape, ..., A) whose tanh are the actions."""
        return self._base.sample(seed=seed, sample_shape=sample_shape)

    def sample_and_log_prob(
        self, *, seed: jax.Array, sample_shape: tuple[int, ...] = ()
    ) -> tuple[jax.Array, jax.Array]:
        """Actions and their log-densities, without the round trip through the inverse tanh."""
        with _distrax_adds_axes():
            raw, log_prob = self._base.sample_and_log_prob(seed=seed, sample_shape=sample_shape)
        return jnp.tanh(raw), log_prob - _log_tanh_slope(raw)

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Log-density (...,) of actions (..., A); actions beyond +-ACTION_BOUND count as it."""
        raw = jnp.arctanh(jnp.clip(actions, -ACTION_BOUND, ACTION_BOUND))
        with _distrax_adds_axes():
            log_prob = self._base.log_prob(raw)
        return log_prob - _log_tanh_slope(raw)

    def mode(self) -> jax.Array:
        """tanh(mean): the median of each coordinate, which the field calls the mode."""
        return jnp.tanh(self._mean)


class GaussianMixture:
    """sum_k softmax(logits)_k N(means_k, diag(exp(log_stds_k))^2) over K components.

    Its mean lies between the components, where the density may be zero: so neither of the two ways
    to act without noise returns it.
    """

    def __init__(self, logits: jax.Array, means: jax.Array, log_stds: jax.Array):
        """Takes logits (..., K), means and log standard deviations (..., K, A)."""
        self.logits = logits
        self.means = means
        self.log_stds = log_stds
        self._components = diagonal_gaussian(means, log_stds)

    def log_prob(self, actions: jax.Array) -> jax.Array:
        """Log-density (...,) of actions (..., A)."""
        with _distrax_adds_axes():
            each = self._components.log_prob(actions[..., None, :])
        log_weights = jnp.broadcast_to(jax.nn.log_softmax(self.logits), each.shape)
        return jax.nn.logsumexp(log_weights + each, axis=-1)

    def sample(self, *, seed: jax.Array) -> jax.Array:
        """Actions (..., A)."""
        component_key, noise_key = jax.random.split(seed)
        return self._choose(self._components.sample(seed=noise_key), self._draw(component_key))

    def sample_means(self, *, seed: jax.Array) -> jax.Array:
        """Means (..., A) of components drawn by their weights: samples without their noise."""
        return self._choose(self.means, self._draw(seed))

    def mode(self) -> jax.Array:
        """Mean (..., A) of the component with the largest weight."""
        return self._choose(self.means, jnp.argmax(self.logits, axis=-1))

    def sample_components(self, *, seed: jax.Array, sample_shape: tuple[int, ...]) -> jax.Array:
        """Actions (*sample_shape, ..., K, A) of every component."""
        return self._components.sample(seed=seed, sample_shape=sample_shape)

    def _draw(self, key: jax.Array) -> jax.Array:
        return jax.random.categorical(key, self.logits)

    @staticmethod
    def _choose(values: jax.Array, components: jax.Array) -> jax.Array:
        """(..., A) of values (..., K, A) at components (...,)."""
        return jnp.take_along_axis(values, components[..., None, None], axis=-2)[..., 0, :]


def _log_tanh_slope(raw: jax.Array) -> jax.Array:
    return jnp.sum(2.0 * (jnp.log(2.0) - raw - jax.nn.softplus(-2.0 * raw)), axis=-1)
