from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from ddm import envs
from ddm.errors import InputError

collect_module = sys.modules["ddm.envs.collect"]  # the package's `collect` is the function

MAZE = envs.make("PointMaze-UMaze-v0")
PARAMS = MAZE.default_params.replace(max_steps=30)
EXPERT = envs.waypoint_policy(MAZE, PARAMS)


def test_episodes_are_whole_and_consistent():
    episodes = envs.collect(MAZE, EXPERT, jax.random.key(0), num_episodes=8, params=PARAMS)
    assert len(episodes) == 8
    for episode in episodes:
        steps = len(episode["rewards"])
        assert episode["observations"].shape == (steps + 1, 6)
        assert episode["actions"].shape == (steps, 2)
        assert episode["rewards"].dtype == np.float32
        assert episode["terminations"].dtype == episode["truncations"].dtype == bool
        ends = episode["terminations"] | episode["truncations"]
        assert ends[-1]
        assert not ends[:-1].any()
        # The expert arrives within 30 steps; the reward comes with the end, and only then.
        assert episode["terminations"][-1]
        assert episode["rewards"].sum() == 1.0
        # Observations follow each other: the position changes by the velocity that comes next.
        positions, velocities = episode["observations"][:, :2], episode["observations"][:, 2:4]
        moved = np.diff(positions, axis=0)
        free = (velocities[1:] != 0).all(axis=1)  # no wall was hit
        np.testing.assert_allclose(moved[free], velocities[1:][free], atol=1e-5)


def test_actions_stand_between_the_observation_they_were_taken_at_and_the_next():
    point = envs.PointMass(num_dimensions=2)
    policy = lambda observation, key, state: (-0.5 * observation, state)  # noqa: E731
    params = point.default_params.replace(max_steps=3)
    [episode] = envs.collect(point, policy, jax.random.key(0), num_episodes=1, params=params)
    observations = episode["observations"]
    np.testing.assert_allclose(episode["actions"], -0.5 * observations[:-1], rtol=1e-6)
    np.testing.assert_allclose(observations[1:], 0.95 * observations[:-1], rtol=1e-5)
    distances = np.linalg.norm(observations[1:] - 0.5, axis=1)
    np.testing.assert_allclose(episode["rewards"], -distances, rtol=1e-5)
    np.testing.assert_array_equal(episode["truncations"], [False, False, True])
    assert not episode["terminations"].any()


def test_same_key_same_episodes():
    first, again, other = (
        envs.collect(MAZE, EXPERT, jax.random.key(seed), num_episodes=8, params=PARAMS)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first[1]["observations"], again[1]["observations"])
    assert not np.array_equal(first[0]["observations"][0], first[1]["observations"][0])
    assert not np.array_equal(first[0]["observations"][0], other[0]["observations"][0])


def test_num_steps_is_exact_and_cuts_as_truncation(monkeypatch):
    monkeypatch.setattr(collect_module, "_PARALLEL", 8)
    episodes = envs.collect(MAZE, EXPERT, jax.random.key(0), num_steps=250, params=PARAMS)
    lengths = [len(episode["rewards"]) for episode in episodes]
    assert sum(lengths) == 250
    assert len(lengths) > 8
    assert len(episodes[-1]["observations"]) == lengths[-1] + 1
    assert episodes[-1]["truncations"][-1]
    assert not episodes[-1]["terminations"].any()
    assert all(episode["terminations"][-1] for episode in episodes[:-1])


def _count(observation, key, steps):
    return jnp.zeros(2) + steps / 10.0, steps + 1


def _zero(key):
    return jnp.zeros((), jnp.int32)


@pytest.mark.parametrize("stop_after", [4, None])
def test_policy_state_is_carried_and_stop_and_time_limit_truncate(stop_after):
    stop = None if stop_after is None else lambda observation, steps: steps == stop_after
    (episode,) = envs.collect(
        MAZE, _count, jax.random.key(0), num_episodes=1, params=PARAMS.replace(max_steps=5),
        initial_policy_state=_zero, stop=stop,
    )  # fmt: skip
    steps = stop_after or 5
    np.testing.assert_allclose(episode["actions"][:, 0], np.arange(steps) / 10.0, rtol=1e-6)
    np.testing.assert_array_equal(episode["truncations"], np.arange(1, steps + 1) == steps)
    assert not episode["terminations"].any()


def test_discrete_actions_are_integers():
    maze, params = envs.make("PointMaze-UMaze-Discrete-v0"), PARAMS.replace(max_steps=5)
    policy = envs.waypoint_policy(maze, params)
    (episode,) = envs.collect(maze, policy, jax.random.key(0), num_episodes=1, params=params)
    assert episode["actions"].dtype == np.int32
    assert episode["actions"].ndim == 1


@struct.dataclass
class Walker:
    """A policy that is a pytree and has a memory."""

    speed: jax.Array

    def initial_state(self):
        return jnp.zeros((), jnp.int32)

    def __call__(self, observation, key, steps):
        return jnp.stack([self.speed, steps / 10.0]), steps + 1


def test_policy_may_be_a_pytree_with_its_own_initial_state():
    params = PARAMS.replace(max_steps=3)
    compiled = collect_module._simulate._cache_size()
    for speed in (0.25, 0.5):
        (episode,) = envs.collect(
            MAZE, Walker(jnp.float32(speed)), jax.random.key(0), num_episodes=1, params=params
        )
        np.testing.assert_allclose(episode["actions"], [[speed, 0.0], [speed, 0.1], [speed, 0.2]])
    assert collect_module._simulate._cache_size() == compiled + 1


@pytest.mark.parametrize("arguments", [{}, {"num_episodes": 1, "num_steps": 1}])
def test_needs_one_of_episodes_and_steps(arguments):
    with pytest.raises(InputError, match="num_episodes"):
        envs.collect(MAZE, EXPERT, jax.random.key(0), **arguments)
