"""D4RL's HDF5 files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ddm.data.arrays import FIELD_NAMES, from_mapping
from ddm.data.dataset import Dataset
from ddm.data.references import find_reference
from ddm.errors import InputError

# gymnasium's environments with the physics and observations of D4RL's. Ant is not among them: its
# D4RL observations hold contact forces that gymnasium leaves out by default.
ENVIRONMENTS = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4"}


def read_d4rl(path: Path, *, max_episode_steps: int | None = None, **options: Any) -> Dataset:
    """A dataset from a D4RL file, by the rules of `from_arrays`.

    An episode ends where `terminals` or `timeouts` is set. Without stored `next_observations` the
    last transition of an episode that ended by a timeout is dropped, because the observation
    after it is unknown (the next row belongs to another episode); `episode_returns` are those of
    the episodes as recorded. The first files (`-v0`) have no `timeouts`; they then follow from
    the environment's time limit.

    Args:
      path: the file; its name (`hopper_medium-v2.hdf5`) selects reference scores and environment.
      max_episode_steps: the time limit, for files without `timeouts`.
      **options: of `from_arrays`.

    Raises:
      InputError: names the file and the field.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            stored = {field for names in FIELD_NAMES.values() for field in names} & set(file)
            arrays = {field: np.asarray(file[field]) for field in sorted(stored)}
    except (OSError, TypeError) as error:
        raise InputError(f"{path} is not a readable D4RL file: {error}") from error
    if "timeouts" not in arrays and "terminals" in arrays:
        if max_episode_steps is None:
            raise InputError(
                f"{path}: field timeouts is missing; give max_episode_steps, the time limit of "
                "the environment"
            )
        arrays["timeouts"] = time_limit_flags(arrays["terminals"], max_episode_steps)
    reference = find_reference(path.stem)
    defaults: dict[str, Any] = {"environment_id": ENVIRONMENTS.get(re.split("[-_]", path.stem)[0])}
    if reference is not None:
        defaults["reference_scores"] = reference.scores
        defaults["reference_source"] = reference.source
    given = {key: value for key, value in options.items() if value is not None}
    return from_mapping(arrays, name=str(path), **{**defaults, **given})


def time_limit_flags(terminals: np.ndarray, max_episode_steps: int) -> np.ndarray:
    """(N,) bool: the steps at which an environment's time limit ended an episode."""
    terminals = np.asarray(terminals, bool).ravel()
    index = np.arange(len(terminals))
    first = np.concatenate([[True], terminals[:-1]])
    since_terminal = index - np.maximum.accumulate(np.where(first, index, 0))
    return (since_terminal + 1) % max_episode_steps == 0
