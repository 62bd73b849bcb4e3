"""A point in a box whose cost is its distance to a goal: the smallest task where offline RL fails.

In eight dimensions a narrow log covers almost none of the actions, and a critic's values of other
actions are arbitrary. In two dimensions there would be no problem. The reward is never above 0, so
an estimated value above 0 is certainly wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from ddm.envs import base
from ddm.types import Box, PRNGKey

# The demonstrators: their gain (1: full speed at a distance of 0.5) and the noise on actions.
BEHAVIORS = {"expert": (1.0, 0.02), "medium": (0.3, 0.3)}


@struct.dataclass
class EnvState(base.EnvState):
    """Where the point is."""

    position: jax.Array  # (N,)


@struct.dataclass
class EnvParams(base.EnvParams):
    """Dynamics and task."""

    max_steps: int | jax.Array = 50
    goal: float = 0.5  # every coordinate of the goal
    speed: float = 0.1  # distance that an action of 1 moves its coordinate in a step


@dataclasses.dataclass(frozen=True)
class PointMass(base.Environment):
    """Observation and action (N,), both in [-1, 1]; starts are uniform in the box."""

    num_dimensions: int = 8
    name: str = "PointMass-8-v0"

    @property
    def default_params(self) -> EnvParams:
        """50 steps."""
        return EnvParams()

    def reset(self, key: PRNGKey, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """A point anywhere in the box."""
        del params
        position = jax.random.uniform(key, (self.num_dimensions,), jnp.float32, -1.0, 1.0)
        return position, self.state_at(position)

    def step(
        self, key: PRNGKey, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, base.Info]:
        """Moves the point and stops it at the walls; it never terminates."""
        del key
        moved = state.position + params.speed * jnp.clip(action, -1.0, 1.0)
        position = jnp.clip(moved, -1.0, 1.0)
        reward = -jnp.linalg.norm(position - params.goal)
        time = state.time + 1
        terminated = jnp.zeros((), bool)
        truncated = base.is_truncated(time, terminated, params)
        return position, EnvState(time, position), reward, terminated, truncated, {}

    def state_at(self, observation: jax.Array) -> EnvState:
        """The state at time 0 whose observation is `observation` (N,)."""
        return EnvState(time=jnp.zeros((), jnp.int32), position=observation)

    def observation_space(self, params: EnvParams) -> Box:
        """The box."""
        del params
        size = self.num_dimensions
        return Box(shape=(size,), low=(-1.0,) * size, high=(1.0,) * size)

    def action_space(self, params: EnvParams) -> Box:
        """One coordinate each."""
        return self.observation_space(params)


def behavior_policy(
    name: str, params: EnvParams
) -> Callable[[jax.Array, PRNGKey, object], tuple[jax.Array, object]]:
    """One of `BEHAVIORS`, for `ddm.envs.collect`.

    "expert" is almost optimal and narrow, "medium" slow and noisy.
    """
    gain, noise = BEHAVIORS[name]

    def policy(
        observation: jax.Array, key: PRNGKey, policy_state: object = ()
    ) -> tuple[jax.Array, object]:
        aim = gain * jnp.clip(2.0 * (params.goal - observation), -1.0, 1.0)
        action = aim + noise * jax.random.normal(key, observation.shape, jnp.float32)
        return jnp.clip(action, -1.0, 1.0), policy_state

    return policy
