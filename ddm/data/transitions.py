"""Flat arrays of transitions, split into episodes with the observation after each last step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ddm.data import spaces
from ddm.data.columns import returns_to_go
from ddm.data.fields import as_ends, as_flags
from ddm.data.rows import flat_observations, guess_notes, numbers
from ddm.data.values import as_array, check_values, locate
from ddm.errors import InputError

SUCCESSOR_TOLERANCE = 1e-5  # relative; files store float32


def read_transitions(
    given: Mapping[str, Any], observation_space: Any, name: str
) -> tuple[spaces.Tree, dict[str, np.ndarray], tuple[str, ...]]:
    """The space, the data's fields of N rows each, and the guesses.

    `next_observations` and `episode_ends` are among the fields only if they are given.
    """
    counted = "rewards" if "rewards" in given else "actions"
    read = numbers if counted == "rewards" else as_array
    rows = len(read(given[counted], f"{name}: {counted}"))
    if rows == 0:
        raise InputError(f"{name}: {counted} is empty, expected at least one transition")
    if not {"terminations", "truncations", "episode_ends"} & set(given):
        raise InputError(
            f"{name}: nothing says where episodes end, expected terminations, truncations or "
            "episode_ends"
        )
    tree, observations = flat_observations(
        given["observations"], observation_space, f"{name}: observations"
    )
    none = np.zeros(rows, bool)
    fields = {
        "observations": observations,
        "actions": as_array(given["actions"], f"{name}: actions"),
        "rewards": numbers(given.get("rewards", none.astype(np.float32)), f"{name}: rewards"),
        "terminations": as_flags(given.get("terminations", none), f"{name}: terminations"),
        "truncations": as_flags(given.get("truncations", none), f"{name}: truncations"),
    }
    if "next_observations" in given:
        where = f"{name}: next_observations"
        fields["next_observations"] = flat_observations(given["next_observations"], tree, where)[1]
    for field, array in fields.items():
        if len(array) != rows:
            raise InputError(f"{name}: {field} has {len(array)} rows, {counted} has {rows}")
    if "episode_ends" in given:
        fields["episode_ends"] = as_ends(given["episode_ends"], rows, f"{name}: episode_ends")
    guesses = () if observation_space is not None else guess_notes(observations)
    return tree, fields, guesses


class Split(NamedTuple):
    """Transitions in episodes, and facts found while splitting them."""

    columns: dict[str, Any]  # arguments of `Columns`
    notes: tuple[str, ...]


def split_episodes(fields: Mapping[str, np.ndarray], name: str) -> Split:
    """The columns of flat transitions, by the rule that `from_arrays` states."""
    last, truncations, data_cut = _find_ends(fields, name)
    terminations, starts = fields["terminations"], np.concatenate([[0], np.flatnonzero(last) + 1])
    lengths = np.diff(starts)
    real = ("observations", "next_observations", "actions", "rewards")
    checked = {field: fields[field] for field in real if field in fields}
    check_values(checked, dict.fromkeys(checked, lengths), name)
    successors = _find_successors(fields, last, bool(data_cut), name)
    kept = terminations | ~last | successors.known
    if not kept.any():
        raise InputError(
            f"{name}: every episode is one truncated transition whose successor is unknown; "
            "give next_observations"
        )
    # The transition before a dropped one now ends its episode.
    truncations[:-1] |= ~kept[1:] & ~last[:-1]
    to_go = returns_to_go(fields["rewards"].astype(np.float64), starts)
    kept_lengths = np.add.reduceat(kept.astype(np.int64), starts[:-1])
    stays = kept_lengths > 0
    columns = {
        "observations": _place_successors(fields["observations"], successors, last, kept),
        "actions": fields["actions"][kept],
        "rewards": fields["rewards"][kept],
        "terminations": terminations[kept],
        "truncations": truncations[kept],
        "lengths": kept_lengths[stays],
        "recorded_lengths": lengths[stays],
        "raw_returns": to_go[starts[:-1]][stays],
        "returns_to_go": to_go[kept],
        "dropped_transitions": int((~kept).sum()),
        "data_cuts": int(data_cut),
    }
    return Split(columns, successors.notes)


def _find_ends(
    fields: Mapping[str, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray, np.bool_]:
    """(N,) each episode's last step, (N,) truncations, and whether the data end unflagged."""
    terminations, truncations = fields["terminations"], fields["truncations"].copy()
    last = fields.get("episode_ends", terminations | truncations).copy()
    data_cut = ~last[-1]
    last[-1] = True
    inside = np.flatnonzero(truncations & ~last)
    if inside.size:
        raise InputError(
            f"{name}: truncations is set at row {inside[0]}, where episode_ends is not "
            f"({inside.size} such rows)"
        )
    return last, truncations | (last & ~terminations), data_cut


class _Successors(NamedTuple):
    """The observation after each episode's last step."""

    known: np.ndarray  # (N,) bool; only read where an episode ends
    values: np.ndarray | None  # (N, *O) where some are known
    notes: tuple[str, ...]


def _find_successors(
    fields: Mapping[str, np.ndarray], last: np.ndarray, data_cut: bool, name: str
) -> _Successors:
    if "next_observations" not in fields:
        return _Successors(np.zeros(len(last), bool), None, ())
    observations, values = fields["observations"], fields["next_observations"]
    check_successors(observations, values, last, name)
    overwritten = _find_overwritten(observations, values, last, data_cut)
    notes = ()
    if overwritten.any():
        dropped = int((overwritten & ~fields["terminations"]).sum())
        notes = (
            f"next_observations of {int(overwritten.sum())} of {int(last.sum())} episode ends are "
            "the next episode's first observation, as where an environment resets itself: they "
            f"count as unknown, and {dropped} truncated transitions are dropped",
        )
    return _Successors(~overwritten, values, notes)


def _find_overwritten(
    observations: np.ndarray, successors: np.ndarray, last: np.ndarray, data_cut: bool
) -> np.ndarray:
    """(N,) ends whose successor is the first observation of the next episode, by exact equality.

    Real numbers are not equal by chance. States from a small set are: if all observations are whole
    numbers, all ends must be equal before any counts. An observation that did not change at all is
    no evidence. The last end has no next episode to compare with: it counts if all others do,
    unless the data just stop there.
    """
    ends = np.flatnonzero(last[:-1])
    following = observations[ends + 1]
    equal = _same_rows(successors[ends], following) & ~_same_rows(observations[ends], following)
    if not equal.all() and _is_whole(observations):
        equal[:] = False
    overwritten = np.zeros(len(last), bool)
    overwritten[ends] = equal
    overwritten[-1] = len(ends) > 0 and equal.all() and not data_cut
    return overwritten


def _is_whole(array: np.ndarray) -> bool:
    return array.dtype.kind in "biu" or np.array_equal(array, np.round(array))


def _same_rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    equal = a.astype(np.float32) == b.astype(np.float32)  # the two may be stored in other dtypes
    return equal.reshape(len(a), math.prod(a.shape[1:])).all(axis=1)


def _place_successors(
    observations: np.ndarray, successors: _Successors, last: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """(kept + E, *O) rows: those of each kept step, and what follows each episode's last one.

    A known successor is that row. After a terminal step the successor has no effect, so the step's
    own observation is repeated. The observation of a dropped step is the successor of the one
    before.
    """
    ends = last & kept
    copies = 1 + ends.astype(np.int64)
    first = np.concatenate([[True], last[:-1]])
    copies[first & ~kept] = 0  # an episode of a single dropped step leaves nothing
    rows = np.repeat(observations, copies, axis=0)
    if successors.values is not None:
        known = ends & successors.known
        rows = rows.astype(np.result_type(rows, successors.values), copy=False)
        rows[(np.cumsum(copies) - 1)[known]] = successors.values[known]
    return rows


def check_successors(
    observations: np.ndarray, successors: np.ndarray, last: np.ndarray, name: str
) -> None:
    """Refuses successors that are not the next observation inside an episode.

    Raises:
      InputError: names the first row that differs, and how many do.
    """
    inside = np.flatnonzero(~last)
    expected, given = observations[inside + 1], successors[inside]
    tolerance = SUCCESSOR_TOLERANCE
    equal = np.isclose(given, expected, rtol=tolerance, atol=tolerance)
    differs = np.flatnonzero(~equal.reshape(len(inside), math.prod(equal.shape[1:])).all(axis=1))
    if differs.size:
        row = int(inside[differs[0]])
        lengths = np.diff(np.flatnonzero(last), prepend=-1)
        raise InputError(
            f"{name}: next_observations[{row}] differs from observations[{row + 1}] at "
            f"{locate(row, lengths)} ({differs.size} such rows); set truncations where an episode "
            "was cut"
        )
