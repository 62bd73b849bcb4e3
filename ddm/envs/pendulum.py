"""Swing a pendulum up and hold it: the dynamics of gymnasium's Pendulum-v1, step for step."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.envs import base
from ddm.types import Box, PRNGKey, Space


@struct.dataclass
class EnvState(base.EnvState):
    """Angle and angular velocity."""

    theta: jax.Array  # rad; 0 is upright, not wrapped
    theta_dot: jax.Array  # rad/s


@struct.dataclass
class EnvParams(base.EnvParams):
    """Gymnasium's constants."""

    max_steps: int | jax.Array = 200  # steps
    max_speed: float = 8.0  # rad/s
    max_torque: float = 2.0  # N m
    dt: float = 0.05  # s
    gravity: float = 10.0  # m/s^2
    mass: float = 1.0  # kg
    length: float = 1.0  # m


@dataclasses.dataclass(frozen=True)
class Pendulum(base.Environment):
    """Observation (cos theta, sin theta, theta_dot), action the torque; never terminates."""

    name: str = "Pendulum-v1"

    @property
    def default_params(self) -> EnvParams:
        """Gymnasium's constants."""
        return EnvParams()

    def reset(self, key: PRNGKey, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """Angle uniform in +-pi, angular velocity uniform in +-1."""
        del params
        high = jnp.array([jnp.pi, 1.0], jnp.float32)
        theta, theta_dot = jax.random.uniform(key, (2,), jnp.float32, -high, high)
        state = EnvState(time=jnp.zeros((), jnp.int32), theta=theta, theta_dot=theta_dot)
        return _observe(state), state

    def step(
        self, key: PRNGKey, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, base.Info]:
        """Semi-implicit Euler; the reward is minus a cost of the state before the step."""
        del key
        torque = jnp.clip(action[0], -params.max_torque, params.max_torque)
        angle = jnp.mod(state.theta + jnp.pi, 2 * jnp.pi) - jnp.pi
        cost = angle**2 + 0.1 * state.theta_dot**2 + 0.001 * torque**2
        pull = 3 * params.gravity / (2 * params.length) * jnp.sin(state.theta)
        push = 3 / (params.mass * params.length**2) * torque
        theta_dot = state.theta_dot + (pull + push) * params.dt
        theta_dot = jnp.clip(theta_dot, -params.max_speed, params.max_speed)
        theta = state.theta + theta_dot * params.dt
        state = dataclasses.replace(state, time=state.time + 1, theta=theta, theta_dot=theta_dot)
        terminated = jnp.zeros((), bool)
        truncated = base.is_truncated(state.time, terminated, params)
        return _observe(state), state, -cost, terminated, truncated, {}

    def observation_space(self, params: EnvParams) -> Box:
        """The unit circle and the speed limit."""
        speed = float(np.asarray(params.max_speed))
        return Box(shape=(3,), low=(-1.0, -1.0, -speed), high=(1.0, 1.0, speed))

    def action_space(self, params: EnvParams) -> Space:
        """Torque, N m."""
        torque = float(np.asarray(params.max_torque))
        return Box(shape=(1,), low=(-torque,), high=(torque,))


def _observe(state: EnvState) -> jax.Array:
    """(3,) observation."""
    return jnp.stack([jnp.cos(state.theta), jnp.sin(state.theta), state.theta_dot])
