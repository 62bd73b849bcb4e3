"""A particle that follows a set-point, and must visit one goal and then another.

The particle task of implicit behavioural cloning (Florence et al. 2021, after their code) in any
number of dimensions. The demonstrator's set-point jumps from the first goal to the second when the
first is reached: the map from observations to actions is discontinuous.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from ddm.envs import base
from ddm.errors import InputError
from ddm.types import Box, PRNGKey

_SUBSTEPS = 10  # of the simulation in each control step


@struct.dataclass
class EnvState(base.EnvState):
    """The particle, its goals, and its smallest distances to them."""

    position: jax.Array  # (N,) in lengths of the box
    velocity: jax.Array  # (N,) lengths per second
    goals: jax.Array  # (2, N) the first and the second one
    nearest: jax.Array  # (2,) smallest distance to each goal at the end of a step


@struct.dataclass
class EnvParams(base.EnvParams):
    """Dynamics and task; the defaults are the authors'."""

    max_steps: int | jax.Array = 50  # control steps of an episode
    time_step: float = 0.005  # seconds of each of the ten sub-steps
    position_gain: float = 10.0  # per second squared: pull towards the set-point
    velocity_gain: float = 5.0  # per second: damping
    goal_radius: float = 0.05  # a goal counts as reached within this distance


@dataclasses.dataclass(frozen=True)
class Particle(base.Environment):
    """Go to the first goal, then to the second, and stay there; all in the box [0, 1]^N.

    Observation (4 N,): position, velocity, first goal, second goal; without the velocities (3 N,)
    if they are hidden. The action (N,) is the set-point of a proportional-derivative controller.
    Success, judged at the end: both goals were reached, and the last position is near the second
    one, or near either one if the order is free. Success earns 1, and the episode terminates.
    """

    num_dimensions: int = 2
    any_order: bool = False  # the goals may be visited in either order
    hide_velocity: bool = False
    name: str = "Particle-2-v0"

    @property
    def default_params(self) -> EnvParams:
        """The authors' task."""
        return EnvParams()

    def reset(self, key: PRNGKey, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """Particle at rest and goals, all uniform in the box."""
        del params
        points = jax.random.uniform(key, (3, self.num_dimensions), jnp.float32)
        state = EnvState(
            time=jnp.zeros((), jnp.int32),
            position=points[0],
            velocity=jnp.zeros(self.num_dimensions, jnp.float32),
            goals=points[1:],
            nearest=jnp.full(2, jnp.inf, jnp.float32),
        )
        return self._observe(state), state

    def step(
        self, key: PRNGKey, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, base.Info]:
        """Ten sub-steps towards the set-point, which is clipped to the box."""
        del key
        target = jnp.clip(action, 0.0, 1.0)
        # x += dt v and v += dt (kp (target - x) - kv v), both from the old values, is one linear
        # map of (x - target, v): ten sub-steps are its tenth power.
        dt = jnp.asarray(params.time_step, jnp.float32)
        once = jnp.array(
            [[1.0, dt], [-dt * params.position_gain, 1.0 - dt * params.velocity_gain]], jnp.float32
        )
        moved = jnp.linalg.matrix_power(once, _SUBSTEPS) @ jnp.stack(
            [state.position - target, state.velocity]
        )
        position = target + moved[0]
        distances = jnp.linalg.norm(position[None] - state.goals, axis=-1)
        state = EnvState(
            time=state.time + 1,
            position=position,
            velocity=moved[1],
            goals=state.goals,
            nearest=jnp.minimum(state.nearest, distances),
        )
        terminated = state.time >= params.max_steps
        last = jnp.min(distances) if self.any_order else distances[1]
        reached = (jnp.max(state.nearest) < params.goal_radius) & (last < params.goal_radius)
        success = reached & terminated
        info = {"success": success}
        reward = success.astype(jnp.float32)
        return self._observe(state), state, reward, terminated, jnp.zeros((), bool), info

    def split(self, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Position (..., N) and goals (..., 2, N) in an observation."""
        size = self.num_dimensions
        goals = observation[..., -2 * size :]
        return observation[..., :size], goals.reshape(*goals.shape[:-1], 2, size)

    def _observe(self, state: EnvState) -> jax.Array:
        velocity = () if self.hide_velocity else (state.velocity,)
        return jnp.concatenate([state.position, *velocity, *state.goals])

    def observation_space(self, params: EnvParams) -> Box:
        """Bounds: the box for goals, and a wider box for a particle that overshoots."""
        del params
        blocks = [(-1.0, 2.0), (-10.0, 10.0), (0.0, 1.0), (0.0, 1.0)]
        if self.hide_velocity:
            del blocks[1]
        low, high = (
            tuple(block[side] for block in blocks for _ in range(self.num_dimensions))
            for side in (0, 1)
        )
        return Box(shape=(len(low),), low=low, high=high)

    def action_space(self, params: EnvParams) -> Box:
        """The box."""
        del params
        size = self.num_dimensions
        return Box(shape=(size,), low=(0.0,) * size, high=(1.0,) * size)


@struct.dataclass
class ExpertMemory:
    """What the scripted demonstrator remembers."""

    steps_at_first_goal: jax.Array  # () int32
    swapped: jax.Array  # () bool: it goes to the second goal first


@dataclasses.dataclass(frozen=True)
class Expert:
    """The authors' demonstrator, a policy for `ddm.envs.collect` with `start` as initial state.

    Its set-point is the first goal until the particle was within `threshold` of it in `wait` steps.
    Then it is the second goal. To imitate a `wait` above 1 a policy needs memory: while the
    particle waits, nothing changes. With a random order it is multimodal.
    """

    environment: Particle
    wait: int = 1  # steps near the first goal, at least 1
    random_order: bool = False  # which goal is first, by a fair coin; needs an `any_order` task
    threshold: float = 0.01  # lengths of the box

    def __post_init__(self):
        if self.wait < 1:
            raise InputError(f"Expert: wait is {self.wait}, expected at least 1")
        if self.random_order and not self.environment.any_order:
            raise InputError("Expert: random_order is for a Particle with any_order=True")

    def start(self, key: PRNGKey) -> ExpertMemory:
        """Memory at the start of an episode."""
        swapped = jax.random.bernoulli(key, jnp.float32(0.5)) & self.random_order
        return ExpertMemory(steps_at_first_goal=jnp.zeros((), jnp.int32), swapped=swapped)

    def __call__(
        self, observation: jax.Array, key: PRNGKey, memory: ExpertMemory
    ) -> tuple[jax.Array, ExpertMemory]:
        """The set-point (N,), and the memory for the next step."""
        del key
        position, goals = self.environment.split(observation)
        goals = jnp.where(memory.swapped, goals[::-1], goals)
        near = jnp.linalg.norm(position - goals[0]) < self.threshold
        steps = memory.steps_at_first_goal + near.astype(jnp.int32)
        action = jnp.where(steps < self.wait, goals[0], goals[1])
        return action, dataclasses.replace(memory, steps_at_first_goal=steps)
