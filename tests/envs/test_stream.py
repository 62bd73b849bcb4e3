"""Streams: what is recorded where an episode ends, and where it goes on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from corridor import Corridor

from ddm.envs import stream
from ddm.errors import InputError
from ddm.types import Box, Discrete

CORRIDOR = Corridor()
PARAMS = CORRIDOR.default_params


def count(observation, key, memory):
    """Steps of 1 by a walker who counts them."""
    del observation, key
    return jnp.ones(1), memory + 1


def slow(observation, key, memory):
    """Steps of a half: the time limit comes first."""
    del observation, key
    return jnp.full(1, 0.5), memory


def play(policy, steps, copies=2, memory=0):
    """All rows of a stream, (steps, copies, ...), and where it stands."""

    def step(now, key):
        return stream.advance(CORRIDOR, PARAMS, policy, now, key, memory)

    begin = stream.start(CORRIDOR, PARAMS, jax.random.key(0), copies, memory)
    return jax.jit(lambda: jax.lax.scan(step, begin, jax.random.split(jax.random.key(1), steps)))()


def test_a_task_that_ends_terminates_and_begins_anew():
    """The end's successor is the place that was reached, not the next start; memory begins anew."""
    after, rows = play(count, 6)
    np.testing.assert_array_equal(rows.observations[:, 0, 0], [0, 1, 2, 3, 0, 1])
    np.testing.assert_array_equal(rows.next_observations[:, 0, 0], [1, 2, 3, 4, 1, 2])
    np.testing.assert_array_equal(rows.terminations[:, 0], [0, 0, 0, 1, 0, 0])
    assert not np.any(rows.truncations)
    np.testing.assert_array_equal(after.policy_states, [2, 2])
    np.testing.assert_array_equal(after.last_returns, [10, 10])  # 1 + 2 + 3 + 4
    np.testing.assert_array_equal(after.returns, [3, 3])
    assert int(after.episodes) == 2


def test_a_time_limit_truncates_and_does_not_terminate():
    """Its value goes on: the bootstrap is stopped by terminations alone."""
    after, rows = play(slow, 6, copies=1)
    np.testing.assert_array_equal(rows.truncations[:, 0], [0, 0, 0, 0, 1, 0])
    assert not np.any(rows.terminations)
    np.testing.assert_allclose(rows.next_observations[:, 0, 0], [0.5, 1, 1.5, 2, 2.5, 0.5])
    assert int(after.episodes) == 1


def test_random_actions_fill_their_space():
    """Uniform in a box, and over the integers of a discrete space from its start."""
    keys = jax.random.split(jax.random.key(0), 2_000)
    box = Box((2,), (-1.0, 3.0), (1.0, 7.0))
    drawn = jax.vmap(lambda key: stream.random_action(box, key))(keys)
    np.testing.assert_allclose(drawn.mean(axis=0), [0.0, 5.0], atol=0.15)
    np.testing.assert_allclose(drawn.max(axis=0) - drawn.min(axis=0), [2.0, 4.0], atol=0.05)
    indices = jax.vmap(lambda key: stream.random_action(Discrete(3, start=2), key))(keys)
    np.testing.assert_array_equal(np.unique(indices), [2, 3, 4])


def test_what_cannot_run_is_refused():
    """No copies; actions without bounds."""
    with pytest.raises(InputError, match="0 copies"):
        stream.start(CORRIDOR, PARAMS, jax.random.key(0), 0)
    with pytest.raises(InputError, match="no bounds"):
        stream.random_action(Box((1,), (-float("inf"),), (1.0,)), jax.random.key(0))
