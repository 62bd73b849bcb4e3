"""`load`: a dataset from wherever it is stored."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddm.data.arrays import from_mapping
from ddm.data.columns import Columns, build
from ddm.data.d4rl import read_d4rl
from ddm.data.dataset import Dataset
from ddm.data.minari_io import (
    MAIN_FILE,
    data_folder,
    find_dataset,
    is_dataset_id,
    is_minari_object,
    read_minari,
    read_minari_object,
)
from ddm.data.npz import read_npz
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
) -> Dataset:
    """A dataset from storage, validated, on the default device.

    Observations of Dict, Tuple and Discrete spaces are flattened by the rules of
    `gymnasium.spaces.flatten`. Actions are mapped from their box to [-1, 1] and clipped to
    +-(1 - 1e-5); those outside the box are refused, unless `clip_actions` says otherwise.

    Args:
      source: one of
        - a Minari id, such as "D4RL/door/human-v2"; downloaded if it is not on this machine;
        - the folder of a Minari dataset, or a `minari.MinariDataset`, filtered or not;
        - a D4RL file (.hdf5), by the rules of `ddm.data.d4rl.read_d4rl`;
        - an .npz file of `save_npz`, or of plain arrays as `from_arrays` takes them;
        - a .csv file or a pandas DataFrame, see `ddm.data.tables`;
        - arrays in a mapping.
      observation_space: of plain arrays, where it cannot be guessed; see `from_arrays`.
      action_space: where the source has none or one without bounds; see `from_arrays`.
      clip_actions: moves real actions outside their box onto its edge, as many environments do
        (people who teleoperate an Adroit hand leave it), instead of refusing them.
      environment_id: overrides the source's, with all that it specifies of it.
      reference_scores: (random, expert) returns; overrides the source's.
      max_episode_steps: the time limit, for D4RL's fields without `timeouts`.
      name: what error messages and reports call the dataset; None for its id, path or kind.
      download: False refuses a Minari id that is not on this machine.
      cache: whether a memory-mapped copy of a Minari dataset is kept under $DDM_CACHE or
        ~/.cache/ddm. None keeps one of datasets that are slow to read: many episodes, or not HDF5.

    Raises:
      InputError: names the file, the field, the episode and what was expected.
      MissingDependencyError: the source needs a package that is not installed.
    """
    given: dict[str, Any] = {"environment_id": environment_id, "reference_scores": reference_scores}
    options = given | {
        "observation_space": observation_space,
        "action_space": action_space,
        "clip_actions": clip_actions,
        "max_episode_steps": max_episode_steps,
    }
    if is_minari_object(source):
        columns = read_minari_object(source, cache)
        return _rename(_build(columns, action_space, clip_actions, **given), name)
    if isinstance(source, Mapping):
        return from_mapping(source, name=name or "arrays", **options)
    if is_table(source):
        return from_table(source, name=name or "DataFrame", **options)
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"a dataset in a {type(source).__name__} is unknown, expected {KINDS}")
    path = Path(source).expanduser()
    if path.suffix in HDF5_SUFFIXES and path.name != MAIN_FILE:
        _require_file(path)
        dataset = read_d4rl(path, **options)
    elif path.suffix == ".npz":
        _require_file(path)
        dataset = _override(read_npz(path, **options), **given)
    elif path.suffix == ".csv":
        _require_file(path)
        dataset = from_csv(path, **options)
    else:
        folder = _minari_folder(source, path, download)
        return _rename(
            _build(read_minari(folder, cache), action_space, clip_actions, **given), name
        )
    # A saved set carries the name of its first source; two copies of it are two files.
    return _rename(dataset, name or str(path))


def _build(
    columns: Columns,
    action_space: Any,
    clip_actions: bool,
    environment_id: str | None,
    reference_scores: tuple[float, float] | None,
) -> Dataset:
    columns.clip_actions = clip_actions
    if action_space is not None:
        columns.action_space = parse_space(action_space)
    return _override(build(columns), environment_id, reference_scores)


def _require_file(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path} does not exist, expected {KINDS}")
    if not path.is_file():
        raise InputError(f"{path} is no file, expected {KINDS}")


def _minari_folder(source: str | os.PathLike, path: Path, download: bool) -> Path:
    if path.name == MAIN_FILE:
        path = path.parent
    if path.is_dir():
        folder = data_folder(path)
        if folder is None:
            raise InputError(f"{path}: metadata.json is missing, expected a Minari dataset")
        return folder
    if path.exists():
        kind = f"ends in {path.suffix}" if path.suffix else "has no ending"
        raise InputError(f"{path} is a file that {kind}, expected {KINDS}")
    if isinstance(source, str) and is_dataset_id(source):
        return find_dataset(source, download)
    raise InputError(f"{source} does not exist, expected {KINDS}")


def _rename(dataset: Dataset, name: str | None) -> Dataset:
    if name is None:
        return dataset
    return dataclasses.replace(dataset, info=dataclasses.replace(dataset.info, name=name))


def _override(
    dataset: Dataset,
    environment_id: str | None,
    reference_scores: tuple[float, float] | None,
) -> Dataset:
    changes: dict[str, Any] = {}
    if environment_id is not None:
        changes["environment_id"] = environment_id
        changes |= {"environment_spec": None, "environment_source": "given at load"}
    if reference_scores is not None:
        changes |= {"reference_scores": reference_scores, "reference_source": "given at load"}
    return dataclasses.replace(dataset, info=dataclasses.replace(dataset.info, **changes))
