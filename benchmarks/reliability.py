"""What the reliability benchmarks share: one table of what was put in, and what went wrong."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ddm.runner import records


class Row(NamedTuple):
    """One line of the table."""

    what: str  # in words: "damaged data files", "mutants"
    inputs: int  # how many were tried
    before: int | None  # of them went wrong at the first examination; None where nobody counted
    now: int  # of them go wrong now
    unit: str  # what "went wrong" means: "tracebacks", "loaded although damaged", "not noticed"


COLUMNS = ("script", *Row._fields, "versions")


def write_rows(path: str | Path, script: str, rows: Sequence[Row]) -> None:
    """Puts a script's rows in place of those that the table holds of it.

    Args:
      path: of the CSV file; made where it is missing.
      script: name of the benchmark, "mutation".
      rows: of this run.
    """
    path = Path(path).expanduser()
    kept: list[list[str]] = []
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            kept = [row for row in list(csv.reader(file))[1:] if row[0] != script]
    versions = " ".join(f"{name}={version}" for name, version in records.versions().items())
    added = [[script, *("" if x is None else str(x) for x in row), versions] for row in rows]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *sorted(kept + added)])
    os.replace(temporary, path)


def print_rows(rows: Sequence[Row]) -> None:
    """Shows rows as a table on the screen."""
    print(f"{'what':<44} {'inputs':>7} {'before':>7} {'now':>5}  unit")
    for row in rows:
        before = "-" if row.before is None else row.before
        print(f"{row.what:<44} {row.inputs:>7} {before:>7} {row.now:>5}  {row.unit}")
