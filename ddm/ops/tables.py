"""Tables over S states and A actions, counted from logged transitions.

Observations are one-hot, and the state is the place of the one. Pairs outside the table must not
occur; the counts ignore them.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from ddm.errors import InputError
from ddm.types import check_action_range, check_one_hot


def check_table_batch(
    name: str,
    observations: jax.Array,
    actions: jax.Array,
    num_actions: int,
    num_states: int | None = None,
    *,
    one_hot: bool = True,
) -> None:
    """Refuses arrays that cannot index a table; for traced arrays it checks only shapes and types.

    Args:
      name: the algorithm, for the message.
      observations: expected (B, S).
      actions: expected (B,) integers.
      num_actions: A of the configuration.
      num_states: S of the table; None where the observations decide.
      one_hot: False for a function that is linear in the observations, which may be any.

    Raises:
      InputError: naming the array or field, what was found and what was expected.
    """
    if not jnp.issubdtype(actions.dtype, jnp.integer):
        raise InputError(
            f"{name}: batch.actions are {actions.dtype}, expected the int32 actions of a "
            "discrete space"
        )
    if actions.ndim != 1:
        raise InputError(f"{name}: batch.actions has shape {actions.shape}, expected (B,)")
    if num_actions < 1:
        raise InputError(f"{name}: needs num_actions, the number of discrete actions")
    if observations.ndim != 2 or num_states not in (None, observations.shape[1]):
        expected = "(B, S), one column a state" if num_states is None else f"(B, {num_states})"
        raise InputError(
            f"{name}: batch.observations has shape {observations.shape}, expected {expected}"
        )
    check_action_range(actions, num_actions, name)
    if one_hot:
        check_one_hot(observations, name)


def state_ids(observations: jax.Array) -> jax.Array:
    """The state of each observation: the place of its largest feature.

    Args:
      observations: (B, S), one-hot, see :func:`check_table_batch`.

    Returns:
      (B,) int32.
    """
    chex.assert_rank(observations, 2)
    return jnp.argmax(observations, axis=-1).astype(jnp.int32)


def pair_counts(
    states: jax.Array, actions: jax.Array, num_states: int, num_actions: int
) -> jax.Array:
    """How often each action was taken in each state.

    Args:
      states: (B,) integers.
      actions: (B,) integers.
      num_states: S.
      num_actions: A.

    Returns:
      (S, A) float32.
    """
    chex.assert_rank([states, actions], 1)
    chex.assert_equal_shape([states, actions])
    return jnp.zeros((num_states, num_actions), jnp.float32).at[states, actions].add(1.0)


def pair_means(
    states: jax.Array, actions: jax.Array, values: jax.Array, default: jax.Array
) -> jax.Array:
    """The mean of `values` over the rows of each pair.

    Args:
      states: (B,) integers.
      actions: (B,) integers.
      values: (B,) one number per row.
      default: (S, A) what a pair without rows gets.

    Returns:
      (S, A), in the precision of `default`.
    """
    chex.assert_rank([states, actions, values, default], [1, 1, 1, 2])
    chex.assert_equal_shape([states, actions, values])
    sums = jnp.zeros_like(default).at[states, actions].add(values.astype(default.dtype))
    counts = pair_counts(states, actions, *default.shape)
    return jnp.where(counts > 0.0, sums / jnp.maximum(counts, 1.0), default)


def empirical_policy(counts: jax.Array, pseudo_count: jax.Array | float = 0.0) -> jax.Array:
    """Maximum likelihood of the logged actions, with `pseudo_count` added to each count.

    Args:
      counts: (S, A) of :func:`pair_counts`.
      pseudo_count: scalar, at least 0; 1 is Laplace's rule.

    Returns:
      (S, A) probabilities, uniform in states without any count.
    """
    chex.assert_rank(counts, 2)
    counts = counts + pseudo_count
    totals = jnp.sum(counts, axis=-1, keepdims=True)
    return jnp.where(
        totals > 0.0, counts / jnp.where(totals > 0.0, totals, 1.0), 1.0 / counts.shape[-1]
    )


def greedy(action_values: jax.Array, observation: jax.Array) -> jax.Array:
    """The first of the best actions () of a table of values (S, A) at one observation (S,)."""
    chex.assert_rank([action_values, observation], [2, 1])
    return jnp.argmax(action_values[state_ids(observation[None])[0]]).astype(jnp.int32)


def choose(
    policy: jax.Array, observation: jax.Array, key: jax.Array, deterministic: bool
) -> jax.Array:
    """The likeliest action of a tabular policy at one observation, or a sample.

    Args:
      policy: (S, A) probabilities.
      observation: (S,).
      key: PRNG key of the sample.
      deterministic: take the first of the likeliest actions.

    Returns:
      () int32.
    """
    chex.assert_rank([policy, observation], [2, 1])
    probabilities = policy[state_ids(observation[None])[0]]
    if deterministic:
        return jnp.argmax(probabilities).astype(jnp.int32)
    return jax.random.categorical(key, jnp.log(probabilities)).astype(jnp.int32)
