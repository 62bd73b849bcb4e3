"""The sine track: a step by hand, the expert's law, and the spread of an open loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs
from ddm.envs import sine_track

ENVIRONMENT = envs.SineTrack()
PARAMS = ENVIRONMENT.default_params


def expert(observation, key, policy_state=()):
    return sine_track.expert_action(observation, PARAMS), policy_state


def open_loop(observation, key, policy_state):
    """The velocity of the wave at a time that the policy counts; it never looks where it is."""
    velocity = jnp.stack([1.0, (jnp.sin(policy_state + 0.1) - jnp.sin(policy_state)) / 0.1])
    return velocity, policy_state + 0.1


def test_a_step_by_hand():
    state = ENVIRONMENT.state_at(jnp.array([1.0, 2.0]))
    observation, state, reward, terminated, truncated, info = ENVIRONMENT.step(
        jax.random.key(0), state, jnp.array([-3.0, 7.0]), PARAMS
    )
    # An action beyond its box counts as 5.
    np.testing.assert_allclose(observation, [0.7, 2.5], rtol=1e-6)
    assert reward == pytest.approx(-(2.5 - np.sin(0.7)), rel=1e-6)
    assert (state.time, bool(terminated), bool(truncated)) == (1, False, False)
    assert not info["success"]


def test_the_expert_is_on_the_wave_after_one_step():
    observations = jnp.array([[1.0, np.sin(1.0) + 0.3], [2.0, np.sin(2.0) - 0.2]])
    actions = sine_track.expert_action(observations, PARAMS)
    by_hand = np.array([[1.0, (np.sin(1.1) - np.sin(1.0) - 0.3) / 0.1],
                        [1.0, (np.sin(2.1) - np.sin(2.0) + 0.2) / 0.1]])  # fmt: skip
    np.testing.assert_allclose(actions, by_hand, rtol=1e-5)
    successors = sine_track.successor(observations, actions, PARAMS)
    np.testing.assert_allclose(sine_track.off_track(successors), 0.0, atol=1e-6)
    far = sine_track.expert_action(jnp.array([0.0, 9.0]), PARAMS)
    np.testing.assert_allclose(far, [1.0, -5.0])  # as fast as the box allows


def test_demonstrations_stay_on_the_wave_for_60_steps():
    episodes = envs.collect(ENVIRONMENT, expert, jax.random.key(0), num_episodes=5)
    assert {len(episode["rewards"]) for episode in episodes} == {60}
    for episode in episodes:
        x, y = episode["observations"].T
        np.testing.assert_allclose(y, np.sin(x), atol=1e-5)
        assert 0.0 <= x[0] < 0.1
        assert x[-1] - x[0] == pytest.approx(6.0, rel=1e-5)
        error = sine_track.final_errors([episode])[0]
        np.testing.assert_allclose(episode["rewards"][-1], -error, atol=1e-6)
    assert len({episode["observations"][0, 0] for episode in episodes}) == 5


def spread(policy, **params):
    episodes = envs.collect(
        ENVIRONMENT,
        policy,
        jax.random.key(1),
        num_episodes=512,
        params=dataclasses.replace(PARAMS, **params),
        initial_policy_state=lambda key: jnp.zeros(()),
    )
    return sine_track.final_errors(episodes)


def test_the_expert_keeps_one_push_and_an_open_loop_adds_them_up():
    # |y - sin x| of one push: y and, through the slope of the wave there, x.
    closed = spread(expert, noise=0.02)
    slope = np.hypot(1.0, np.cos(6.05))
    assert closed.mean() == pytest.approx(0.02 * slope * np.sqrt(2 / np.pi), rel=0.1)
    # A random walk of 60 steps.
    walk = spread(open_loop, noise=0.02)
    assert walk.mean() == pytest.approx(0.02 * np.sqrt(60) * slope * np.sqrt(2 / np.pi), rel=0.15)


def test_success_is_judged_at_the_end():
    params = dataclasses.replace(PARAMS, max_steps=1)
    for place, expected in (([0.1, 0.15], True), ([0.1, 0.3], False), ([0.0, 0.0], False)):
        state = ENVIRONMENT.state_at(jnp.array(place))
        _, _, _, _, truncated, info = ENVIRONMENT.step(
            jax.random.key(0), state, jnp.zeros(2), params
        )
        assert bool(truncated)
        assert bool(info["success"]) is expected


def test_the_noise_of_an_environment_is_that_of_its_parameters():
    assert envs.SineTrack(noise=0.02).default_params.noise == 0.02
    assert PARAMS.noise == 0.0
