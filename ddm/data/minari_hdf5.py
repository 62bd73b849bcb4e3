"""Reads `main_data.hdf5` of a Minari dataset in bulk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddm.data import spaces
from ddm.data.memory import check_declared, reading
from ddm.data.progress import progress
from ddm.errors import InputError

if TYPE_CHECKING:
    import h5py

STEP_FIELDS = {"rewards": np.float64, "terminations": np.bool_, "truncations": np.bool_}


def read_episodes(
    path: Path,
    metadata: Mapping[str, Any],
    observation_space: spaces.Tree,
    action_space: spaces.Tree,
) -> dict[str, np.ndarray]:
    """All episodes, each array read straight to its place in a column.

    Args:
      path: `main_data.hdf5`.
      metadata: with `total_episodes` and `total_steps`.
      observation_space: nested or not.
      action_space: a single leaf.

    Returns:
      The arrays of `ddm.data.columns.Columns`: flattened observations (N + E, *O), `actions`,
      `rewards`, `terminations`, `truncations` and `lengths`.

    Raises:
      InputError: names the file, the HDF5 dataset (and with it the episode and the field), and
        what was expected.
    """
    import h5py

    try:
        # The default cache of 521 chunks per dataset costs more to set up than an episode to read.
        file = h5py.File(path, "r", rdcc_nslots=1)
    except OSError as error:
        raise InputError(f"{path} is not a readable HDF5 file: {error}") from error
    with file, reading(str(path)):
        return _read(_Reader(file, path), metadata, observation_space, action_space)


def _read(
    reader: _Reader,
    metadata: Mapping[str, Any],
    observation_space: spaces.Tree,
    action_space: spaces.Tree,
) -> dict[str, np.ndarray]:
    episodes, steps = metadata["total_episodes"], metadata["total_steps"]
    observation_leaves = list(spaces.leaves(observation_space))
    action = _action_leaf(action_space, reader.path)
    shapes = [(steps + episodes, *leaf.shape) for leaf in observation_leaves]
    dtypes = [_dtype(leaf) for leaf in observation_leaves]
    per_step = {"actions": (action.shape, _dtype(action))}
    per_step |= {field: ((), np.dtype(dtype)) for field, dtype in STEP_FIELDS.items()}
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
        length = reader.length(f"{group}/rewards", steps - start)
        for field, column in columns.items():
            reader.read(f"{group}/{field}", column[start : start + length])
        rows = slice(start + episode, start + episode + length + 1)
        for leaf, column in zip(observation_leaves, observations, strict=True):
            reader.read(leaf.name(f"{group}/observations"), column[rows])
        lengths[episode] = length
        start += length
    if start != steps:
        raise InputError(f"{reader.path} holds {start} steps, its metadata.json says {steps}")
    flat = spaces.flatten(
        observation_space, observations, f"{reader.path}: observations", dtype=None
    )
    return {"observations": flat, "lengths": lengths, **columns}


def _dtype(leaf: spaces.Leaf) -> np.dtype:
    """Doubles stay doubles until it is known what float32 makes of them."""
    return np.dtype(np.float64) if leaf.tree.get("dtype") == "float64" else leaf.dtype


def _action_leaf(tree: spaces.Tree, path: Path) -> spaces.Leaf:
    found = list(spaces.leaves(tree))
    if len(found) != 1 or found[0].path:
        raise InputError(
            f"{path}: actions of a {tree['type']} space are not supported, expected Box or Discrete"
        )
    return found[0]


class _Reader:
    """Reads HDF5 datasets into given arrays through h5py's low-level calls.

    With five or more of them in an episode, opening is what a read takes: about a tenth of a
    millisecond each this way, and twice that through `file[name][()]`.
    """

    def __init__(self, file: h5py.File, path: Path):
        from h5py import h5d, h5s, h5t  # pyright: ignore

        self.path = path
        self._file = file.id
        self._open = h5d.open
        self._all = h5s.ALL
        dtypes = (np.float32, np.float64, np.bool_, np.int64, np.uint8)
        self._types = {np.dtype(dtype): h5t.py_create(np.dtype(dtype)) for dtype in dtypes}
        self._last: tuple[str, Any] = ("", None)

    def _dataset(self, name: str) -> Any:
        if name != self._last[0]:
            try:
                self._last = (name, self._open(self._file, name.encode()))
            except (KeyError, ValueError, TypeError):
                raise InputError(f"{self.path}: {name} is missing") from None
        return self._last[1]

    def length(self, name: str, at_most: int) -> int:
        """Rows of a dataset.

        Raises:
          InputError: none, or more than the metadata leave room for.
        """
        shape = self._dataset(name).shape
        if not shape or shape[0] == 0:
            raise InputError(f"{self.path}: {name} is empty, expected at least one transition")
        if shape[0] > at_most:
            raise InputError(f"{self.path}: {name} exceeds the total_steps that metadata.json says")
        return shape[0]

    def read(self, name: str, out: np.ndarray) -> None:
        """Reads a dataset into `out`, converted to its dtype."""
        dataset = self._dataset(name)
        shape = dataset.shape
        if shape != out.shape and shape != (*out.shape, 1):
            raise InputError(f"{self.path}: {name} has shape {shape}, expected {out.shape}")
        try:
            dataset.read(self._all, self._all, out, self._types[out.dtype])
        except (OSError, TypeError) as error:
            raise InputError(f"{self.path}: {name} cannot be read: {error}") from error
