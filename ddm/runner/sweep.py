"""Sweeps: seeds and values of numeric hyper-parameters become one leading axis of lanes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ddm.configuration import broadcast
from ddm.errors import InputError


@dataclasses.dataclass(frozen=True)
class Lane:
    """One run among those that are trained side by side."""

    seed: int
    point: tuple[tuple[str, float], ...] = ()  # the hyper-parameters that the sweep sets

    def __str__(self) -> str:
        return " ".join([f"seed {self.seed}", *(f"{key}={value:g}" for key, value in self.point)])


def expand(
    config: Any, sweep: Sequence[str] = (), seeds: int = 1, seed: int = 0
) -> tuple[Any, list[Lane]]:
    """Stacks the configurations of all lanes: every combination of values, each with every seed.

    Args:
      config: the configuration; the sweep replaces some of its numeric fields.
      sweep: specifications such as "alpha=1,5,10"; several in one string are separated by ";".
      seeds: number of seeds.
      seed: the first seed.

    Returns:
      `config` with every leaf of shape (L,), and the L lanes; seeds vary fastest.

    Raises:
      InputError: a specification cannot be read, names a field that cannot be swept or a value
        that it cannot have, or names one value twice.
    """
    values = _parse(sweep, config)
    points = [
        tuple(zip(values, combination, strict=True))
        for combination in itertools.product(*values.values())
    ]
    for point in points:  # refuses values out of range, one number at a time
        dataclasses.replace(config, **dict(point))
    lanes = [Lane(seed + i, point) for point in points for i in range(seeds)]
    stacked = broadcast(config, len(lanes))
    columns: dict[str, np.ndarray] = {}
    for name, dtype in sweepable(config).items():
        default = getattr(config, name)
        columns[name] = np.asarray([dict(lane.point).get(name, default) for lane in lanes], dtype)
    return dataclasses.replace(stacked, **columns), lanes


def sweepable(config: Any) -> dict[str, type]:
    """The fields that a sweep may set (the numeric leaves), and their types."""
    result: dict[str, type] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        leaf = field.metadata.get("pytree_node", True)
        if leaf and isinstance(value, (int, float, np.number)):
            # By the annotation too: a float field may hold the integer 1.
            whole = isinstance(value, (int, np.integer)) and "float" not in str(field.type)
            result[field.name] = np.int32 if whole else np.float32
    return result


def _parse(sweep: Sequence[str], config: Any) -> dict[str, list[float]]:
    numeric = sweepable(config)
    values: dict[str, list[float]] = {}
    for text in (part.strip() for item in sweep for part in item.split(";")):
        if not text:
            continue
        key, equals, listed = (piece.strip() for piece in text.partition("="))
        if not equals or not listed:
            raise InputError(f"--sweep={text}: expected key=value,value,...")
        if key not in numeric:
            structural = any(field.name == key for field in dataclasses.fields(config))
            why = "is structural and cannot be swept" if structural else "is not a hyper-parameter"
            raise InputError(
                f"--sweep: {key} {why}; these can be swept: {', '.join(sorted(numeric))}"
            )
        if key in values:
            raise InputError(f"--sweep: {key} is given twice")
        values[key] = [_number(item, key, numeric[key]) for item in listed.split(",")]
        # In the device's precision: two lanes with equal values could not be told apart.
        if len({numeric[key](value) for value in values[key]}) < len(values[key]):
            raise InputError(f"--sweep={text}: a value of {key} is given twice")
    return values


_LARGEST = {
    np.int32: float(np.iinfo(np.int32).max),
    np.float32: float(np.finfo(np.float32).max),
}


def _number(text: str, key: str, kind: type) -> float:
    expected = "a whole number of 32 bits" if kind is np.int32 else "a finite number of 32 bits"
    try:
        number = float(text)
        if abs(number) <= _LARGEST[kind] and (kind is np.float32 or number.is_integer()):
            return int(number) if kind is np.int32 else number
    except ValueError:
        expected = "a number"
    raise InputError(f"--sweep: '{text}' is not a value of {key}, expected {expected}")
