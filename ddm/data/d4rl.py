"""D4RL's HDF5 files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ddm.data.arrays import from_mapping
from ddm.data.dataset import Dataset
from ddm.data.fields import SETTINGS, find_fields
from ddm.data.memory import check_declared, reading
from ddm.data.references import find_reference
from ddm.errors import InputError

# gymnasium's environments with the physics and observations of D4RL's. Ant is not among them: its
# D4RL observations hold contact forces that gymnasium leaves out by default.
ENVIRONMENTS = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4"}
ACTION_BOUNDS = (-1.0, 1.0)  # of every environment of D4RL, which scales actions to them


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
        with h5py.File(path, "r") as file, reading(str(path)):
            if isinstance(file.get("data"), h5py.Group):
                raise InputError(
                    f"{path} has a group data of episodes, as robomimic writes them, expected the "
                    "flat arrays of D4RL; hand its episodes to ddm.data.from_episodes, each with "
                    "the parts of obs that a policy shall see in one array"
                )
            fields = find_fields(file, str(path)).values()
            names = sorted({*fields, *(name for name in SETTINGS if name in file)})
            check_declared(sum(_size(file[name]) for name in names), str(path))
            arrays = {name: _read(file[name]) for name in names}
    except (OSError, TypeError) as error:
        raise InputError(f"{path} is not a readable D4RL file: {error}") from error
    reference = find_reference(path.stem)
    defaults: dict[str, Any] = {}
    task = re.split("[-_]", path.stem)[0]
    if task in ENVIRONMENTS and "environment_id" not in arrays:
        defaults["environment_id"] = ENVIRONMENTS[task]
    if reference is not None:
        if not {"action_low", "num_actions"} & set(arrays):
            defaults["action_space"] = ACTION_BOUNDS
        defaults["reference_scores"] = reference.scores
        defaults["reference_source"] = reference.source
    given = {key: value for key, value in options.items() if value is not None}
    options = {**defaults, **given, "max_episode_steps": max_episode_steps}
    return from_mapping(arrays, name=str(path), **options)


def _read(stored: Any) -> Any:
    """An array, or the arrays of a group by name: a dict observation."""
    if hasattr(stored, "keys"):
        return {key: _read(stored[key]) for key in stored}
    return stored[()]


def _size(stored: Any) -> int:
    """Bytes of a stored array, or of all in a group, as they will be in memory."""
    if hasattr(stored, "keys"):
        return sum(_size(stored[key]) for key in stored)
    return stored.size * stored.dtype.itemsize
