from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs
from ddm.envs.particle import Expert, Particle
from ddm.errors import InputError

KEY = jax.random.key(0)


def _demonstrate(expert, episodes=100, **changes):
    params = expert.environment.default_params.replace(**changes)
    return envs.collect(
        expert.environment, expert, KEY, num_episodes=episodes, params=params,
        initial_policy_state=expert.start,
    )  # fmt: skip


def test_a_control_step_is_ten_sub_steps_of_the_old_values():
    environment = Particle()
    params = environment.default_params
    _, state = environment.reset(KEY, params)
    state = dataclasses.replace(
        state, position=jnp.array([0.2, 0.9]), velocity=jnp.array([1.0, -0.5])
    )
    action = np.array([0.7, 0.1])
    observation, *_ = jax.jit(environment.step)(KEY, state, jnp.asarray(action), params)
    x, v = np.array([0.2, 0.9]), np.array([1.0, -0.5])
    for _ in range(10):
        u = 10.0 * (action - x) - 5.0 * v
        x, v = x + 0.005 * v, v + 0.005 * u
    np.testing.assert_allclose(observation[:4], [*x, *v], rtol=1e-5)
    np.testing.assert_array_equal(observation[4:], state.goals.ravel())


@pytest.mark.parametrize(
    ("visited", "any_order", "success"),
    [([0, 1], False, True), ([1, 0], False, False), ([1, 0], True, True), ([1, 1], True, False)],
)
def test_success_needs_both_goals_and_the_right_end(visited, any_order, success):
    environment = Particle(any_order=any_order)
    params = environment.default_params
    _, state = environment.reset(jax.random.key(3), params)
    assert np.linalg.norm(state.goals[0] - state.goals[1]) > 0.1
    assert np.linalg.norm(state.position - state.goals, axis=1).min() > 0.1
    set_points = state.goals[np.repeat(visited, 25)]

    def step(state, action):
        _, state, reward, terminated, truncated, info = environment.step(KEY, state, action, params)
        return state, (reward, terminated, truncated, info["success"])

    _, (rewards, terminated, truncated, successes) = jax.lax.scan(step, state, set_points)
    assert (rewards[-1], successes[-1]) == (success, success)
    assert rewards[:-1].sum() == 0
    np.testing.assert_array_equal(terminated, np.arange(50) == 49)
    assert not truncated.any()


@pytest.mark.parametrize("dimensions", [2, 16])
def test_the_expert_always_succeeds(dimensions):
    episodes = _demonstrate(Expert(Particle(num_dimensions=dimensions)))
    assert all(episode["rewards"][-1] == 1 for episode in episodes)
    assert all(len(episode["rewards"]) == 50 for episode in episodes)
    assert episodes[0]["observations"].shape == (51, 4 * dimensions)


def test_the_expert_waits_as_long_as_it_is_told():
    environment = Particle()
    for wait in (1, 5):
        for episode in _demonstrate(Expert(environment, wait=wait), 30, max_steps=80):
            position, goals = environment.split(episode["observations"][:-1])
            near = np.linalg.norm(position - goals[:, 0], axis=1) < 0.01
            at_first = (episode["actions"] == goals[:, 0]).all(axis=1)
            # The step in which it is near for the last time already heads for the second goal.
            assert (near & at_first).sum() == wait - 1
            assert episode["rewards"][-1] == 1


def test_a_random_order_visits_either_goal_first():
    environment = Particle(any_order=True, hide_velocity=True)
    episodes = _demonstrate(Expert(environment, random_order=True))
    assert all(episode["rewards"][-1] == 1 for episode in episodes)
    assert episodes[0]["observations"].shape == (51, 6)
    goals = environment.split(np.stack([episode["observations"][0] for episode in episodes]))[1]
    first = np.stack([episode["actions"][0] for episode in episodes])
    swapped = (first == goals[:, 1]).all(axis=1)
    assert (swapped | (first == goals[:, 0]).all(axis=1)).all()
    assert swapped.mean() == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"wait": 0}, "wait is 0, expected at least 1"), ({"random_order": True}, "any_order=True")],
)
def test_wrong_experts_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Expert(Particle(), **options)
