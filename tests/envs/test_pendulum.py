from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs
from ddm.envs import pendulum


def test_one_step_by_hand():
    environment = envs.Pendulum()
    state = pendulum.EnvState(time=0, theta=jnp.pi / 2, theta_dot=jnp.float32(1.0))
    observation, state, reward, terminated, truncated, _ = environment.step(
        jax.random.key(0), state, jnp.array([5.0]), environment.default_params
    )
    # The torque is clipped to 2: acceleration 15 sin(pi / 2) + 3 * 2 = 21, times 0.05 s.
    np.testing.assert_allclose(state.theta_dot, 2.05, rtol=1e-6)
    np.testing.assert_allclose(state.theta, np.pi / 2 + 2.05 * 0.05, rtol=1e-6)
    np.testing.assert_allclose(observation[2], 2.05, rtol=1e-6)
    np.testing.assert_allclose(reward, -((np.pi / 2) ** 2 + 0.1 + 0.004), rtol=1e-6)
    assert not terminated
    assert not truncated


def test_agrees_with_gymnasium_step_by_step():
    gymnasium = pytest.importorskip("gymnasium")
    reference = gymnasium.make("Pendulum-v1").unwrapped
    environment = envs.make("Pendulum-v1")
    params = environment.default_params
    step = jax.jit(environment.step)
    generator = np.random.default_rng(0)
    reference.reset(seed=0)
    for time in range(200):
        action = generator.uniform(-2.5, 2.5, 1).astype(np.float32)
        theta, theta_dot = np.float32(reference.state)
        state = pendulum.EnvState(time=jnp.int32(time), theta=theta, theta_dot=theta_dot)
        expected, reward, terminated, _, _ = reference.step(action)
        found = step(jax.random.key(0), state, action, params)
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[2], reward, rtol=0, atol=1e-5)
        assert bool(found[3]) is terminated is False
        assert bool(found[4]) is (time == 199)


def test_spaces_are_those_of_gymnasium():
    gymnasium = pytest.importorskip("gymnasium")
    from ddm.envs.gym import GymnasiumFace

    reference, face = gymnasium.make("Pendulum-v1"), GymnasiumFace("Pendulum-v1")
    assert face.observation_space == reference.observation_space
    assert face.action_space == reference.action_space
