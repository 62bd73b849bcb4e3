"""A corridor that a test can count by hand."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import envs
from ddm.envs import base
from ddm.types import Box


@struct.dataclass
class State(base.EnvState):
    """How far the walker has come."""

    place: jax.Array  # ()


@dataclasses.dataclass(frozen=True)
class Corridor(envs.Environment):
    """Starts at 0, moves by the action in [0, 2], pays the new place; beyond 3.5 the task ends."""

    name: str = "Corridor"

    @property
    def default_params(self) -> base.EnvParams:
        """Cut after 5 steps."""
        return base.EnvParams(max_steps=5)

    def reset(self, key: Any, params: Any) -> tuple[jax.Array, State]:
        """The same start always."""
        del key, params
        return jnp.zeros(1), State(jnp.zeros((), jnp.int32), jnp.zeros(()))

    def step(self, key: Any, state: State, action: jax.Array, params: Any):
        """One step to the right."""
        del key
        place, time = state.place + action[0], state.time + 1
        terminated = place > 3.5
        truncated = base.is_truncated(time, terminated, params)
        return place[None], State(time, place), place, terminated, truncated, {}

    def observation_space(self, params: Any) -> Box:
        """The place."""
        del params
        return Box((1,), (0.0,), (10.0,))

    def action_space(self, params: Any) -> Box:
        """Steps up to 2."""
        del params
        return Box((1,), (0.0,), (2.0,))
