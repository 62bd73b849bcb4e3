"""How unsure an ensemble is about a transition: four numbers, none of which is always right.

The largest predicted standard deviation is the one of MOPO's analysis and code. It knows the noise
of the environment; it does not know where data are missing, unless the log-variance happens to grow
there. It depends on the training whether it does, and it can rank new states below known ones.
The three others are spreads of the members' means. They know where data are missing, and nothing of
the noise. Look at `calibration` before you choose.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

# Means and standard deviations (E, ..., 1 + O) of the E members, in the environment's units, the
# reward first -> (...) one number per transition.
UncertaintyFn = Callable[[jax.Array, jax.Array], jax.Array]


def max_std(means: jax.Array, stds: jax.Array) -> jax.Array:
    """max_i || sigma_i(s, a) ||_2, with the reward (Yu et al. 2020, MOPO; over all members)."""
    chex.assert_equal_shape([means, stds])
    return jnp.max(_norm(stds), axis=0)


def max_disagreement(means: jax.Array, stds: jax.Array) -> jax.Array:
    """max_ij || mu_i - mu_j ||_2 of the next observation (Kidambi et al. 2020, MOReL)."""
    del stds
    observations = means[..., 1:]
    largest = jnp.zeros(observations.shape[1:-1], observations.dtype)
    for index in range(1, len(observations)):  # each pair once, one member at a time
        apart = _norm(observations[index:] - observations[index - 1][None])
        largest = jnp.maximum(largest, jnp.max(apart, axis=0))
    return largest


def max_deviation(means: jax.Array, stds: jax.Array) -> jax.Array:
    """max_i || mu_i - mean_j mu_j ||_2 of the next observation (MOPO's code, its other penalty)."""
    del stds
    observations = means[..., 1:]
    return jnp.max(_norm(observations - jnp.mean(observations, axis=0, keepdims=True)), axis=0)


def std_of_means(means: jax.Array, stds: jax.Array) -> jax.Array:
    """|| std_i mu_i ||_2 of the next observation: the spread of the members (Lu et al. 2022)."""
    del stds
    return _norm(jnp.std(means[..., 1:], axis=0))


def _norm(vectors: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(vectors**2, axis=-1))


UNCERTAINTIES: dict[str, UncertaintyFn] = {
    "max_std": max_std,
    "max_disagreement": max_disagreement,
    "max_deviation": max_deviation,
    "std_of_means": std_of_means,
}
