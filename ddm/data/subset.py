"""Parts of a dataset: some of its episodes, or all but those that are held out."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from ddm.data.dataset import Dataset
from ddm.errors import InputError


def take_episodes(dataset: Dataset, episodes: np.ndarray, name: str | None = None) -> Dataset:
    """The dataset of some episodes, in the order given, in the same units.

    Args:
      dataset: with E episodes.
      episodes: (K,) indices below E, each at most once.
      name: of the part; None: the dataset's.

    Raises:
      InputError: no episode, an unknown one, or one twice.
    """
    episodes = np.asarray(episodes, np.int64)
    known = np.arange(dataset.num_episodes)
    if not episodes.size or len(set(episodes.tolist()) & set(known.tolist())) < episodes.size:
        raise InputError(
            f"{dataset.info.name}: expected different episodes from 0 to {known[-1]}, at least one"
        )
    starts = np.asarray(dataset.episode_starts)
    lengths = np.diff(starts)[episodes]
    transitions = _ranges(starts[episodes], lengths)
    # An episode has one more observation than transitions.
    rows = _ranges(starts[episodes] + episodes, lengths + 1)
    info = dataset.info if name is None else dataclasses.replace(dataset.info, name=name)
    per_transition = ("actions", "rewards", "terminations", "truncations", "returns_to_go")
    drawn_for_next = np.isin(transitions, np.asarray(dataset.next_action_ids))
    return dataclasses.replace(
        dataset,
        **{field: getattr(dataset, field)[transitions] for field in per_transition},
        observations=dataset.observations[rows],
        episode_starts=jnp.asarray(np.concatenate([[0], np.cumsum(lengths)]), jnp.int32),
        episode_ids=jnp.asarray(np.repeat(np.arange(len(episodes)), lengths), jnp.int32),
        raw_returns=dataset.raw_returns[episodes],
        recorded_lengths=dataset.recorded_lengths[episodes],
        next_action_ids=jnp.asarray(np.flatnonzero(drawn_for_next), jnp.int32),
        info=info,
    )


def hold_out(dataset: Dataset, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Splits off a share of the episodes, drawn at random; units stay those of the whole.

    Args:
      dataset: with E >= 2 episodes.
      share: of the episodes that is held out, in (0, 1); at least one is held out, and at least one
      is left.
      seed: of the draw.

    Returns:
      The rest, and the episodes that are held out.

    Raises:
      InputError: a share outside (0, 1), or a single episode.
    """
    if not 0.0 < share < 1.0:
        raise InputError(f"holdout is {share}, expected a share of the episodes in (0, 1)")
    if dataset.num_episodes < 2:
        raise InputError(
            f"{dataset.info.name} has one episode: none can be held out, since whole episodes are"
        )
    count = int(np.clip(round(share * dataset.num_episodes), 1, dataset.num_episodes - 1))
    order = np.random.default_rng(seed).permutation(dataset.num_episodes)
    held = f"{dataset.info.name} (held out)"
    return take_episodes(dataset, np.sort(order[count:])), take_episodes(
        dataset, np.sort(order[:count]), held
    )


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The whole numbers start .. start + length - 1 of each pair, one after the other."""
    ends = np.cumsum(lengths)
    offsets = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    return np.repeat(starts, lengths) + offsets
