"""A point that must follow a sine wave: the smallest task where errors of cloning compound.

The expert reaches the wave again in one step from anywhere near it, but demonstrations without
noise never leave the wave, so they do not show how. A learner that is pushed off the wave has to
extrapolate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.envs import base
from ddm.types import Box, PRNGKey, Space

MAX_SPEED = 5.0  # largest action in each dimension: the expert corrects an offset of 0.4 in a step


@struct.dataclass
class EnvState(base.EnvState):
    """Where the point is."""

    position: jax.Array  # (2,) x and y


@struct.dataclass
class EnvParams(base.EnvParams):
    """Dynamics and task."""

    max_steps: int | jax.Array = 60  # almost one period
    dt: float = 0.1  # s
    noise: float = 0.0  # standard deviation of a push on each coordinate in each step
    tolerance: float = 0.1  # largest |y - sin x| at the end that is a success


@dataclasses.dataclass(frozen=True)
class SineTrack(base.Environment):
    """Observation (x, y), action its velocity: s' = s + dt a + noise.

    An episode begins on the wave at an x uniform in [0, dt). The reward is -|y - sin x| after the
    step; the wave's end is no goal, so the task never terminates. Success is judged at the time
    limit, and needs nine tenths of the way, because a point that stands still makes no error.
    `noise` is 0 where the task is demonstrated and 0.02 where policies are tested.
    """

    name: str = "SineTrack-v0"
    noise: float = 0.0  # of the default parameters

    @property
    def default_params(self) -> EnvParams:
        """60 steps of 0.1 s."""
        return EnvParams(noise=self.noise)

    def reset(self, key: PRNGKey, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """A point on the wave."""
        x = jax.random.uniform(key, (), jnp.float32) * params.dt
        position = jnp.stack([x, jnp.sin(x)])
        return position, self.state_at(position)

    def step(
        self, key: PRNGKey, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, base.Info]:
        """Moves the point and pushes it."""
        push = params.noise * jax.random.normal(key, (2,), jnp.float32)
        action = jnp.clip(action, -MAX_SPEED, MAX_SPEED)
        position = successor(state.position, action, params) + push
        error = off_track(position)
        time = state.time + 1
        terminated = jnp.zeros((), bool)
        truncated = base.is_truncated(time, terminated, params)
        arrived = position[0] >= 0.9 * params.dt * params.max_steps
        info = {"success": truncated & arrived & (error <= params.tolerance)}
        return position, EnvState(time, position), -error, terminated, truncated, info

    def state_at(self, observation: jax.Array) -> EnvState:
        """The state at time 0 whose observation is `observation` (2,)."""
        return EnvState(time=jnp.zeros((), jnp.int32), position=observation)

    def observation_space(self, params: EnvParams) -> Box:
        """The plane."""
        del params
        return Box(shape=(2,), low=(-np.inf,) * 2, high=(np.inf,) * 2)

    def action_space(self, params: EnvParams) -> Space:
        """Velocities, 1 / s."""
        del params
        return Box(shape=(2,), low=(-MAX_SPEED,) * 2, high=(MAX_SPEED,) * 2)


def successor(observations: jax.Array, actions: jax.Array, params: EnvParams) -> jax.Array:
    """Next observations (..., 2) without noise, for actions (..., 2) in the box."""
    return observations + params.dt * actions


def expert_action(observations: jax.Array, params: EnvParams | None = None) -> jax.Array:
    """Actions (..., 2) of the expert: to the wave at x + dt in one step, clipped to the box.

    a = ((x + dt, sin(x + dt)) - s) / dt
    """
    params = EnvParams() if params is None else params
    ahead = observations[..., 0] + params.dt
    targets = jnp.stack([ahead, jnp.sin(ahead)], axis=-1)
    return jnp.clip((targets - observations) / params.dt, -MAX_SPEED, MAX_SPEED)


def off_track(observations: jax.Array) -> jax.Array:
    """|y - sin x| (...,), the vertical distance of observations (..., 2) from the wave."""
    return jnp.abs(observations[..., 1] - jnp.sin(observations[..., 0]))


def final_errors(episodes: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """|y - sin x| (N,) at the end of each episode, as `ddm.envs.collect` returns them."""
    ends = np.stack([episode["observations"][-1] for episode in episodes])
    return np.abs(ends[:, 1] - np.sin(ends[:, 0]))
