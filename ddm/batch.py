"""The data of one update, and how an algorithm declares what it needs."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax import struct

ABSENT: Any = None  # a field that was not declared; typed as an array: after the check it is one


class Batch(struct.PyTreeNode):
    """The data of one update: B rows, or B windows of T steps where a window is declared.

    Only the fields that the algorithm declares in its :class:`BatchSpec` are filled, all others
    are None (an empty pytree). Observations and actions are normalised: see
    ``ddm.data.Normalization``.
    """

    observations: jax.Array = ABSENT  # (B, *O) float32, or uint8 images
    actions: jax.Array = ABSENT  # (B, A) float32 in [-1, 1], or (B,) int32
    rewards: jax.Array = ABSENT  # (B,) float32
    next_observations: jax.Array = ABSENT  # (B, *O)
    terminations: jax.Array = ABSENT  # (B,) bool: the bootstrap stops here
    truncations: jax.Array = ABSENT  # (B,) bool: the episode was cut here, but values continue
    next_actions: jax.Array = ABSENT  # (B, A); never taken from another episode
    returns_to_go: jax.Array = ABSENT  # (B,) undiscounted sum of rewards to the episode's end
    initial_observations: jax.Array = ABSENT  # (B, *O) first ones of other, random episodes
    mask: jax.Array = ABSENT  # (B, T) bool: True where the window lies inside its episode


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """What an algorithm needs in a batch, declared as a value; the data's sampler provides it."""

    fields: tuple[str, ...]  # names of Batch fields
    # gradient steps in one `update`: B = minibatches * batch_size rows, or the whole dataset's
    minibatches: int = 1
    window: int | None = None  # steps T of each window; None for single transitions
    history: int = 0  # how many of the T steps lie before the step that was drawn
    min_episode_steps: int = 1  # a dataset with a shorter episode is refused
    # All transitions, in order, whatever the batch size: exact sweeps. With a window: the last T
    # steps of each copy of the environment, all by the present policy; never those of a log.
    whole_dataset: bool = False
    one_hot_observations: bool = False  # rows of a table: any other observation is refused
    num_actions: int = 0  # a log with a larger discrete action is refused; 0: any action


TRANSITION_FIELDS = ("observations", "actions", "rewards", "next_observations", "terminations")
