"""Absorbing states: an episode that ends goes on for ever in a state of its own.

A learned reward has an arbitrary level. Where values stop at a termination, a reward above 0 pays
for staying alive and one below 0 for ending early, whatever the demonstrator did. So each
termination leads to an absorbing state, whose value is learned like any other (Kostrikov et al.
2019, arXiv 1809.02925, "DAC"):

    (s, a, end)      becomes  ([s, 0], a, [0, 1])          and values go on
    and with it come `copies` ([0, 1], 0, [0, 1])          absorbing transitions

An observation has one more column: 1 in the absorbing state, whose other columns are 0. Episodes
that were only cut off (truncations) stay as they are.

These are functions of batches, so that logs and buffers stay as they are. A batch keeps its number
of rows: with T terminations among B rows, a share copies T / (B + copies T) of the rows, drawn at
random, become absorbing transitions. That is the share that they have in a log to which they are
added.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from ddm.types import Batch, PRNGKey


def observe(observations: jax.Array, absorbing: jax.Array | float = 0.0) -> jax.Array:
    """Observations (..., O) with the indicator, (..., O + 1).

    Args:
      observations: vectors.
      absorbing: (...,) 1 where the state is the absorbing one, else 0.
    """
    shape = observations.shape[:-1]
    indicator = jnp.broadcast_to(jnp.asarray(absorbing, observations.dtype), shape)[..., None]
    return jnp.concatenate([observations * (1 - indicator), indicator], axis=-1)


def extend(
    batch: Batch,
    key: PRNGKey,
    copies: jax.Array | float = 1.0,
    *,
    num_actions: int = 0,
    random_actions: bool = False,
) -> Batch:
    """A batch in which terminations lead to the absorbing state, and that holds its transitions.

    Args:
      batch: B transitions: observations (B, O), actions, next observations and terminations;
        rewards, if it has them, are 0 in the absorbing state.
      key: decides which rows become absorbing transitions.
      copies: absorbing transitions that each termination brings.
      num_actions: number of discrete actions; 0: real vectors.
      random_actions: actions in the absorbing state are uniform ones; else they are 0.

    Returns:
      B transitions with observations (B, O + 1), none of which is a termination.
    """
    chex.assert_rank([batch.observations, batch.next_observations], 2)
    choice_key, action_key = jax.random.split(key)
    rows = len(batch.observations)
    ends = batch.terminations.astype(jnp.float32)
    added = copies * jnp.sum(ends)
    absorbing = jax.random.bernoulli(choice_key, added / (rows + added), (rows,))
    indicator = absorbing.astype(jnp.float32)
    idle = jnp.zeros_like(batch.actions)
    if random_actions and num_actions:
        idle = jax.random.randint(action_key, idle.shape, 0, num_actions, idle.dtype)
    elif random_actions:
        idle = jax.random.uniform(action_key, idle.shape, idle.dtype, -1.0, 1.0)
    chosen = absorbing.reshape(-1, *[1] * (idle.ndim - 1))
    rewards = batch.rewards
    return batch.replace(
        observations=observe(batch.observations, indicator),
        actions=jnp.where(chosen, idle, batch.actions),
        rewards=None if rewards is None else jnp.where(absorbing, 0.0, rewards),
        next_observations=observe(batch.next_observations, jnp.maximum(indicator, ends)),
        terminations=jnp.zeros_like(batch.terminations),
    )
