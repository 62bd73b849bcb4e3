"""`load`: a dataset from wherever it is stored.

A source is one of

- a Minari id, such as "D4RL/door/human-v2"; downloaded if it is not on this machine;
- the folder of a Minari dataset, or a `minari.MinariDataset`, filtered or not;
- a D4RL file (.hdf5), by the rules of `ddm.data.d4rl.read_d4rl`;
- an .npz file of `save_npz`, or of plain arrays as `from_arrays` takes them;
- a .csv file or a pandas DataFrame, see `ddm.data.tables`;
- arrays in a mapping.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddm.data.arrays import from_mapping
from ddm.data.columns import build, override
from ddm.data.d4rl import read_d4rl
from ddm.data.dataset import Dataset
from ddm.data.minari_finding import MAIN_FILE, METADATA, data_folder, find_dataset, is_dataset_id
from ddm.data.minari_io import is_minari_object, read_minari, read_minari_object
from ddm.data.npz import read_npz
from ddm.data.reading import reading, reason, require_file
from ddm.data.spaces import parse_space
from ddm.data.tables import from_csv, from_table, is_table
from ddm.errors import InputError

HDF5_SUFFIXES = (".hdf5", ".h5")
KINDS = "a Minari id or folder, a D4RL .hdf5 file, an .npz or .csv file, or a mapping of arrays"


def load(
    source: Any,
    *,
    observation_space: Any = None,
    action_space: Any = None,
    clip_actions: bool = False,
    environment_id: str | None = None,
    reference_scores: tuple[float, float] | None = None,
    max_episode_steps: int | None = None,
    name: str | None = None,
    download: bool = True,
    cache: bool | None = None,
    external_links: bool = False,
) -> Dataset:
    """A dataset from any source of this module, validated, on the default device.

    Observations of Dict, Tuple and Discrete spaces are flattened by the rules of
    `gymnasium.spaces.flatten`. Actions are mapped from their box to [-1, 1] and clipped to
    +-(1 - 1e-5); those outside the box are refused, unless `clip_actions` says otherwise.

    Args:
      source: a Minari id, folder or `minari.MinariDataset`, a path, a data frame or a mapping.
      observation_space: of plain arrays, where it cannot be guessed; see `from_arrays`.
      action_space: where the source has none or one without bounds; see `from_arrays`.
      clip_actions: moves real actions outside their box onto its edge, as many environments do
        (people who teleoperate an Adroit hand leave it), instead of refusing them.
      environment_id: overrides the source's, together with its specification.
      reference_scores: (random, expert) returns; overrides the source's.
      max_episode_steps: the time limit, for D4RL's fields without `timeouts`.
      name: what error messages and reports call the dataset; None for its id, path or kind.
      download: False refuses a Minari id that is not on this machine.
      cache: whether a memory-mapped copy of a Minari dataset is kept under $DDM_CACHE or
        ~/.cache/ddm. None keeps one of datasets that are slow to read: many episodes, or not HDF5.
      external_links: whether parts of an HDF5 file may lie in other files of this machine.

    Raises:
      InputError: names the file, the field, the episode and what was expected.
      MissingDependencyError: the source needs a package that is not installed.
    """
    given: dict[str, Any] = {"environment_id": environment_id, "reference_scores": reference_scores}
    spaces = {"observation_space": observation_space, "action_space": action_space}
    options = {**given, **spaces, "clip_actions": clip_actions}
    options["max_episode_steps"] = max_episode_steps
    if isinstance(source, Mapping):
        return from_mapping(source, name=name or "arrays", **options)
    if is_table(source):
        return from_table(source, name=name or "DataFrame", **options)
    if isinstance(source, (str, os.PathLike)) and (path := _file(source)) is not None:
        # A saved set keeps the name of its first source; but two copies of it are two files.
        return _rename(_read_file(path, external_links, **options), name or str(path))
    return _rename(_load_minari(source, download, cache, external_links, **options), name)


def _file(source: str | os.PathLike) -> Path | None:
    """The path of a source that is one file by its ending; None for Minari's ids and folders."""
    path = _expanded(source)
    known = path.suffix in (*HDF5_SUFFIXES, ".npz", ".csv") and path.name != MAIN_FILE
    return path if known else None


def _expanded(source: str | os.PathLike) -> Path:
    try:
        return Path(source).expanduser()
    except (RuntimeError, TypeError) as error:  # ~name of an unknown user; a path of bytes
        raise InputError(f"{source} is no path: {reason(error)}") from error


def _read_file(path: Path, external_links: bool, **options: Any) -> Dataset:
    require_file(path, KINDS)
    if path.suffix == ".npz":
        return read_npz(path, **options)
    if path.suffix == ".csv":
        return from_csv(path, **options)
    return read_d4rl(path, external_links=external_links, **options)


def _load_minari(
    source: Any,
    download: bool,
    cache: bool | None,
    external_links: bool,
    *,
    observation_space: Any,
    action_space: Any,
    clip_actions: bool,
    environment_id: str | None,
    reference_scores: tuple[float, float] | None,
    max_episode_steps: int | None,
) -> Dataset:
    del max_episode_steps  # Minari's episodes have flags of both kinds
    if observation_space is not None:
        raise InputError(f"{source}: a Minari dataset has its observation_space, which is kept")
    options = {"external_links": external_links, "reference_scores": reference_scores}
    if is_minari_object(source):
        columns = read_minari_object(source, cache, **options)
    elif isinstance(source, (str, os.PathLike)):
        columns = read_minari(_minari_folder(source, download), cache, **options)
    else:
        raise InputError(f"a dataset in a {type(source).__name__} is unknown, expected {KINDS}")
    columns = override(columns, environment_id, reference_scores)
    columns.clip_actions = clip_actions
    if action_space is not None:
        columns.action_space = parse_space(action_space, f"{columns.source}: action_space")
    with reading(columns.source, "Minari dataset"):
        return build(columns)


def _minari_folder(source: str | os.PathLike, download: bool) -> Path:
    path = _expanded(source)
    if path.name == MAIN_FILE:
        path = path.parent
    try:
        if path.is_dir():
            folder = data_folder(path)
            if folder is None:
                raise InputError(f"{path}: {METADATA} is missing, expected a Minari dataset")
            return folder
        exists = path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or with a zero byte
        raise InputError(f"{source} cannot be read ({reason(error)}), expected {KINDS}") from error
    if exists:
        kind = f"ends in {path.suffix}" if path.suffix else "has no ending"
        raise InputError(f"{path} is a file that {kind}, expected {KINDS}")
    if path.is_symlink():
        raise InputError(f"{path} is a link to {path.readlink()}, which leads nowhere")
    if isinstance(source, str) and is_dataset_id(source):
        return find_dataset(source, download)
    raise InputError(f"{source} does not exist, expected {KINDS}")


def _rename(dataset: Dataset, name: str | None) -> Dataset:
    if name is None:
        return dataset
    return dataclasses.replace(dataset, info=dataclasses.replace(dataset.info, name=name))
