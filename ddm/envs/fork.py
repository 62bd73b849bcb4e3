"""Decisions with several equally good answers, and only wrong answers between them.

In every step the demonstrator picks one of K branches with equal probability and takes its action
with a little noise. Each branch is right, and their mean is wrong. A policy's action is right if it
lies near *any* branch. All densities are known, so likelihoods have an exact optimum.
"""

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
    """The position of the decision, and whether all decisions so far were right."""

    position: jax.Array  # () float32 in [-1, 1]
    on_branch: jax.Array  # () bool


@struct.dataclass
class EnvParams(base.EnvParams):
    """Decisions per episode, the demonstrator's noise, and the largest distance that is right."""

    max_steps: int | jax.Array = 1  # decisions of an episode
    noise: float = 0.05  # standard deviation of the demonstrator in each dimension
    tolerance: float = 0.15  # largest distance to the nearest branch


@dataclasses.dataclass(frozen=True)
class Fork(base.Environment):
    """K branches in one or two dimensions; the observation is a position s in [-1, 1].

    - One dimension: the centres are +-(1 + s / 2) / 2 for two branches, and otherwise K evenly
      spaced values from one of these to the other.
    - Two dimensions: the centres lie on a circle of radius 0.7, turned by s half a sector.

    A step earns 1 / (decisions of an episode) if it is right, so the return of an episode is the
    share of right decisions. Success means that all were right. A new position is drawn for every
    decision.
    """

    num_branches: int = 2
    num_dimensions: int = 1
    num_decisions: int = 1
    name: str = "Fork-2-v0"

    @property
    def default_params(self) -> EnvParams:
        """The published bandit, scaled by one half into the box."""
        return EnvParams(max_steps=self.num_decisions)

    def centers(self, observations: jax.Array) -> jax.Array:
        """Centres (..., K, A) of the branches at observations (..., 1)."""
        shape = (*observations.shape[:-1], self.num_branches)
        if self.num_dimensions == 1:
            spread = np.linspace(-1.0, 1.0, self.num_branches) if self.num_branches > 1 else 1.0
            spread = jnp.broadcast_to(jnp.asarray(spread, jnp.float32), shape)
            return ((0.5 + 0.25 * observations) * spread)[..., None]
        branches = jnp.broadcast_to(jnp.arange(self.num_branches, dtype=jnp.float32), shape)
        angles = 2 * jnp.pi * (branches + 0.5 * observations) / self.num_branches
        return 0.7 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=-1)

    def demonstrate(self, key: PRNGKey, observations: jax.Array) -> jax.Array:
        """Actions (B, A) of the demonstrator at observations (B, 1)."""
        branch_key, noise_key = jax.random.split(key)
        centers = self.centers(observations)
        branches = jax.random.randint(
            branch_key, centers.shape[:-2], 0, self.num_branches, jnp.int32
        )
        chosen = jnp.take_along_axis(centers, branches[..., None, None], axis=-2)[..., 0, :]
        noise = jax.random.normal(noise_key, chosen.shape, chosen.dtype)
        return chosen + self.default_params.noise * noise

    def log_prob(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """Log-density (...,) of the demonstrator's actions (..., A)."""
        noise = self.default_params.noise
        offsets = self._offsets(observations, actions) / noise
        normalizer = self.num_dimensions * jnp.log(noise * jnp.sqrt(2 * jnp.pi))
        each = -0.5 * jnp.sum(jnp.square(offsets), axis=-1) - normalizer
        return jax.nn.logsumexp(each, axis=-1) - jnp.log(self.num_branches)

    def _offsets(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """Differences (..., K, A) from the centres at observations (..., 1) to actions (..., A)."""
        actions, centers = jnp.broadcast_arrays(actions[..., None, :], self.centers(observations))
        return actions - centers

    def is_valid(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """(...,) bool: the action lies near a branch."""
        distances = jnp.linalg.norm(self._offsets(observations, actions), axis=-1)
        return jnp.min(distances, axis=-1) < self.default_params.tolerance

    def nearest_branch(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """(...,) int32 index of the branch whose centre is nearest."""
        distances = jnp.linalg.norm(self._offsets(observations, actions), axis=-1)
        return jnp.argmin(distances, axis=-1).astype(jnp.int32)

    def reset(self, key: PRNGKey, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """A position uniform in [-1, 1]."""
        del params
        position = jax.random.uniform(key, (), jnp.float32, -1.0, 1.0)
        state = EnvState(
            time=jnp.zeros((), jnp.int32), position=position, on_branch=jnp.ones((), bool)
        )
        return position[None], state

    def step(
        self, key: PRNGKey, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, base.Info]:
        """Judges the action and moves to a new position; the last decision terminates."""
        centers = self.centers(state.position[None])
        right = jnp.min(jnp.linalg.norm(action[None] - centers, axis=-1)) < params.tolerance
        observation, fresh = self.reset(key, params)
        on_branch = state.on_branch & right
        state = dataclasses.replace(fresh, time=state.time + 1, on_branch=on_branch)
        terminated = state.time >= params.max_steps
        reward = right.astype(jnp.float32) / jnp.asarray(params.max_steps, jnp.float32)
        info = {"success": on_branch & terminated}
        return observation, state, reward, terminated, jnp.zeros((), bool), info

    def observation_space(self, params: EnvParams) -> Box:
        """The position."""
        del params
        return Box(shape=(1,), low=(-1.0,), high=(1.0,))

    def action_space(self, params: EnvParams) -> Space:
        """The unit box."""
        del params
        size = self.num_dimensions
        return Box(shape=(size,), low=(-1.0,) * size, high=(1.0,) * size)
