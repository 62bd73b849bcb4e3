"""The gymnasium face of a pure environment.

This module imports gymnasium, so `ddm` imports it only when it is needed: call
`ddm.envs.register()`, then ``gymnasium.make("ddm/PointMaze-UMaze-v0")``.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import gymnasium
import jax
import numpy as np

from ddm.envs import base, registry
from ddm.types import Discrete, Space


class GymnasiumFace(gymnasium.Env):
    """One episode at a time; every instance of an environment shares its compiled functions."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, environment: base.Environment | str, params: Any = None):
        """Wraps a pure environment.

        Args:
          environment: the environment, or its id.
          params: its parameters; None for the default ones.
        """
        if isinstance(environment, str):
            environment = registry.make(environment)
        self.environment = environment
        self.params = environment.default_params if params is None else params
        self.observation_space = to_gymnasium(environment.observation_space(self.params))
        self.action_space = to_gymnasium(environment.action_space(self.params))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts the episode that `seed` names, or a random one."""
        super().reset(seed=seed, options=options)
        episode_seed = int(self.np_random.integers(2**31)) if seed is None else seed
        observation, self._state, self._step_key = _reset(
            self.environment, np.uint32(episode_seed % 2**32), self.params
        )
        return np.asarray(observation), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step, in gymnasium's types."""
        result = _step(self.environment, self._step_key, self._state, action, self.params)
        observation, self._state, reward, terminated, truncated, info = result
        info = {name: np.asarray(value).item() for name, value in info.items()}
        return np.asarray(observation), float(reward), bool(terminated), bool(truncated), info


def to_gymnasium(space: Space) -> gymnasium.Space:
    """The gymnasium space with the same bounds."""
    if isinstance(space, Discrete):
        return gymnasium.spaces.Discrete(space.n, start=space.start)
    low, high = (
        np.asarray(bound, space.dtype).reshape(space.shape) for bound in (space.low, space.high)
    )
    return gymnasium.spaces.Box(low, high, dtype=np.dtype(space.dtype).type)


@functools.partial(jax.jit, static_argnums=0)
def _reset(environment, seed, params):
    keys = base.episode_keys(seed)
    observation, state = environment.reset(keys.reset, params)
    return observation, state, keys.step


@functools.partial(jax.jit, static_argnums=0)
def _step(environment, step_key, state, action, params):
    return environment.step(jax.random.fold_in(step_key, state.time), state, action, params)
