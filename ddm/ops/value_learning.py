"""Targets and losses of value learning, on batches.

Ranks are asserted, because (B,) minus (B, 1) broadcasts to (B, B) without a word.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def td_target(
    rewards: jax.Array,
    discount: jax.Array | float,
    terminations: jax.Array,
    next_values: jax.Array,
) -> jax.Array:
    """One-step bootstrap target r + discount * (1 - termination) * v(s').

    Args:
      rewards: (B,) rewards.
      discount: scalar in [0, 1].
      terminations: (B,) bool, True where no value follows. Truncations do not belong here.
      next_values: (B,) values of the next observations.

    Returns:
      (B,) targets, without gradient.
    """
    chex.assert_rank([rewards, terminations, next_values], 1)
    chex.assert_equal_shape([rewards, terminations, next_values])
    target = rewards + discount * jnp.where(terminations, 0.0, next_values)
    return jax.lax.stop_gradient(target)


def squared_td_error(values: jax.Array, targets: jax.Array) -> jax.Array:
    """Squared error of an ensemble: the sum over members of the mean over the batch.

    Args:
      values: (E, B) values of E members.
      targets: (B,) shared targets.

    Returns:
      Scalar.
    """
    chex.assert_rank([values, targets], [2, 1])
    chex.assert_axis_dimension(values, 1, targets.shape[0])
    return jnp.sum(jnp.mean(jnp.square(values - targets), axis=1))


def expectile_loss(residuals: jax.Array, expectile: jax.Array | float) -> jax.Array:
    """Asymmetric squared error |expectile - 1{u < 0}| u^2 (Kostrikov et al. 2021, eq. 4).

    Args:
      residuals: (B,) target minus prediction.
      expectile: scalar in (0, 1); 0.5 is half the squared error.

    Returns:
      (B,) losses.
    """
    chex.assert_rank(residuals, 1)
    weights = jnp.where(residuals < 0.0, 1.0 - expectile, expectile)
    return weights * jnp.square(residuals)


def mix_ensemble(values: jax.Array, minimum_weight: jax.Array | float) -> jax.Array:
    """Soft clipped double Q: lambda min_i Q_i + (1 - lambda) max_i Q_i (Fujimoto et al. 2019).

    Args:
      values: (E, ...) values of E members.
      minimum_weight: lambda in [0, 1]; 1 is the minimum, and smaller values punish the ensemble's
        disagreement less.

    Returns:
      (...,) values.
    """
    low, high = jnp.min(values, axis=0), jnp.max(values, axis=0)
    return minimum_weight * low + (1.0 - minimum_weight) * high
