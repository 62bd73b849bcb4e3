"""The dataset: an immutable pytree of contiguous arrays with episode bounds."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
from flax import struct

from ddm.data.normalization import Normalization
from ddm.types import Space


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Information on a dataset besides its arrays; hashable, so it is static under jit."""

    name: str  # Minari id or file, as error messages and reports call it
    observation_space: Space  # of the flattened observation, in the environment's units
    action_space: Space  # in the environment's units
    environment_id: str | None = None  # where a policy can be evaluated
    environment_spec: str | None = None  # gymnasium's whole specification of it, as JSON
    environment_source: str | None = None  # which field of the data named it
    reference_scores: tuple[float, float] | None = None  # undiscounted returns: random, expert
    reference_source: str | None = None  # where the reference scores are from
    clipped_actions: int = 0  # transitions whose action lay on the edge of its box
    dropped_transitions: int = 0  # ends of truncated episodes whose successor was not stored
    moved_actions: int = 0  # transitions whose action `clip_actions` moved onto the edge of its box
    bounds_guessed: bool = False  # the action box, or the number of actions, was not declared
    has_rewards: bool = True  # False: the log has none, and the zeros in their place mean nothing
    notes: tuple[str, ...] = ()  # guesses made at load, one sentence each, for the user
    data_cuts: int = 0  # episodes that end without a flag in the file; counted as truncations


@struct.dataclass
class Dataset:
    """N transitions in E episodes, with T + 1 observations per episode as Minari stores them.

    Observation row of transition `i` is `i + episode_ids[i]`; the next observation is the row
    after it. Every episode's last transition has `terminations` or `truncations` set, and
    `truncations` are set nowhere else. `terminations` are also set inside an episode where the log
    says that a bootstrap stops and the episode continues (OGBench's masks). Episodes are bounded by
    `episode_starts` alone, and windows, returns and next actions follow them. Pass a dataset to
    jitted functions as an argument: in a closure it would become a compile-time constant.
    """

    observations: jax.Array  # (N + E, *O) float32, or uint8 images
    actions: jax.Array  # (N, A) float32 in [-1, 1], or (N,) int32
    rewards: jax.Array  # (N,) float32
    terminations: jax.Array  # (N,) bool: the bootstrap stops here
    truncations: jax.Array  # (N,) bool: the episode was cut here, but values continue
    episode_starts: jax.Array  # (E + 1,) int32: episode e = transitions [starts[e], starts[e + 1])
    episode_ids: jax.Array  # (N,) int32
    returns_to_go: jax.Array  # (N,) float32 undiscounted sum of rewards to the episode's end
    raw_returns: jax.Array  # (E,) float32 undiscounted, in the environment's units
    recorded_lengths: jax.Array  # (E,) int32 steps as recorded, with a dropped last one
    next_action_ids: jax.Array  # (M,) int32: transitions whose next action is known or not needed
    normalization: Normalization
    info: DatasetInfo = struct.field(pytree_node=False)

    @property
    def num_transitions(self) -> int:
        """N."""
        return self.rewards.shape[0]

    @property
    def num_episodes(self) -> int:
        """E."""
        return self.episode_starts.shape[0] - 1

    @property
    def episode_lengths(self) -> np.ndarray:
        """(E,) transitions per episode."""
        return np.diff(np.asarray(self.episode_starts))

    @property
    def num_inner_stops(self) -> int:
        """The number of bootstraps that stop although their episode continues."""
        at_ends = np.asarray(self.terminations)[np.asarray(self.episode_starts)[1:] - 1]
        return int(np.asarray(self.terminations).sum() - at_ends.sum())

    @property
    def episode_returns(self) -> np.ndarray:
        """(E,) undiscounted returns in the environment's units, whatever the reward transform.

        They are those of the episodes as recorded: a transition that was dropped because its
        successor is unknown counts here.
        """
        return np.asarray(self.raw_returns)

    @property
    def num_bytes(self) -> int:
        """Bytes that the arrays take on the device."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self))
