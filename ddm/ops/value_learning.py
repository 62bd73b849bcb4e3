"""Targets and losses of value learning, on batches.

Ranks are asserted, because (B,) minus (B, 1) broadcasts to (B, B) without an error.
"""

from __future__ import annotations

from collections.abc import Mapping

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


def lambda_returns(
    rewards: jax.Array,
    discount: jax.Array | float,
    decay: jax.Array | float,
    terminations: jax.Array,
    next_values: jax.Array,
    ends: jax.Array,
) -> jax.Array:
    """TD(lambda) returns of windows of consecutive steps, computed backward (Sutton 1988).

        G_t = r_t + discount * ((1 - decay) * v_{t+1} + decay * G_{t+1})

    At an end G_{t+1} is not known, and v_{t+1} takes its place; at a termination both are 0.

    Args:
      rewards: (B, T) rewards.
      discount: scalar in [0, 1].
      decay: lambda in [0, 1]; 0 gives one-step targets, 1 the sum of rewards up to the end.
      terminations: (B, T) bool, True where no value follows. Truncations do not belong here.
      next_values: (B, T) values of the next observations.
      ends: (B, T) bool, True where the next column is not the next step: at truncations, and at a
        row's last valid step. The last column always counts as an end.

    Returns:
      (B, T) returns, without gradient.
    """
    chex.assert_rank([rewards, terminations, next_values, ends], 2)
    chex.assert_equal_shape([rewards, terminations, next_values, ends])

    def step(later: jax.Array, column: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        reward, terminates, next_value, end = column
        mixed = jnp.where(end, next_value, (1.0 - decay) * next_value + decay * later)
        value = reward + discount * jnp.where(terminates, 0.0, mixed)
        return value, value

    columns = jax.tree.map(jnp.transpose, (rewards, terminations, next_values, ends))
    _, returns = jax.lax.scan(step, next_values[:, -1], columns, reverse=True)
    return jax.lax.stop_gradient(returns.T)


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
    return jnp.sum(jnp.mean(jnp.square(values - targets[None]), axis=1))


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


def of_actions(values: jax.Array, actions: jax.Array) -> jax.Array:
    """The entries (...,) of discrete actions (...,) among values or log-probabilities (..., K)."""
    return jnp.take_along_axis(values, actions[..., None], axis=-1)[..., 0]


def largest_reward(rewards: jax.Array) -> jax.Array:
    """The largest size of a reward in the batch, (): the metric that values are compared with."""
    return jnp.max(jnp.abs(rewards))


def values_beyond_rewards(
    discount: float,
    metrics: Mapping[str, float],
    *,
    value: str = "q_value",
    bonus: float = 0.0,
) -> list[str]:
    """A sentence if values exceed what rewards and discount allow, for `diagnose`.

    No policy earns more than sum_t discount^t max |r| = max |r| / (1 - discount). Values beyond it
    belong to no policy: the bootstrap then amplifies its own errors.

    Args:
      discount: of the values; at 1 there is no bound.
      metrics: means over an interval, with `value` and ``reward_max`` of :func:`largest_reward`.
      value: the metric that holds the mean value.
      bonus: size of what the method itself adds to each reward, such as an entropy bonus.
    """
    if discount >= 1.0 or value not in metrics or "reward_max" not in metrics:
        return []
    found, reward = metrics[value], metrics["reward_max"]
    bound = (reward + abs(bonus)) / (1.0 - discount)
    if abs(found) <= bound:
        return []
    added = f" and {abs(bonus):.3g} of the method's own" if bonus else ""
    return [
        f"{value}={found:.3g} lies beyond {bound:.3g}, the most that rewards of up to "
        f"{reward:.3g}{added} can add up to at discount={discount:g}: these are the values of no "
        "policy, their errors feed on themselves; hold the policy nearer to the data, or take "
        "layer_norm, more critics, a smaller target_rate or step size, where the method has them"
    ]
