"""`.npz` files: saved datasets, and plain arrays of transitions."""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ddm.data.archive import KIND, Archive
from ddm.data.arrays import from_mapping
from ddm.data.dataset import Dataset
from ddm.data.fields import EXTRAS, SETTINGS, find_fields
from ddm.data.normalization import Normalization
from ddm.data.reading import reading, reason
from ddm.data.saved import ARRAYS, PREFIX, STATISTICS, restore
from ddm.data.saved_header import FORMAT, HEADER, VERSION
from ddm.data.spaces import to_record
from ddm.errors import InputError


def save_npz(dataset: Dataset, path: str | os.PathLike) -> None:
    """Saves a dataset with its normalization; `load` gives back the same arrays.

    The file appears whole or not at all, and `~` in its path is the home folder.

    Raises:
      InputError: it cannot be written.
    """
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
    try:
        path = Path(path).expanduser()
        # Not by tempfile: only the owner may read its files.
        temporary = path.parent / f".writing-{uuid.uuid4().hex}"
        try:
            with open(temporary, "xb") as file:
                np.savez(file, allow_pickle=False, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, ValueError, RuntimeError) as error:  # a zero byte in the name, no home folder
        raise InputError(f"{path} cannot be written: {reason(error)}") from error


def read_npz(path: Path, *, max_episode_steps: int | None = None, **options: Any) -> Dataset:
    """A dataset from `save_npz`, or from named arrays of transitions as `from_arrays` takes them.

    Args:
      path: the file; only the arrays that are used are read from it.
      max_episode_steps: as for `from_mapping`, for plain arrays.
      **options: of `from_arrays`; of a saved dataset, only names and scores can be replaced.

    Raises:
      InputError: names the file and what is wrong with it.
    """
    with reading(path, KIND) as place, zipfile.ZipFile(path) as file:
        archive = Archive(file, path, place)
        saved = HEADER in archive.names
        if saved:
            used = {HEADER, *ARRAYS, *STATISTICS}
        else:
            used = {*find_fields(archive.names, str(path)).values(), *SETTINGS, *EXTRAS}
        arrays = archive.read(name for name in archive.names if name in used)
    with reading(path, KIND):
        if saved:
            return restore(arrays, path, **options)
        return from_mapping(arrays, str(path), max_episode_steps=max_episode_steps, **options)
