"""Datasets that `save_npz` wrote: the header and the arrays, changed one at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from damages.kinds import REFUSED, WEIRD, Damage
from damages.plain import arrays_of
from ddm import data


def whole() -> data.Dataset:
    """Three episodes, the last of which lost its last step."""
    rng = np.random.default_rng(0)
    return data.from_arrays(
        rng.normal(size=(9, 2)),
        rng.uniform(-1.5, 1.5, (9, 2)),
        rng.normal(size=9),
        [0, 0, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0, 1],
        action_space=([-2.0, -2.0], [2.0, 3.0]),
        environment_id="Env-v0",
        reference_scores=(0.0, 10.0),
    )


def write_saved(folder: Path) -> Path:
    """A saved dataset."""
    data.save_npz(data.normalize(whole(), "standardize", "minus_one"), folder / "saved.npz")
    return folder / "saved.npz"


def with_array(name: str, change: Callable[[np.ndarray], Any]) -> Callable:
    """A change to one array of an `.npz` file; None leaves it out."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        arrays = arrays_of(path)
        arrays[name] = change(arrays[name])
        np.savez(path, **{key: array for key, array in arrays.items() if array is not None})

    return apply


def with_header(change: Callable[[dict[str, Any]], Any]) -> Callable:
    """A change to the record in the header."""

    def edit(header: np.ndarray) -> np.ndarray:
        record = json.loads(str(header))
        changed = change(record)
        return np.array(json.dumps(record if changed is None else changed))

    return with_array("header", edit)


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets a nested value of a record."""

    def change(record: dict[str, Any]) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


def is_legal(field: str, value: Any) -> bool:
    """Whether a value of WEIRD may stand in a field of the header."""
    if field == "name":
        return isinstance(value, str)
    if field in ("environment_id", "environment_source", "reference_source"):
        return value is None or isinstance(value, str)
    if field in ("environment_spec", "reference_scores"):
        return value is None
    if field in ("clipped_actions", "moved_actions", "dropped_transitions", "data_cuts"):
        return value == 2 and not isinstance(value, bool)
    if field in ("bounds_guessed", "has_rewards"):
        return value is True
    return field == "notes" and value == []


def set_rows(rows: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Sets some of an array."""

    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[rows] = value
        return array

    return change


def saved_damages() -> Iterator[Damage]:
    """Of a saved dataset, beside those of any `.npz` file."""
    fields = list(json.loads(str(_header_of_whole()))["info"])
    for field in fields:
        for value in WEIRD:
            if not is_legal(field, value):
                what = f"header {field} = {value!r}"
                yield Damage(what, REFUSED, with_header(put("info", field, value=value)))
    for key in ("format", "version", "info"):
        for value in WEIRD:
            if not (key == "version" and value in (2, True) and value is not True):
                yield Damage(
                    f"header {key} = {value!r}", REFUSED, with_header(put(key, value=value))
                )
    space = {"low": [2.0, float("nan")], "high": [-2.0, float("nan")], "shape": [10**10]}
    space |= {"dtype": "object"}
    for key, value in space.items():
        for owner in ("observation_space", "action_space"):
            yield Damage(
                f"{owner} {key} = {value}",
                REFUSED,
                with_header(put("info", owner, key, value=value)),
            )
    for value in ([1.0, 1.0], [0.0, float("nan")], [0.0, float("inf")], [1.0], [0.0, 1.0, 2.0]):
        yield Damage(
            f"reference_scores {value}",
            REFUSED,
            with_header(put("info", "reference_scores", value=value)),
        )
    nested = "[" * 100_000 + "]" * 100_000
    yield Damage("nested header", REFUSED, with_array("header", lambda _: np.array(nested)))
    yield Damage("header of two", REFUSED, with_array("header", lambda h: np.array([h, h])))
    yield from saved_array_damages()


def saved_array_damages() -> Iterator[Damage]:
    """Of its arrays: shapes, types and values."""
    for name in _arrays_of_whole():
        for what, change in {
            "left out": lambda array: None,
            "one more row": lambda array: np.append(array, array[-1:], axis=0),
            "complex": lambda array: array.astype(complex) + 1j,
            "text": lambda array: array.astype(str),
            "one number": lambda array: np.zeros((), array.dtype),
            "an axis more": lambda array: array[..., None],
        }.items():
            if what == "one more row" and _arrays_of_whole()[name].ndim == 0:
                continue
            if what in ("one number", "text") and name == "header":
                continue
            if what == "one number" and _arrays_of_whole()[name].ndim == 0:
                continue
            if name == "header" and what == "complex":
                continue
            yield Damage(f"{name}: {what}", REFUSED, with_array(name, change))
    for name, array in _arrays_of_whole().items():
        if array.dtype.kind == "f":
            for value in (np.nan, np.inf):
                yield Damage(f"{name}: {value}", REFUSED, with_array(name, set_rows(..., value)))
                last = (-1,) * array.ndim if array.ndim else ...
                yield Damage(
                    f"{name}: {value} at last", REFUSED, with_array(name, set_rows(last, value))
                )
    for name in ("observation_std", "action_scale", "reward_scale"):
        for value in (0.0, -1.0):
            yield Damage(
                f"{name} {value}",
                REFUSED,
                with_array(f"normalization_{name}", set_rows(..., value)),
            )
    for name, value in {
        "normalization_action_center": 0.7, "actions": 1.5, "returns_to_go": 0.0,
        "raw_returns": 77.0, "recorded_lengths": 0, "truncations": False,
        "episode_starts": 0,
    }.items():  # fmt: skip
        yield Damage(f"{name} all {value}", REFUSED, with_array(name, set_rows(..., value)))
    for row, value in ((0, 1), (1, -3), (1, 2**31 - 1), (-1, 99), (-1, 6)):
        yield Damage(
            f"episode_starts[{row}] {value}",
            REFUSED,
            with_array("episode_starts", set_rows(row, value)),
        )
    for value in (99, -1, 5):
        yield Damage(
            f"recorded_lengths {value}",
            REFUSED,
            with_array("recorded_lengths", set_rows(-1, value)),
        )


def _arrays_of_whole() -> dict[str, np.ndarray]:
    if not _WHOLE:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            _WHOLE.update(arrays_of(write_saved(Path(folder))))
    return _WHOLE


def _header_of_whole() -> np.ndarray:
    return _arrays_of_whole()["header"]


_WHOLE: dict[str, np.ndarray] = {}
