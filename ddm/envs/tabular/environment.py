"""A finite MDP as a simulator: the same arrays are solved exactly and sampled from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.envs import base
from ddm.envs.tabular.mdp import MDP, draw
from ddm.errors import InputError
from ddm.types import Box, Discrete, PRNGKey, Space


@struct.dataclass
class EnvState(base.EnvState):
    """The MDP's state."""

    state: jax.Array  # int32 scalar


@struct.dataclass
class EnvParams(base.EnvParams):
    """The process and the observations of its states."""

    mdp: MDP = struct.field(kw_only=True)
    features: jax.Array = struct.field(kw_only=True)  # (S, F) observation of each state


@dataclasses.dataclass(frozen=True)
class TabularEnvironment(base.Environment):
    """Samples from an MDP; the observation of a state is its row of a feature matrix.

    The default features are one-hot: a linear function of them is a table. `make` gives the default
    parameters, so the environment itself stays small and hashable; any other MDP of the same shape
    can be passed as parameters.
    """

    make: Callable[[], MDP]
    name: str = "Tabular-v0"
    max_steps: int = 1_000
    features: Callable[[], jax.Array] | None = None

    @property
    def default_params(self) -> EnvParams:
        """The MDP, its features and the step limit."""
        return make_params(
            self.make(), self.features() if self.features else None, max_steps=self.max_steps
        )

    def reset(self, key: PRNGKey, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """A state drawn from the initial distribution."""
        state = draw(key, params.mdp.initial)
        return params.features[state], EnvState(time=jnp.zeros((), jnp.int32), state=state)

    def step(
        self, key: PRNGKey, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, base.Info]:
        """One transition; terminated where it enters a terminal state."""
        next_state, reward = params.mdp.sample(key, state.state, action)
        state = EnvState(time=state.time + 1, state=next_state)
        terminated = params.mdp.terminal[next_state]
        truncated = base.is_truncated(state.time, terminated, params)
        reward = reward.astype(jnp.float32)
        return params.features[next_state], state, reward, terminated, truncated, {}

    def observation_space(self, params: EnvParams) -> Box:
        """The smallest box that holds all features."""
        features = np.asarray(params.features)
        return Box(
            shape=features.shape[1:],
            low=tuple(features.min(axis=0).tolist()),
            high=tuple(features.max(axis=0).tolist()),
        )

    def action_space(self, params: EnvParams) -> Space:
        """The MDP's actions."""
        return Discrete(params.mdp.num_actions)


def make_params(
    mdp: MDP, features: jax.Array | None = None, *, max_steps: int = 1_000
) -> EnvParams:
    """Parameters of a :class:`TabularEnvironment`.

    Args:
      mdp: the process.
      features: (S, F) observation of each state; None for one-hot.
      max_steps: steps after which an episode is truncated.

    Raises:
      InputError: the features are not one row per state.
    """
    features = (
        jnp.eye(mdp.num_states, dtype=jnp.float32) if features is None else jnp.asarray(features)
    )
    if features.ndim != 2 or features.shape[0] != mdp.num_states:
        raise InputError(
            f"features have shape {features.shape}, expected one row for each of "
            f"{mdp.num_states} states"
        )
    return EnvParams(mdp=mdp, features=features.astype(jnp.float32), max_steps=max_steps)
