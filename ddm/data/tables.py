"""Tables with one row per step: CSV files and data frames.

Columns, in any order (or under the other names of `ddm.data.fields`, as in arrays):

    episode                        any label; a new one starts an episode (optional)
    step                           counts up by one within an episode (optional, checked)
    observation_0, observation_1   or one column `observation`
    action_0, action_1             or one column `action`, of whole numbers for discrete actions
    reward
    termination                    1 or true where the environment ended the episode
    truncation                     1 or true where it was cut (optional)
    next_observation_0, ...        (optional)

With `episode`, an episode ends with its last row; without, flags say where it ends. The last row of
an episode may hold only an observation, the state after the last action; its other cells are then
empty. Without such a row, and without next observations, the last transition of an episode that was
cut is dropped, as in `from_arrays`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ddm.data.arrays import from_mapping
from ddm.data.dataset import Dataset
from ddm.data.fields import NAMES
from ddm.data.memory import check_declared
from ddm.data.reading import reading
from ddm.errors import InputError

EXPECTED = (
    "episode, step, observation_0, action_0, reward, termination, truncation or next_observation_0"
)

_INDEX = ("", "Unnamed: 0")  # names of a data frame's index in a CSV
_LABELS = ("episode", "step")
_NUMBER_OF = {"true": 1.0, "false": 0.0, "": np.nan}
_INTEGER = re.compile(r"\s*[+-]?\d{1,18}\s*", re.ASCII)  # digits that fit 64 bits
BYTES_PER_CHARACTER = 12  # of memory, for a table of short cells as text

_FIELDS = {name: field for field, names in NAMES.items() for name in names}

Columns = Mapping[str, np.ndarray]


class _Source(NamedTuple):
    """The names of a table and its rows in errors."""

    name: str
    first_line: int | None = None  # of a file; None if rows have no line numbers

    def row(self, index: Any) -> str:
        return f"row {index}" if self.first_line is None else f"line {index + self.first_line}"


def is_table(source: Any) -> bool:
    """Whether this is a data frame: it has `columns` and gives them by name."""
    return hasattr(source, "columns") and hasattr(source, "__getitem__")


def from_table(table: Any, name: str = "table", **options: Any) -> Dataset:
    """A dataset from a data frame, by the rules of this module.

    Args:
      table: has `columns` with the names; `table[name]` gives each column.
      name: what error messages and reports call the dataset.
      **options: of `from_arrays`.

    Raises:
      InputError: names the column, the row (from 0), and what was expected.
    """
    source = _Source(name)
    columns = {
        str(column): _numbers(table[column], str(column), source)
        for column in table.columns
        if str(column) not in _INDEX
    }
    return _from_columns(columns, source, **options)


def from_csv(path: Path, name: str | None = None, **options: Any) -> Dataset:
    """A dataset from a CSV file whose first line has the names, by the rules of this module.

    Args:
      path: the file.
      name: what error messages and reports call the dataset; None for the path.
      **options: of `from_arrays`.

    Raises:
      InputError: names the column, the line (from 1), and what was expected.
    """
    source = _Source(name or str(path), first_line=2)
    with reading(source.name, "CSV file"):
        return _from_columns(_read_csv(path, source), source, **options)


def _read_csv(path: Path, source: _Source) -> dict[str, np.ndarray]:
    check_declared(BYTES_PER_CHARACTER * path.stat().st_size, source.name)
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = list(csv.reader(file, strict=True))
    while lines and not lines[-1]:
        lines.pop()
    if len(lines) < 2:
        raise InputError(f"{source.name} has no rows, expected a line of names and a row per step")
    names, rows = [name.strip() for name in lines[0]], lines[1:]
    for index, row in enumerate(rows):
        if len(row) != len(names):
            raise InputError(
                f"{source.name}: {source.row(index)} has {len(row)} cells, expected {len(names)}"
            )
    twice = [column for column in names if names.count(column) > 1]
    if twice:
        raise InputError(f"{source.name}: column {twice[0]} is there twice")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return {
        column: _parse(values, column, source)
        for column, values in columns.items()
        if column not in _INDEX
    }


def _parse(values: tuple[str, ...], column: str, source: _Source) -> np.ndarray:
    """Integers where all cells are, else floats with NaN for an empty cell; labels stay text."""
    if all(map(_INTEGER.fullmatch, values)):
        return np.array([int(value) for value in values])
    if column.removesuffix("s") == "episode":
        return np.array(values)
    numbers = np.empty(len(values))
    for row, value in enumerate(values):
        word = value.strip().lower()
        try:
            if "_" in word:  # Python reads 1_5 as 15; a table does not mean that
                raise ValueError
            numbers[row] = _NUMBER_OF[word] if word in _NUMBER_OF else float(word)
        except ValueError:
            raise InputError(
                f"{source.name}: column {column}, {source.row(row)} is '{value}', expected a number"
            ) from None
    return numbers


def _numbers(values: Any, column: str, source: _Source) -> np.ndarray:
    """A column of a data frame; missing values become NaN."""
    array = np.asarray(values)
    if column.removesuffix("s") == "episode" or array.dtype == bool:
        return array
    if not np.issubdtype(array.dtype, np.number):
        try:
            array = np.array([np.nan if value is None else value for value in array], np.float64)
        except (TypeError, ValueError):
            raise InputError(
                f"{source.name}: column {column} has dtype {array.dtype}, expected numbers"
            ) from None
    return array


# --- Columns to fields ---


def _from_columns(columns: Columns, source: _Source, **options: Any) -> Dataset:
    labels = {
        column.removesuffix("s"): array
        for column, array in columns.items()
        if column.removesuffix("s") in _LABELS
    }
    groups = _group(
        {c: a for c, a in columns.items() if c.removesuffix("s") not in _LABELS}, source
    )
    fields = {field: _stack(parts, field, source) for field, parts in groups.items()}
    for field in ("observations", "actions"):
        if field not in fields:
            column = field.removesuffix("s")
            raise InputError(
                f"{source.name}: column {column} or {column}_0 is missing; it has "
                f"{', '.join(columns)}"
            )
    if "episode" in labels:
        last = _last_rows(labels["episode"], labels.get("step"), source)
        fields = _close_episodes(fields, last, source)
    elif "step" in labels:
        raise InputError(f"{source.name}: column step needs a column episode beside it")
    return from_mapping(fields, name=source.name, **options)


def _group(columns: Columns, source: _Source) -> dict[str, dict[int, np.ndarray]]:
    """Columns by field and by index, which is -1 for a column without one.

    Raises:
      InputError: an unknown column, or two columns of one name.
    """
    groups: dict[str, dict[int, np.ndarray]] = {}
    for column, array in columns.items():
        stem, _, index = column.rpartition("_")
        if column in _FIELDS:
            field, place = _FIELDS[column], -1
        elif stem in _FIELDS and index.isdecimal():
            field, place = _FIELDS[stem], int(index)
        else:
            raise InputError(
                f"{source.name}: column {column} is unknown: leave it out, or call it {EXPECTED}"
            )
        if place in groups.setdefault(field, {}):
            raise InputError(f"{source.name}: column {column} is there under another name, too")
        groups[field][place] = array
    return groups


def _stack(parts: Mapping[int, np.ndarray], field: str, source: _Source) -> np.ndarray:
    """(N,) of a column without index, else (N, A)."""
    if list(parts) == [-1]:
        return parts[-1]
    if sorted(parts) != list(range(len(parts))):
        raise InputError(
            f"{source.name}: the columns of {field} are numbered "
            f"{', '.join('not' if index < 0 else str(index) for index in sorted(parts))}, expected "
            f"0 to {len(parts) - 1}"
        )
    return np.stack([parts[index] for index in range(len(parts))], axis=1)


# --- Rows to episodes ---


def _last_rows(episode: np.ndarray, step: np.ndarray | None, source: _Source) -> np.ndarray:
    """(N,) bool: the last row of each episode.

    Raises:
      InputError: an episode continues after another one, or its steps do not count up by one.
    """
    last = np.append(episode[1:] != episode[:-1], True)
    starts = np.append(0, np.flatnonzero(last)[:-1] + 1)
    seen = set()
    for start, label in zip(starts, episode[starts].tolist(), strict=True):
        if label in seen:
            raise InputError(
                f"{source.name}: episode {label} comes back at {source.row(start)}: sort the rows "
                "by episode and step"
            )
        seen.add(label)
    if step is not None:
        wrong = np.flatnonzero((np.diff(step) != 1) & ~last[:-1]) + 1
        if wrong.size:
            row = wrong[0]
            raise InputError(
                f"{source.name}: step is {step[row]} at {source.row(row)} after {step[row - 1]}, "
                "expected steps that count up by one within an episode"
            )
    return last


def _close_episodes(
    fields: Mapping[str, np.ndarray], last: np.ndarray, source: _Source
) -> dict[str, np.ndarray]:
    """Ends every episode with a flag, and takes successors from rows without an action.

    Args:
      fields: arrays of N rows.
      last: (N,) bool, see `_last_rows`.
      source: for errors.

    Raises:
      InputError: an episode continues after a flag, or a row that is not the last has no action.
    """
    state_only = _state_only(fields, last, source)
    before_state = np.append(state_only[1:], False)  # the transition that leads to such a state
    ends = (last & ~state_only) | before_state
    flags = {}
    for field in ("terminations", "truncations"):
        flag = np.asarray(fields.get(field, np.zeros(len(last))), np.float64).reshape(len(last))
        unknown = np.flatnonzero(np.isnan(flag) & ~state_only)
        if unknown.size:
            raise InputError(
                f"{source.name}: {field} is empty at {source.row(unknown[0])}, expected 0 or 1"
            )
        flag = np.nan_to_num(flag)
        # A flag may be in the row of the state in which the episode ended.
        flags[field] = np.where(before_state, np.maximum(flag, np.append(flag[1:], 0)), flag)
        inside = np.flatnonzero((flag != 0) & ~ends & ~state_only)
        if inside.size:
            raise InputError(
                f"{source.name}: {field} is set at {source.row(inside[0])}, before the episode's "
                "last row"
            )
    cut = ends & (flags["terminations"] == 0)
    flags["truncations"] = np.where(cut, 1.0, flags["truncations"])
    result = dict(fields) | {"truncations": flags["truncations"]}
    if "terminations" in fields:
        result["terminations"] = flags["terminations"]
    if state_only.any() and "next_observations" not in fields:
        lacking = np.flatnonzero(cut & ~before_state)
        if lacking.size:
            raise InputError(
                f"{source.name}: the episode that was cut at {source.row(lacking[0])} lacks a last "
                "row with its final observation, which other episodes have"
            )
        rows = np.arange(len(last))
        # If a terminal state is not in the table, the last observation is repeated, as in
        # `from_arrays`.
        successors = np.where(ends & ~before_state, rows, np.minimum(rows + 1, len(last) - 1))
        result["next_observations"] = fields["observations"][successors]
    result = {field: array[~state_only] for field, array in result.items()}
    actions = result["actions"]
    if state_only.any() and actions.ndim == 1 and np.all(actions == np.rint(actions)):
        result["actions"] = actions.astype(np.int64)  # empty cells had turned them into floats
    return result


def _state_only(fields: Mapping[str, np.ndarray], last: np.ndarray, source: _Source) -> np.ndarray:
    """(N,) bool: rows that hold an observation and no action.

    Raises:
      InputError: such a row is not its episode's last one, or has a reward.
    """
    empty = np.asarray(np.isnan(fields["actions"]).reshape(len(last), -1).all(axis=1))
    first = np.append(True, last[:-1])
    wrong = np.flatnonzero(empty & (~last | first))
    if wrong.size:
        raise InputError(
            f"{source.name}: {source.row(wrong[0])} has no action, which only the last row of an "
            "episode may lack"
        )
    if "rewards" in fields:
        paid = np.flatnonzero(empty & (np.nan_to_num(fields["rewards"]).reshape(len(last)) != 0))
        if paid.size:
            raise InputError(
                f"{source.name}: {source.row(paid[0])} has a reward and no action: a reward stands "
                "in the row of the action that earned it"
            )
    return empty
