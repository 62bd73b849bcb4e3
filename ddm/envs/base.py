"""The interface of a pure environment, in gymnax's vocabulary.

An environment is a frozen, hashable value; what varies within one run lives in two pytrees, the
parameters and the state. ``reset`` and ``step`` are pure, so they jit, scan and vmap over keys,
states, actions and parameters. Two things differ from gymnax: termination and truncation are two
results, and no environment resets itself; the caller masks the steps after an episode's end
(``ddm.envs.collect``, ``ddm.evaluation.evaluate``).
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import jax
from flax import struct

from ddm.types import Box, PRNGKey, Space

Info = Mapping[str, jax.Array]


@struct.dataclass
class EnvState:
    """What every environment's state holds."""

    time: jax.Array  # steps since the reset, int32 scalar


@struct.dataclass
class EnvParams:
    """What every environment's parameters hold."""

    max_steps: int | jax.Array = 1000  # steps after which an episode is truncated


class Environment(abc.ABC):
    """A simulator as a pair of pure functions; subclasses are frozen dataclasses."""

    name: str  # the id under which it is registered

    @property
    @abc.abstractmethod
    def default_params(self) -> Any:
        """The parameters of the registered task."""

    @abc.abstractmethod
    def reset(self, key: PRNGKey, params: Any) -> tuple[jax.Array, Any]:
        """Starts an episode.

        Args:
          key: one PRNG key.
          params: as :attr:`default_params`, whose leaves may be traced.

        Returns:
          The first observation and the first state.
        """

    @abc.abstractmethod
    def step(
        self, key: PRNGKey, state: Any, action: jax.Array, params: Any
    ) -> tuple[jax.Array, Any, jax.Array, jax.Array, jax.Array, Info]:
        """Advances one episode by one step.

        Args:
          key: one PRNG key, for environments whose transitions are random.
          state: the state that `reset` or `step` returned.
          action: in the environment's units; (A,) float32, or an int32 scalar.
          params: as :attr:`default_params`.

        Returns:
          observation, state, reward (float32), terminated (bool: the task has ended and the
          value of what follows is zero), truncated (bool: the time limit was reached; never
          together with terminated), and info, which holds "success" (bool) where the task
          has a goal.
        """

    @abc.abstractmethod
    def observation_space(self, params: Any) -> Box:
        """Bounds of the observations; `params` must be concrete."""

    @abc.abstractmethod
    def action_space(self, params: Any) -> Space:
        """Bounds of the actions; `params` must be concrete."""


def is_truncated(time: jax.Array, terminated: jax.Array, params: EnvParams) -> jax.Array:
    """True where the time limit, not the task, ends the episode."""
    return (time >= params.max_steps) & ~terminated


@struct.dataclass
class EpisodeKeys:
    """The random streams of one episode, all derived from the episode's seed.

    Every driver (jitted evaluation, gymnasium face) uses the same derivation, so an episode
    seed names the same episode everywhere.
    """

    reset: PRNGKey
    step: PRNGKey  # folded with the step's index
    policy: PRNGKey  # folded with the step's index


def episode_keys(seed: jax.Array | int) -> EpisodeKeys:
    """The keys of the episode with this seed (an integer below 2^31)."""
    reset, step, policy = jax.random.split(jax.random.key(seed), 3)
    return EpisodeKeys(reset=reset, step=step, policy=policy)
