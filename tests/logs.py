"""Logs of finite MDPs with known answers, for the tabular algorithms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm.types import Batch


def exact_log(mdp: Any, counts: Any) -> Batch:
    """`counts` (S, A) rows of each pair, whose next states have exactly the right shares."""
    shares = np.asarray(counts)[..., None] * np.asarray(mdp.transitions, np.float64)
    rows = np.rint(shares).astype(int)
    np.testing.assert_allclose(rows, shares, atol=1e-5)
    index = np.repeat(np.argwhere(rows > 0), rows[rows > 0], axis=0)
    rewards = np.broadcast_to(np.asarray(mdp.rewards), rows.shape)[tuple(index.T)]
    return transitions(mdp, *index.T, rewards)


def transitions(mdp: Any, states: Any, actions: Any, next_states: Any, rewards: Any) -> Batch:
    """A batch of one-hot observations from indices (B,) of states and actions."""
    eye = jnp.eye(mdp.num_states)
    return Batch(
        observations=eye[jnp.asarray(states)],
        actions=jnp.asarray(actions, jnp.int32),
        rewards=jnp.asarray(rewards, jnp.float32),
        next_observations=eye[jnp.asarray(next_states)],
        terminations=mdp.terminal[jnp.asarray(next_states)],
    )


def sampled_log(mdp: Any, policy: jax.Array, key: jax.Array, rows: int) -> Batch:
    """Independent transitions from uniformly drawn states that are not terminal; may be vmapped."""
    state_key, action_key, next_key = jax.random.split(key, 3)
    alive = jnp.where(mdp.terminal, -jnp.inf, 0.0)
    states = jax.random.categorical(state_key, alive, shape=(rows,))
    actions = jax.random.categorical(action_key, jnp.log(policy[states]))
    next_keys = jax.random.split(next_key, rows)
    next_states, rewards = jax.vmap(mdp.sample)(next_keys, states, actions)
    return transitions(mdp, states, actions, next_states, rewards)


def sweep(algorithm: Any, config: Any, batch: Batch, updates: int) -> Any:
    """The state after `updates` updates, each on all rows; may be vmapped."""
    fields = algorithm.batch_spec(config).fields
    batch = Batch(**{name: getattr(batch, name) for name in fields})
    state = algorithm.init(config, jax.random.key(0), batch)
    return jax.lax.scan(
        lambda state, _: (algorithm.update(config, state, batch)[0], None),
        state,
        length=updates,
    )[0]


def anneal(
    algorithm: Any,
    config: Any,
    batch: Batch,
    updates: int,
    rates: tuple[float, float],
    names: tuple[str, ...] = ("learning_rate",),
) -> Any:
    """`sweep` while the named rates fall from one to another: Adam comes to rest."""
    fields = algorithm.batch_spec(config).fields
    batch = Batch(**{name: getattr(batch, name) for name in fields})
    state = algorithm.init(config, jax.random.key(0), batch)
    return jax.lax.scan(
        lambda state, rate: (
            algorithm.update(config.replace(**dict.fromkeys(names, rate)), state, batch)[0],
            None,
        ),
        state,
        jnp.geomspace(*rates, updates),
    )[0]


def with_next_actions(batch: Batch, counts: Any) -> Batch:
    """Each row of an exact log once for every row of its next state, with the action of that.

    All states have equally many rows in `counts` (S, A), but for terminal ones, which have none and
    whose action is 0.
    """
    counts = np.array(counts)
    rows = int(counts.sum(axis=1).max())
    counts[counts.sum(axis=1) == 0, 0] = rows
    np.testing.assert_array_equal(counts.sum(axis=1), rows)
    actions = np.stack([np.repeat(np.arange(counts.shape[1]), row) for row in counts])
    next_actions = actions[np.asarray(batch.next_observations).argmax(axis=1)]
    batch = jax.tree.map(lambda leaf: jnp.repeat(leaf, rows, axis=0), batch)
    return batch.replace(next_actions=jnp.asarray(next_actions.ravel(), jnp.int32))


def line_counts(length: int) -> np.ndarray:
    """(S, A) rows of the line world's behaviour: ten a state, nine of them to the left.

    Left of the start all ten are to the left. The goal, which is terminal, has none.
    """
    positions = np.arange(-5, length + 1)
    counts = np.where(positions[:, None] < 0, [[10, 0]], [[9, 1]])
    counts[-1] = 0
    return counts
