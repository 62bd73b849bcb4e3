"""`.npz` files: datasets saved as they are, and plain arrays of transitions."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import uuid
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddm.data import columns as host
from ddm.data.arrays import from_mapping
from ddm.data.dataset import Dataset, DatasetInfo
from ddm.data.fields import EXTRAS, SETTINGS, find_fields
from ddm.data.memory import check_declared, reading
from ddm.data.normalization import Normalization
from ddm.data.spaces import from_record, parse_space, to_record
from ddm.errors import InputError
from ddm.types import Box, Discrete

FORMAT = "ddm-dataset"
VERSION = 2
HEADER = "header"  # JSON: format, version and DatasetInfo
PREFIX = "normalization_"

UNKNOWN_LENGTHS = 1  # files up to this version do not say which episodes lost their last step

ARRAYS = (
    "observations",
    "actions",
    "rewards",
    "terminations",
    "truncations",
    "episode_starts",
    "returns_to_go",
    "raw_returns",
    "recorded_lengths",
)


def save_npz(dataset: Dataset, path: str | os.PathLike) -> None:
    """Saves a dataset with its normalization; `load` gives back the same arrays.

    The file appears whole or not at all, and `~` in its path is the home folder.

    Raises:
      InputError: it cannot be written.
    """
    path = Path(path).expanduser()
    info = dataclasses.asdict(dataset.info)
    for field in ("observation_space", "action_space"):
        info[field] = to_record(getattr(dataset.info, field))
    header = json.dumps({"format": FORMAT, "version": VERSION, "info": info})
    arrays: dict[str, Any] = {name: np.asarray(getattr(dataset, name)) for name in ARRAYS}
    arrays[HEADER] = np.array(header)
    for statistic in dataclasses.fields(Normalization):
        value = getattr(dataset.normalization, statistic.name)
        if value is not None:
            arrays[PREFIX + statistic.name] = np.asarray(value)
    # Not by tempfile, whose files only their owner may read.
    temporary = path.parent / f".writing-{uuid.uuid4().hex}"
    try:
        try:
            with open(temporary, "xb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def read_npz(path: Path, *, max_episode_steps: int | None = None, **options: Any) -> Dataset:
    """A dataset from `save_npz`, or from named arrays of transitions as `from_arrays` takes them.

    Args:
      path: the file.
      max_episode_steps: as for `from_mapping`, for plain arrays.
      **options: of `from_arrays`, for plain arrays.

    Raises:
      InputError: names the file and what is wrong with it.
    """
    try:
        sizes = _declared_sizes(path)
        if HEADER not in sizes:
            used = {*find_fields(sizes, str(path)).values(), *SETTINGS, *EXTRAS} & set(sizes)
            sizes = {name: size for name, size in sizes.items() if name in used}
        check_declared(sum(sizes.values()), str(path))
        with np.load(path, allow_pickle=False) as file, reading(str(path)):
            arrays = {name: file[name] for name in sizes}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable .npz of plain arrays: {error}") from error
    if HEADER in arrays:
        return _read_saved(arrays, path)
    with reading(str(path)):
        return from_mapping(arrays, str(path), max_episode_steps=max_episode_steps, **options)


def _declared_sizes(path: Path) -> dict[str, int]:
    """Bytes of each array as it will be in memory, from the headers alone."""
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    sizes = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                if version not in read_header:
                    raise ValueError(f"array {name} has version {version} of numpy's format")
                shape, _, dtype = read_header[version](file)
            sizes[name.removesuffix(".npy")] = math.prod(shape) * dtype.itemsize
    return sizes


def _read_saved(arrays: Mapping[str, Any], path: Path) -> Dataset:
    info, version = _read_header(arrays, path)
    if version <= UNKNOWN_LENGTHS:
        arrays = {**arrays, **_complete(arrays, info)}
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
        inner_stops=True,  # the file bounds its episodes itself
        **{name: arrays[name] for name in ARRAYS if name != "episode_starts"},
    )
    host.check_lengths(columns)
    host.check_finite(columns)
    host.check_images(columns)
    host.close_episodes(columns)
    if isinstance(info.action_space, Box) and np.abs(columns.actions).max() > 1:
        raise InputError(f"{path}: actions are outside [-1, 1], where save_npz leaves them")
    if normalization["action_center"] is not None and isinstance(info.action_space, Discrete):
        start = int(normalization["action_center"])
        info = dataclasses.replace(info, action_space=Discrete(info.action_space.n, start))
    return host.to_device(
        info, Normalization(**normalization), **{name: arrays[name] for name in ARRAYS}
    )


def _complete(arrays: Mapping[str, np.ndarray], info: DatasetInfo) -> dict[str, np.ndarray]:
    """The steps of the episodes as recorded, which files of version 1 lack.

    Where any step had been dropped then, the last one of every truncated episode had.
    """
    try:
        starts, terminations = arrays["episode_starts"], arrays["terminations"]
        lost = ~terminations[starts[1:] - 1] & (info.dropped_transitions > 0)
    except (KeyError, IndexError):
        return {}  # named by the checks that follow
    return {"recorded_lengths": np.diff(starts) + lost}


def _read_header(arrays: Mapping[str, np.ndarray], path: Path) -> tuple[DatasetInfo, int]:
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
        info[field] = from_record(info[field])
    if info["reference_scores"] is not None:
        info["reference_scores"] = tuple(info["reference_scores"])
    info["notes"] = tuple(info.get("notes", ()))
    return DatasetInfo(**info), version
