from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs
from ddm.envs import memory

KEY = jax.random.key(0)


def _play(environment, actions):
    """Records (observation before, reward, terminated, success) of each step."""
    step, params = jax.jit(environment.step), environment.default_params
    observation, state = environment.reset(KEY, params)
    records = []
    for action in actions:
        before = np.asarray(observation)
        observation, state, reward, terminated, truncated, info = step(KEY, state, action, params)
        assert not truncated
        success = bool(info.get("success", False))
        records.append((before, float(reward), bool(terminated), success))
    return records


def _demonstrate(environment, episodes, **changes):
    params = environment.default_params.replace(**changes)
    return envs.collect(
        environment, environment.expert, KEY, num_episodes=episodes, params=params,
        initial_policy_state=environment.expert_memory,
    )  # fmt: skip


def test_alternation_by_hand():
    environment = memory.Alternator(num_moves=4)
    records = _play(environment, jnp.array([1, 0, 0, 1]))
    assert [record[1] for record in records] == pytest.approx([0, 1 / 3, 0, 1 / 3])
    assert [record[2] for record in records] == [False, False, False, True]
    assert not records[-1][3]
    assert [record[3] for record in _play(environment, jnp.array([1, 0, 1, 0]))] == [0, 0, 0, 1]


def test_the_alternating_expert_starts_with_either_move():
    episodes = _demonstrate(memory.Alternator(), 200)
    actions = np.stack([episode["actions"] for episode in episodes])
    assert (np.abs(np.diff(actions, axis=1)) == 1).all()
    assert actions[:, 0].mean() == pytest.approx(0.5, abs=0.1)
    assert all(episode["rewards"].sum() == pytest.approx(1.0) for episode in episodes)


def test_the_cue_is_shown_once_and_decides_the_turn():
    environment = memory.TMaze(corridor=3)
    records = _play(environment, jnp.array([0, 0, 0, memory.RIGHT]))
    observations = np.array([record[0] for record in records])
    cue = observations[0, 0]
    assert abs(cue) == 1
    np.testing.assert_array_equal(observations[1:, 0], 0.0)
    np.testing.assert_array_equal(observations[:, 1], [0, 0, 0, 1])
    assert [record[2] for record in records] == [False, False, False, True]
    assert records[-1][1] == records[-1][3] == (cue > 0)
    assert all(episode["rewards"][-1] == 1 for episode in _demonstrate(environment, 50))


def test_turning_early_does_not_help():
    records = _play(memory.TMaze(corridor=2), jnp.array([memory.LEFT, memory.RIGHT, 0]))
    assert [record[1] for record in records] == [0, 0, 0]


def test_brake_and_its_expert():
    environment = memory.Brake()
    episodes = _demonstrate(environment, 100, contrast=0.5)
    lights = np.stack([episode["observations"][:, 0] for episode in episodes])
    speeds = np.stack([episode["observations"][:, 1] for episode in episodes])
    actions = np.stack([episode["actions"] for episode in episodes])
    assert set(np.unique(lights)) == {-0.5, 0.5}
    np.testing.assert_array_equal(actions, lights[:, :-1] > 0)
    steps = np.where(actions == 1, 0.1, -0.1)
    np.testing.assert_allclose(speeds[:, 1:], np.clip(speeds[:, :-1] + steps, 0, 1), atol=1e-6)
    # The light changes in 2 % of 10,000 steps; the standard error is 0.14 %.
    assert (np.diff(lights) != 0).mean() == pytest.approx(0.02, abs=0.006)
    assert all(episode["rewards"].sum() == pytest.approx(1.0) for episode in episodes)
