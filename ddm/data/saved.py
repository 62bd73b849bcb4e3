"""What `save_npz` writes, checked value by value when it is read back.

A file that claims to be a saved dataset is not trusted. Its arrays are used without a pass through
`columns.build`, so everything that `build` guarantees is checked here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ddm.data import columns as host
from ddm.data.dataset import Dataset, DatasetInfo
from ddm.data.normalization import Normalization
from ddm.data.saved_header import HEADER, read_header, read_info
from ddm.data.schema import shown
from ddm.data.spaces import parse_space
from ddm.data.values import LARGEST, locate
from ddm.errors import InputError
from ddm.types import Box, Discrete, Space

PREFIX = "normalization_"

UNKNOWN_LENGTHS = 1  # files up to this version do not record which episodes lost their last step

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
STATISTICS = tuple(PREFIX + field.name for field in dataclasses.fields(Normalization))

# numpy's kinds that each array may have; a wider float or integer becomes the 32 bits of the device
_KINDS = {
    "observations": "fu", "actions": "fi", "rewards": "f", "terminations": "b", "truncations": "b",
    "episode_starts": "i", "returns_to_go": "f", "raw_returns": "f", "recorded_lengths": "i",
}  # fmt: skip
RETURN_TOLERANCE = 1e-5  # relative: float32 rounds sums, and transforms round them again
SMALLEST = 1e-30  # numbers near the smallest of float32 may become zero on the device


def restore(
    arrays: Mapping[str, np.ndarray],
    path: Path,
    *,
    observation_space: Any = None,
    action_space: Any = None,
    clip_actions: bool = False,
    environment_id: str | None = None,
    reference_scores: tuple[float, float] | None = None,
) -> Dataset:
    """The dataset that was saved.

    Args:
      arrays: the header, and those of ARRAYS and STATISTICS that the file has.
      path: of the file, for error messages.
      observation_space: refused: the observations were flattened before they were saved.
      action_space: refused unless it is the saved one: the actions were mapped by that one.
      clip_actions: has no effect: all actions are inside their box already.
      environment_id: replaces the saved one.
      reference_scores: replaces the saved ones.

    Raises:
      InputError: an array or a value of the header is missing or not what `save_npz` writes.
    """
    del clip_actions
    record, version = read_header(arrays[HEADER], path)
    info = host.override(read_info(record, str(path)), environment_id, reference_scores)
    if version <= UNKNOWN_LENGTHS:
        arrays = {**arrays, **_complete(arrays, info)}
    for name in ARRAYS:
        if name not in arrays:
            raise InputError(f"{path}: array {name} is missing")
        if arrays[name].dtype.kind not in _KINDS[name]:
            raise InputError(f"{path}: array {name} has dtype {arrays[name].dtype}")
    statistics = {
        field.name: arrays.get(PREFIX + field.name) for field in dataclasses.fields(Normalization)
    }
    if version <= UNKNOWN_LENGTHS and isinstance(info.action_space, Discrete):
        info = dataclasses.replace(info, action_space=_with_start(info, statistics))
    _refuse_other_spaces(info, observation_space, action_space, path)
    _check_episodes(arrays, info, path)
    _check_statistics(statistics, arrays, info, path)
    _check_actions(arrays["actions"], info.action_space, path)
    _check_returns(arrays, statistics, path)
    maps: dict[str, Any] = {
        name: None if value is None else jnp.asarray(value, _statistic_dtype(name, info))
        for name, value in statistics.items()
    }
    kept = {name: arrays[name] for name in ARRAYS}
    return host.to_device(info, Normalization(**maps), **kept)


def _refuse_other_spaces(
    info: DatasetInfo, observation_space: Any, action_space: Any, path: Path
) -> None:
    if observation_space is not None:
        raise InputError(
            f"{path} was saved with its observations flattened: observation_space is for plain "
            "arrays"
        )
    if action_space is None:
        return
    given, saved = parse_space(action_space), parse_space(info.action_space)
    same = given["type"] == saved["type"] and all(
        np.array_equal(np.broadcast_to(given.get(key, 0), np.shape(saved[key])), saved[key])
        for key in (("low", "high") if saved["type"] == "Box" else ("n", "start"))
        if np.ndim(given.get(key, 0)) <= np.ndim(saved[key])
    )
    if not same:
        raise InputError(
            f"{path} was saved with its actions mapped by the space {info.action_space}, which "
            "cannot be replaced: give action_space where the data are first loaded, and save them "
            "again"
        )


def _complete(arrays: Mapping[str, np.ndarray], info: DatasetInfo) -> dict[str, np.ndarray]:
    """The steps of the episodes as recorded, which files of version 1 lack.

    In that version, if any step was dropped, the last step of every truncated episode was.
    """
    try:
        starts, terminations = arrays["episode_starts"], arrays["terminations"]
        lost = ~terminations[starts[1:] - 1] & (info.dropped_transitions > 0)
        return {"recorded_lengths": np.diff(starts) + lost}
    except (KeyError, IndexError, TypeError, ValueError):
        return {}  # named by the checks that follow


def _with_start(info: DatasetInfo, statistics: Mapping[str, Any]) -> Space:
    """The space with the start of its integers, which the first version kept elsewhere."""
    start, space = statistics["action_center"], info.action_space
    if start is None or np.shape(start) != () or start.dtype.kind != "i":
        return space
    return dataclasses.replace(space, start=int(start))


# --- The arrays ---


def _check_episodes(arrays: Mapping[str, np.ndarray], info: DatasetInfo, path: Path) -> None:
    """Bounds of episodes, lengths and values: what `columns.build` guarantees."""
    starts, rows = arrays["episode_starts"], len(np.atleast_1d(arrays["rewards"]))
    rising = starts.ndim == 1 and starts.size > 1 and bool(np.all(np.diff(starts) > 0))
    if not rising or starts[0] != 0:
        raise InputError(
            f"{path}: episode_starts is {shown(starts.tolist())}, expected rising indices from 0"
        )
    fields: dict[str, Any] = {name: arrays[name] for name in ARRAYS if name != "episode_starts"}
    columns = host.Columns(
        source=str(path),
        lengths=np.diff(starts),
        observation_space=parse_space(info.observation_space),
        inner_stops=True,  # the file bounds its episodes itself
        **fields,
    )
    host.check_lengths(columns)
    host.check_finite(columns)
    host.check_images(columns)
    truncations = host.close_episodes(columns)
    if not np.array_equal(truncations, columns.truncations):
        raise InputError(f"{path}: an episode ends without a flag, where save_npz sets truncations")
    _check_observations(columns.observations, info.observation_space, path)
    lost = arrays["recorded_lengths"] - columns.lengths if _is_row(arrays, columns) else None
    if lost is None or np.any((lost < 0) | (lost > 1)) or lost.sum() > info.dropped_transitions:
        raise InputError(
            f"{path}: recorded_lengths are not the lengths of the {len(columns.lengths)} episodes, "
            f"of which {info.dropped_transitions} transitions were dropped"
        )
    if max(info.clipped_actions, info.moved_actions) > rows or info.data_cuts > rows:
        raise InputError(f"{path}: the header counts more than the {rows} transitions there are")


def _check_observations(observations: np.ndarray, space: Space, path: Path) -> None:
    assert isinstance(space, Box)  # by `read_info`
    expected_kind = "u" if space.dtype == "uint8" else "f"
    if (
        observations.shape[1:] != space.shape
        or observations.dtype.kind != expected_kind
        or (expected_kind == "u" and observations.dtype != np.uint8)
    ):
        raise InputError(
            f"{path}: observations are {observations.dtype} of shape {observations.shape[1:]} per "
            f"step, the header's observation_space says {space.dtype} of "
            f"{space.shape}"
        )


def _is_row(arrays: Mapping[str, np.ndarray], columns: host.Columns) -> bool:
    return arrays["recorded_lengths"].shape == columns.lengths.shape


def _check_actions(actions: np.ndarray, space: Space, path: Path) -> None:
    if isinstance(space, Discrete):
        fits = actions.ndim == 1 and actions.dtype.kind == "i"
        if not fits or actions.min() < 0 or actions.max() >= space.n:
            raise InputError(
                f"{path}: actions are {actions.dtype} of shape {actions.shape}, expected integers "
                f"from 0 to {space.n - 1}, as save_npz leaves them"
            )
    elif actions.dtype.kind != "f" or actions.shape[1:] != (len(space.low),):
        raise InputError(
            f"{path}: actions are {actions.dtype} of shape {actions.shape}, the header's "
            f"action_space has {len(space.low)} dimensions"
        )
    elif np.abs(actions).max() > 1:
        raise InputError(f"{path}: actions are outside [-1, 1], where save_npz leaves them")


def _statistic_dtype(name: str, info: DatasetInfo) -> Any:
    whole = name == "action_center" and isinstance(info.action_space, Discrete)
    return jnp.int32 if whole else jnp.float32


def _check_statistics(
    statistics: Mapping[str, np.ndarray | None],
    arrays: Mapping[str, np.ndarray],
    info: DatasetInfo,
    path: Path,
) -> None:
    """The maps of the normalization: shapes, finite numbers, and divisors above zero."""
    observations, space = arrays["observations"], info.action_space
    of_observations = None if observations.dtype == np.uint8 else observations.shape[1:]
    center, scale = _expected_map(space)
    shapes = {
        "observation_mean": of_observations,
        "observation_std": of_observations,
        "action_center": None if center is None else np.shape(center),
        "action_scale": None if scale is None else np.shape(scale),
        "reward_scale": (),
        "reward_shift": (),
    }
    for name, shape in shapes.items():
        value = statistics[name]
        where = f"{path}: array {PREFIX}{name}"
        if shape is None or value is None:
            if (shape is None) != (value is None):
                fault = "is there and does not belong to the spaces" if shape is None else "missing"
                raise InputError(f"{where} is {fault}".replace("is is", "is"))
            continue
        if value.shape != shape or value.dtype.kind not in "fi":
            raise InputError(
                f"{where} is {value.dtype} of shape {value.shape}, expected numbers of {shape}"
            )
        if not np.all(np.abs(value) <= LARGEST):
            raise InputError(f"{where} is not finite")
        if name in ("observation_std", "action_scale", "reward_scale") and not np.all(value > 0):
            raise InputError(f"{where} is not positive, and values are divided by it")
    # The middle and the half width come from the bounds, which float32 rounds.
    largest = np.max(np.abs([space.low, space.high])) if isinstance(space, Box) else 0.0
    rounding = np.finfo(np.float32).eps * largest
    for name, expected in (("action_center", center), ("action_scale", scale)):
        stored = statistics[name]
        if stored is None or expected is None:
            continue
        if not np.allclose(stored, expected, rtol=RETURN_TOLERANCE, atol=rounding):
            raise InputError(f"{path}: array {PREFIX}{name} is not that of the header's space")


def _expected_map(space: Space) -> tuple[Any, Any]:
    """Middle and half width of a box; the start of integers that do not begin at 0."""
    if isinstance(space, Discrete):
        return (np.asarray(space.start), None) if space.start else (None, None)
    low, high = (np.asarray(bound, np.float64) for bound in (space.low, space.high))
    return (low + high) / 2, (high - low) / 2


def _check_returns(
    arrays: Mapping[str, np.ndarray], statistics: Mapping[str, Any], path: Path
) -> None:
    """Returns are the sums of the rewards, except for rounding and a dropped last step."""
    starts, rewards = arrays["episode_starts"], arrays["rewards"].astype(np.float64)
    episodes = len(starts) - 1
    for name, rows in (("returns_to_go", len(rewards)), ("raw_returns", episodes)):
        if arrays[name].shape != (rows,):
            raise InputError(f"{path}: {name} has shape {arrays[name].shape}, expected ({rows},)")
        if not np.all(np.abs(arrays[name]) <= LARGEST):
            raise InputError(f"{path}: {name} is NaN or infinite")
    scale, shift = (float(statistics[name]) for name in ("reward_scale", "reward_shift"))
    to_go = arrays["returns_to_go"].astype(np.float64)
    lengths, recorded = np.diff(starts), arrays["recorded_lengths"].astype(np.float64)
    ends = np.repeat(starts[:-1] + recorded, lengths)
    shifts = np.abs(shift) * (ends - np.arange(len(rewards)))  # size of the shift in each
    rest = np.append(to_go[1:], 0.0)
    complete = recorded == lengths
    rest[starts[1:] - 1] = np.where(complete, 0.0, to_go[starts[1:] - 1] - rewards[starts[1:] - 1])
    size = np.abs(to_go) + np.abs(rest) + np.abs(rewards) + 4 * shifts + SMALLEST
    wrong = np.flatnonzero(np.abs(rewards + rest - to_go) > RETURN_TOLERANCE * size)
    if wrong.size:
        raise InputError(
            f"{path}: returns_to_go is not the sum of the rewards that follow at "
            f"{locate(int(wrong[0]), lengths)} ({wrong.size} such rows)"
        )
    first = to_go[starts[:-1]]
    expected = scale * arrays["raw_returns"].astype(np.float64) + shift * recorded
    size = np.abs(expected) + np.abs(first) + 4 * shifts[starts[:-1]] + SMALLEST
    wrong = np.flatnonzero(np.abs(expected - first) > RETURN_TOLERANCE * size)
    if wrong.size:
        raise InputError(
            f"{path}: raw_returns of episode {wrong[0]} is not its first return-to-go in the "
            "environment's units"
        )
