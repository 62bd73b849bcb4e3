"""`.npz` files: datasets saved as they are, and plain arrays of transitions."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddm.data import columns as host
from ddm.data.arrays import from_mapping
from ddm.data.dataset import Dataset, DatasetInfo
from ddm.data.normalization import Normalization
from ddm.data.spaces import parse_space
from ddm.errors import InputError
from ddm.types import Box, Discrete, Space

FORMAT = "ddm-dataset"
VERSION = 1
HEADER = "header"  # JSON: format, version and DatasetInfo
PREFIX = "normalization_"

ARRAYS = (
    "observations",
    "actions",
    "rewards",
    "terminations",
    "truncations",
    "episode_starts",
    "returns_to_go",
    "raw_returns",
)


def save_npz(dataset: Dataset, path: str | os.PathLike) -> None:
    """Saves a dataset with its normalization; `load` gives back the same arrays.

    The file appears whole or not at all.

    Raises:
      InputError: it cannot be written.
    """
    path = Path(path)
    info = dataclasses.asdict(dataset.info)
    for field in ("observation_space", "action_space"):
        info[field]["type"] = type(getattr(dataset.info, field)).__name__
    header = json.dumps({"format": FORMAT, "version": VERSION, "info": info})
    arrays: dict[str, Any] = {name: np.asarray(getattr(dataset, name)) for name in ARRAYS}
    arrays[HEADER] = np.array(header)
    for statistic in dataclasses.fields(Normalization):
        value = getattr(dataset.normalization, statistic.name)
        if value is not None:
            arrays[PREFIX + statistic.name] = np.asarray(value)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def read_npz(path: Path, **options: Any) -> Dataset:
    """A dataset from `save_npz`, or from named arrays of transitions as `from_arrays` takes them.

    Args:
      path: the file.
      **options: of `from_arrays`, for plain arrays.

    Raises:
      InputError: names the file and what is wrong with it.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable .npz of plain arrays: {error}") from error
    if HEADER not in arrays:
        return from_mapping(arrays, name=str(path), **options)
    return _read_saved(arrays, path)


def _read_saved(arrays: Mapping[str, Any], path: Path) -> Dataset:
    info = _read_header(arrays, path)
    for name in ARRAYS:
        if name not in arrays:
            raise InputError(f"{path}: array {name} is missing")
    normalization: dict[str, Any] = {}
    for field in dataclasses.fields(Normalization):
        value = arrays.get(PREFIX + field.name)
        normalization[field.name] = None if value is None else jnp.asarray(value)
    columns = host.Columns(
        source=str(path),
        lengths=np.diff(arrays["episode_starts"]),
        observation_space=parse_space(info.observation_space),
        **{name: arrays[name] for name in ARRAYS if name != "episode_starts"},
    )
    host.check_lengths(columns)
    host.check_finite(columns)
    host.close_episodes(columns)
    if isinstance(info.action_space, Box) and np.abs(columns.actions).max() > 1:
        raise InputError(f"{path}: actions are outside [-1, 1], where save_npz leaves them")
    return host.to_device(
        info, Normalization(**normalization), **{name: arrays[name] for name in ARRAYS}
    )


def _read_header(arrays: Mapping[str, np.ndarray], path: Path) -> DatasetInfo:
    try:
        header = json.loads(str(arrays[HEADER]))
        kind, version = header["format"], header["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: the header is not that of a saved dataset") from error
    if kind != FORMAT or version > VERSION:
        raise InputError(
            f"{path} has format {kind} {version}, expected {FORMAT} up to version {VERSION}"
        )
    info = header["info"]
    for field in ("observation_space", "action_space"):
        info[field] = _read_space(info[field])
    if info["reference_scores"] is not None:
        info["reference_scores"] = tuple(info["reference_scores"])
    info["notes"] = tuple(info.get("notes", ()))
    return DatasetInfo(**info)


def _read_space(fields: dict[str, Any]) -> Space:
    if fields.pop("type") == "Discrete":
        return Discrete(**fields)
    vectors = {name: tuple(fields[name]) for name in ("shape", "low", "high")}
    return Box(**vectors, dtype=fields["dtype"])
