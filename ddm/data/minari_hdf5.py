"""Reads `main_data.hdf5` of a Minari dataset in bulk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddm.data import spaces
from ddm.data.hdf5 import Members, open_hdf5
from ddm.data.memory import check_declared
from ddm.data.progress import progress
from ddm.errors import InputError

STEP_FIELDS = {"rewards": np.float64, "terminations": np.bool_, "truncations": np.bool_}


def read_episodes(
    path: Path,
    metadata: Mapping[str, Any],
    observation_space: spaces.Tree,
    action_space: spaces.Tree,
    external_links: bool = False,
) -> dict[str, np.ndarray]:
    """All episodes, each array read straight to its place in a column.

    Args:
      path: `main_data.hdf5`.
      metadata: with `total_episodes` and `total_steps`.
      observation_space: nested or not.
      action_space: a single leaf.
      external_links: whether parts of the file may lie in other files, which are then read.

    Returns:
      The arrays of `ddm.data.columns.Columns`: flattened observations (N + E, *O), `actions`,
      `rewards`, `terminations`, `truncations` and `lengths`.

    Raises:
      InputError: names the file, the HDF5 dataset (and with it the episode and the field), and
        what was expected.
    """
    with open_hdf5(path, "HDF5 file", external_links) as members:
        stored = sum(name.startswith("episode_") for name in members.names())
        if stored > metadata["total_episodes"]:
            raise InputError(
                f"{path} holds {stored} episodes, its metadata.json says "
                f"{metadata['total_episodes']}"
            )
        return _read(members, metadata, observation_space, action_space)


def _read(
    reader: Members,
    metadata: Mapping[str, Any],
    observation_space: spaces.Tree,
    action_space: spaces.Tree,
) -> dict[str, np.ndarray]:
    episodes, steps = metadata["total_episodes"], metadata["total_steps"]
    observation_leaves = list(spaces.leaves(observation_space))
    action = _action_leaf(action_space, reader.path)
    shapes = [(steps + episodes, *leaf.shape) for leaf in observation_leaves]
    dtypes = [_dtype(leaf) for leaf in observation_leaves]
    # Rewards come first: their length was read just before, and they are still open.
    per_step: dict[str, tuple[tuple[int, ...], np.dtype]] = {
        field: ((), np.dtype(dtype)) for field, dtype in STEP_FIELDS.items()
    }
    per_step["actions"] = (action.shape, _dtype(action))
    sizes = [
        math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, dtypes, strict=True)
    ] + [steps * math.prod(shape) * dtype.itemsize for shape, dtype in per_step.values()]
    check_declared(sum(sizes), str(reader.path))
    observations = [np.empty(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    columns = {
        field: np.empty((steps, *shape), dtype) for field, (shape, dtype) in per_step.items()
    }
    lengths = np.zeros(episodes, np.int64)
    start = 0
    for episode in progress(range(episodes), f"reading {reader.path}", "episodes"):
        group = f"episode_{episode}"
        length = _length(reader, f"{group}/rewards", steps - start)
        for field, column in columns.items():
            reader.read_into(f"{group}/{field}", column[start : start + length])
        rows = slice(start + episode, start + episode + length + 1)
        for leaf, column in zip(observation_leaves, observations, strict=True):
            reader.read_into(leaf.name(f"{group}/observations"), column[rows])
        lengths[episode] = length
        start += length
    if start != steps:
        raise InputError(f"{reader.path} holds {start} steps, its metadata.json says {steps}")
    flat = spaces.flatten(
        observation_space, observations, f"{reader.path}: observations", dtype=None
    )
    return {"observations": flat, "lengths": lengths, **columns}


def _length(reader: Members, name: str, at_most: int) -> int:
    """Rows of a dataset.

    Raises:
      InputError: no rows, or more than the metadata allow.
    """
    shape = reader.dataset(name).shape
    if not shape or shape[0] == 0:
        raise InputError(f"{reader.path}: {name} is empty, expected at least one transition")
    if shape[0] > at_most:
        raise InputError(f"{reader.path}: {name} exceeds the total_steps that metadata.json says")
    return shape[0]


def _dtype(leaf: spaces.Leaf) -> np.dtype:
    """Doubles stay doubles until the effect of float32 on them is checked."""
    return np.dtype(np.float64) if leaf.tree.get("dtype") == "float64" else leaf.dtype


def _action_leaf(tree: spaces.Tree, path: Path) -> spaces.Leaf:
    found = list(spaces.leaves(tree))
    if len(found) != 1 or found[0].path:
        raise InputError(
            f"{path}: actions of a {tree['type']} space are not supported, expected Box or Discrete"
        )
    return found[0]
