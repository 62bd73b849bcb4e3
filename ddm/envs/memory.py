"""Small tasks with known answers whose experts need more than the current observation.

- :class:`Alternator`: left, right, left, right; the observation says nothing, only the last move
does.
- :class:`TMaze`: a cue at the start of a corridor says where to turn at its end (Bakker 2001).
- :class:`Brake`: the observation says everything, and the policy's own last action says nearly
  everything. This task tempts a policy with memory to copy itself (the brake light of de Haan et
  al. 2019).

Each has an `expert`, and an `expert_memory` for the start of an episode, as `ddm.envs.collect`
takes them. The last step of an episode terminates it.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from ddm.envs import base
from ddm.types import Box, Discrete, PRNGKey

Memory = jax.Array


@struct.dataclass
class AlternatorState(base.EnvState):
    """The last move."""

    action: jax.Array  # () int32; -1 before the first move
    alternated: jax.Array  # () bool: so far


@dataclasses.dataclass(frozen=True)
class Alternator(base.Environment):
    """Two moves that alternate, after either first move; the observation is always 1.

    Every move but the first earns 1 / (moves of an episode - 1) if it differs from the one before;
    success means that all do. A policy without memory that does not see its own moves is right half
    of the time, at a log-likelihood of -log 2.
    """

    num_moves: int = 10
    name: str = "Alternator-v0"

    @property
    def default_params(self) -> base.EnvParams:
        """As many steps as moves."""
        return base.EnvParams(max_steps=self.num_moves)

    def expert_memory(self, key: PRNGKey) -> Memory:
        """The first move, by a fair coin."""
        return jax.random.randint(key, (), 0, 2, jnp.int32)

    def expert(
        self, observation: jax.Array, key: PRNGKey, memory: Memory
    ) -> tuple[jax.Array, Memory]:
        """Plays the move in its memory, and the other one next time."""
        del observation, key
        return memory, 1 - memory

    def reset(self, key: PRNGKey, params: base.EnvParams) -> tuple[jax.Array, AlternatorState]:
        """No move yet."""
        del key, params
        state = AlternatorState(
            time=jnp.zeros((), jnp.int32),
            action=jnp.full((), -1, jnp.int32),
            alternated=jnp.ones((), bool),
        )
        return jnp.ones(1, jnp.float32), state

    def step(
        self, key: PRNGKey, state: AlternatorState, action: jax.Array, params: base.EnvParams
    ) -> tuple[jax.Array, AlternatorState, jax.Array, jax.Array, jax.Array, base.Info]:
        """Compares the move with the one before."""
        del key
        differs = action != state.action
        reward = (differs & (state.time > 0)).astype(jnp.float32)
        state = AlternatorState(
            time=state.time + 1,
            action=jnp.asarray(action, jnp.int32),
            alternated=state.alternated & differs,
        )
        ended = state.time >= params.max_steps
        reward = reward / jnp.maximum(jnp.asarray(params.max_steps, jnp.float32) - 1.0, 1.0)
        info = {"success": state.alternated & ended}
        return jnp.ones(1, jnp.float32), state, reward, ended, _never(), info

    def observation_space(self, params: base.EnvParams) -> Box:
        """Always 1."""
        del params
        return Box(shape=(1,), low=(0.0,), high=(1.0,))

    def action_space(self, params: base.EnvParams) -> Discrete:
        """Left and right."""
        del params
        return Discrete(2)


@struct.dataclass
class TMazeState(base.EnvState):
    """The cue."""

    cue: jax.Array  # () float32: -1 left, 1 right


FORWARD, LEFT, RIGHT = range(3)


@dataclasses.dataclass(frozen=True)
class TMaze(base.Environment):
    """A cue, a corridor of d steps, and a turn: observation (cue, at the junction).

    The cue is -1 or 1 in the first step and 0 later; the second number is 1 at the junction. In the
    corridor every action moves one step towards it. The correct turn earns 1. So the turn is
    decided d steps after the cue was seen: the last n observations hold the cue if n > d. A policy
    that does not know it turns correctly in half of the episodes.
    """

    corridor: int = 10
    name: str = "TMaze-10-v0"

    @property
    def default_params(self) -> base.EnvParams:
        """The corridor's steps and the turn."""
        return base.EnvParams(max_steps=self.corridor + 1)

    def expert_memory(self, key: PRNGKey) -> Memory:
        """No cue yet."""
        del key
        return jnp.zeros((), jnp.float32)

    def expert(
        self, observation: jax.Array, key: PRNGKey, memory: Memory
    ) -> tuple[jax.Array, Memory]:
        """Keeps the cue, goes forward, and turns where it pointed."""
        del key
        cue = jnp.where(observation[0] == 0.0, memory, observation[0])
        turn = jnp.where(cue > 0.0, RIGHT, LEFT)
        return jnp.where(observation[1] > 0.0, turn, FORWARD).astype(jnp.int32), cue

    def reset(self, key: PRNGKey, params: base.EnvParams) -> tuple[jax.Array, TMazeState]:
        """A cue by a fair coin."""
        cue = _coin(key)
        state = TMazeState(time=jnp.zeros((), jnp.int32), cue=cue)
        return self._observe(state, params), state

    def step(
        self, key: PRNGKey, state: TMazeState, action: jax.Array, params: base.EnvParams
    ) -> tuple[jax.Array, TMazeState, jax.Array, jax.Array, jax.Array, base.Info]:
        """One step along the corridor, or the turn."""
        del key
        turned = action == jnp.where(state.cue > 0.0, RIGHT, LEFT)
        state = dataclasses.replace(state, time=state.time + 1)
        ended = state.time >= params.max_steps
        success = turned & ended
        observation = self._observe(state, params)
        return (
            observation,
            state,
            success.astype(jnp.float32),
            ended,
            _never(),
            {"success": success},
        )

    @staticmethod
    def _observe(state: TMazeState, params: base.EnvParams) -> jax.Array:
        cue = jnp.where(state.time == 0, state.cue, 0.0)
        junction = (state.time == params.max_steps - 1).astype(jnp.float32)
        return jnp.stack([cue, junction])

    def observation_space(self, params: base.EnvParams) -> Box:
        """Cue and junction."""
        del params
        return Box(shape=(2,), low=(-1.0, 0.0), high=(1.0, 1.0))

    def action_space(self, params: base.EnvParams) -> Discrete:
        """Forward, left and right."""
        del params
        return Discrete(3)


@struct.dataclass
class BrakeState(base.EnvState):
    """The light and the car."""

    light: jax.Array  # () float32: -1 red, 1 green
    speed: jax.Array  # () float32 in [0, 1]


@struct.dataclass
class BrakeParams(base.EnvParams):
    """How often the light changes, and how well it is seen."""

    max_steps: int | jax.Array = 100
    switch_probability: float = 0.02  # of the light, each step
    acceleration: float = 0.1  # change of the speed in a step, of either sign
    contrast: float = 1.0  # the observed light is +-contrast


@dataclasses.dataclass(frozen=True)
class Brake(base.Environment):
    """Accelerate at green, brake at red: observation (light, own speed), actions brake, accelerate.

    A step earns 1 / (steps of an episode) for the action that fits the light. The expert needs
    the light alone. Repeating the last action is right in 98 % of the steps, and wrong whenever the
    light has just changed: these steps show how good a policy is.
    """

    name: str = "Brake-v0"

    @property
    def default_params(self) -> BrakeParams:
        """A hundred steps, with two changes of the light on average."""
        return BrakeParams()

    def expert_memory(self, key: PRNGKey) -> tuple[()]:
        """It needs none."""
        del key
        return ()

    def expert(
        self, observation: jax.Array, key: PRNGKey, memory: tuple[()] = ()
    ) -> tuple[jax.Array, tuple[()]]:
        """Looks at the light."""
        del key
        return (observation[0] > 0.0).astype(jnp.int32), memory

    def reset(self, key: PRNGKey, params: BrakeParams) -> tuple[jax.Array, BrakeState]:
        """A standing car at a light of either colour."""
        light = _coin(key)
        state = BrakeState(
            time=jnp.zeros((), jnp.int32), light=light, speed=jnp.zeros((), jnp.float32)
        )
        return self._observe(state, params), state

    def step(
        self, key: PRNGKey, state: BrakeState, action: jax.Array, params: BrakeParams
    ) -> tuple[jax.Array, BrakeState, jax.Array, jax.Array, jax.Array, base.Info]:
        """Changes the speed, and sometimes the light."""
        right = (action == 1) == (state.light > 0.0)
        change = jnp.where(action == 1, params.acceleration, -params.acceleration)
        switches = jax.random.bernoulli(key, jnp.asarray(params.switch_probability, jnp.float32))
        state = BrakeState(
            time=state.time + 1,
            light=jnp.where(switches, -state.light, state.light),
            speed=jnp.clip(state.speed + change, 0.0, 1.0),
        )
        ended = state.time >= params.max_steps
        reward = right.astype(jnp.float32) / jnp.asarray(params.max_steps, jnp.float32)
        return self._observe(state, params), state, reward, ended, _never(), {}

    @staticmethod
    def _observe(state: BrakeState, params: BrakeParams) -> jax.Array:
        return jnp.stack([params.contrast * state.light, state.speed])

    def observation_space(self, params: BrakeParams) -> Box:
        """The light, and the speed as a share of the highest one."""
        contrast = float(params.contrast)
        return Box(shape=(2,), low=(-contrast, 0.0), high=(contrast, 1.0))

    def action_space(self, params: BrakeParams) -> Discrete:
        """Brake and accelerate."""
        del params
        return Discrete(2)


def _coin(key: PRNGKey) -> jax.Array:
    """1 or -1, each in half of the cases."""
    return jnp.where(jax.random.bernoulli(key, jnp.float32(0.5)), jnp.float32(1.0), -1.0)


def _never() -> jax.Array:
    """Nothing is truncated here."""
    return jnp.zeros((), bool)
