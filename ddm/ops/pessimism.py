"""Pessimism of model-based offline RL: what a model's rewards and ends become where it is unsure.

Both methods plan in a model and change it where the data does not support it. MOPO pays for
uncertainty, MOReL stops. The maths is the same for rows that a network imagined and for a table of
pairs, so the arrays may have any shape.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def penalized_rewards(
    rewards: jax.Array, uncertainties: jax.Array, weight: jax.Array | float
) -> jax.Array:
    """MOPO's reward r - lambda u (Yu et al. 2020, section 4).

    If u bounds the total variation between the model's next states and the true ones, and rewards
    are known and lie in [0, r_max], then with lambda = discount * r_max / (1 - discount) the value
    of every policy in the model is at most its true value. With rewards that the model guesses as
    well, and that are right where u is 0, r_max / (1 - discount) is enough for a u of 0 or 1.

    Args:
      rewards: (...) of the model.
      uncertainties: (...) u, at least 0, one for each reward.
      weight: lambda, at least 0, in units of reward per unit of u. At 0 rewards keep every bit.

    Returns:
      (...) rewards. The reward of a step that ends is penalised, too.
    """
    chex.assert_rank(weight, 0)
    chex.assert_equal_shape([rewards, uncertainties])
    return rewards - weight * uncertainties


def is_unknown(uncertainties: jax.Array, threshold: jax.Array | float) -> jax.Array:
    """MOReL's test of a state-action pair: unknown above a threshold (Kidambi et al. 2020).

    Args:
      uncertainties: (...), such as the largest disagreement of two members of an ensemble.
      threshold: scalar, or one that broadcasts; a pair exactly on it is known.

    Returns:
      (...) bool. An uncertainty that is not a number is unknown.
    """
    return ~(uncertainties <= threshold)


def halted(
    rewards: jax.Array,
    terminations: jax.Array,
    unknown: jax.Array,
    halt_reward: jax.Array | float,
) -> tuple[jax.Array, jax.Array]:
    """MOReL's HALT: the step from an unknown pair earns `halt_reward` and ends the episode.

    In the paper (Kidambi et al. 2020, section 4) HALT is a state that earns -kappa at every step,
    for ever, which is worth -kappa / (1 - discount). Here it is paid once and nothing is
    bootstrapped, so `halt_reward` is the whole value of an unknown pair. In the authors' code the
    flag of such an end is lost, and their advantages bootstrap beyond it; that is not repeated.

    Args:
      rewards: (...) of the model.
      terminations: (...) bool, or probabilities that the step ends the episode.
      unknown: (...) bool.
      halt_reward: scalar. At most the smallest return that is possible, it makes the model's values
        lower bounds of the true ones.

    Returns:
      Rewards and terminations, as given but for the unknown pairs.
    """
    chex.assert_rank(halt_reward, 0)
    chex.assert_equal_shape([rewards, terminations, unknown])
    chex.assert_type(unknown, bool)
    rewards = jnp.where(unknown, halt_reward, rewards)
    return rewards, jnp.where(unknown, jnp.ones_like(terminations), terminations)
