"""The effect of float32 on a log's numbers: checked before they are dropped, cast or summed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddm.errors import InputError

LARGEST = np.finfo(np.float32).max
LARGEST_INTEGER = 2**31 - 1  # of int32, which integers become on the device

COARSE_SHARE = 0.9  # of a column's distinct values that float32 must keep
COARSE_ROWS = 100_000  # checked rows: equal values by chance in float32 stay below 1 %
COARSE_UNIT = 1e-6  # of the interquartile range: values closer than this count as one


def as_array(value: Any, where: str) -> np.ndarray:
    """An array of real numbers or flags with one row per step.

    Raises:
      InputError: it is ragged, complex or not numeric, or has integers beyond int32.
    """
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{where} is ragged, expected rows of one shape") from None
    kind = array.dtype.kind
    if kind not in "biuf":
        raise InputError(f"{where} has dtype {array.dtype}, expected real numbers")
    if array.ndim == 0:
        raise InputError(f"{where} is one number, expected one row per step")
    if kind in "iu" and array.dtype.itemsize >= 4 and array.size:
        largest = array.max() if array.max() > LARGEST_INTEGER else array.min()
        if not -LARGEST_INTEGER - 1 <= int(largest) <= LARGEST_INTEGER:
            raise InputError(
                f"{where} has the integer {largest}, expected integers that 32 bits hold; subtract "
                "an offset or store another unit"
            )
    return array


def check_values(fields: Mapping[str, np.ndarray], lengths: Mapping[str, Any], source: str) -> None:
    """Refuses numbers that are not finite in float32: NaN, infinite, or beyond its range.

    Args:
      fields: (R, ...) arrays by name.
      lengths: for each field, the (E,) rows of each episode.
      source: what error messages call the dataset.

    Raises:
      InputError: naming the field, the episode and the step.
    """
    for field, array in fields.items():
        if array.dtype.kind != "f":
            continue
        within = np.abs(array) <= LARGEST
        if within.all():
            continue
        bad = ~within.reshape(len(array), -1).all(axis=1)
        row = int(np.flatnonzero(bad)[0])
        finite = np.isfinite(array[row]).all()
        fault = "beyond the range of float32" if finite else "NaN or infinite"
        raise InputError(
            f"{source}: {field} of {locate(row, lengths[field])} is {fault} "
            f"({int(bad.sum())} such rows), expected finite numbers below {LARGEST:.1e}"
        )


def locate(row: int, lengths: np.ndarray) -> str:
    """Where a row is, for error messages: "episode 3, step 17"."""
    ends = np.cumsum(lengths)
    episode = int(np.searchsorted(ends, row, side="right"))
    return f"episode {episode}, step {row - int(ends[episode] - lengths[episode])}"


def coarse_notes(fields: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """A sentence for each field with columns whose values float32 cannot tell apart."""
    notes = []
    for field, array in fields.items():
        columns = coarse_columns(array)
        if columns:
            which = f" in dimension {ranges(columns)}" if array.ndim > 1 else ""
            notes.append(
                f"{field}{which} lose values that differ, because float32 has about 7 digits: "
                "subtract an offset before (times since the start, metres from a near point)"
            )
    return tuple(notes)


def coarse_columns(array: np.ndarray) -> tuple[int, ...]:
    """The columns of (R, ...) that have fewer distinct values in float32 than in the data.

    Two values of the data count as distinct if they differ by more than a millionth of the
    column's interquartile range, so that rounding of the last bits does not count.
    """
    if array.dtype.kind not in "iuf" or array.dtype.itemsize < 4 or array.dtype == np.float32:
        return ()
    rows = array[:COARSE_ROWS].reshape(min(len(array), COARSE_ROWS), -1)
    return tuple(i for i in range(rows.shape[1]) if _is_coarse(rows[:, i]))


def _is_coarse(column: np.ndarray) -> bool:
    values = column.astype(np.float64)
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    spread = high - low or values.max() - values.min()
    unit = max(COARSE_UNIT * spread, 1e-12 * abs(middle))
    if unit == 0:
        return False
    distinct = len(np.unique(np.round((values - middle) / unit)))
    return len(np.unique(values.astype(np.float32))) < COARSE_SHARE * distinct


def ranges(numbers: Any) -> str:
    """Rising integers in words: "1, 4-7"."""
    runs: list[list[int]] = []
    for number in map(int, numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
