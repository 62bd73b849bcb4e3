"""D4RL's HDF5 files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ddm.data.arrays import from_mapping
from ddm.data.dataset import Dataset
from ddm.data.fields import SETTINGS, find_fields
from ddm.data.hdf5 import open_hdf5
from ddm.data.memory import check_declared
from ddm.data.reading import reading
from ddm.data.references import find_reference
from ddm.errors import InputError

KIND = "D4RL file"

# gymnasium's environments with the physics and observations of D4RL's. Ant is not among them: its
# D4RL observations hold contact forces that gymnasium leaves out by default.
ENVIRONMENTS = {"halfcheetah": "HalfCheetah-v4", "hopper": "Hopper-v4", "walker2d": "Walker2d-v4"}
ACTION_BOUNDS = (-1.0, 1.0)  # of every environment of D4RL, which scales actions to them


def read_d4rl(
    path: Path,
    *,
    max_episode_steps: int | None = None,
    external_links: bool = False,
    **options: Any,
) -> Dataset:
    """A dataset from a D4RL file, by the rules of `from_arrays`.

    An episode ends where `terminals` or `timeouts` is set. Without stored `next_observations` the
    last transition of an episode that ended by a timeout is dropped, because the observation
    after it is unknown (the next row belongs to another episode); `episode_returns` are those of
    the episodes as recorded. The first files (`-v0`) have no `timeouts`; they then follow from
    the environment's time limit.

    Args:
      path: the file; its name (`hopper_medium-v2.hdf5`) selects reference scores and environment.
      max_episode_steps: the time limit, for files without `timeouts`.
      external_links: whether parts of it may lie in other files, which are then read.
      **options: of `from_arrays`.

    Raises:
      InputError: names the file and the field.
    """
    arrays = _read_arrays(path, external_links)
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
    with reading(path, KIND):
        return from_mapping(arrays, name=str(path), **options)


def _read_arrays(path: Path, external_links: bool) -> dict[str, Any]:
    """The used fields of the file, read after a check that they fit the memory."""
    with open_hdf5(path, KIND, external_links) as members:
        stored = members.names()
        if "data" in stored and members.is_group("data"):
            raise InputError(
                f"{path} has a group data of episodes, as robomimic writes them, expected the "
                "flat arrays of D4RL; hand its episodes to ddm.data.from_episodes, each with "
                "the parts of obs that a policy shall see in one array"
            )
        fields = find_fields(stored, str(path)).values()
        names = sorted({*fields, *(name for name in SETTINGS if name in stored)})
        check_declared(sum(members.size(name) for name in names), str(path))
        return {name: members.read(name) for name in names}
