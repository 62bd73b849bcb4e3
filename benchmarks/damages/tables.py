"""CSV files, and what lies in the place of a file of any format."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from damages.kinds import REFUSED, Damage


def write_csv(folder: Path) -> Path:
    """A table of three episodes."""
    names = (
        "episode",
        "step",
        "observation_0",
        "observation_1",
        "action_0",
        "reward",
        "termination",
    )
    rows = [
        (e, t, 0.1 * t, -0.25 * e, 0.5 - 0.1 * t, 1.5, int(t == 2))
        for e in range(3)
        for t in range(3)
    ]
    with (folder / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return folder / "log.csv"


def edit_csv(change: Callable[[list[list[str]]], Any]) -> Callable:
    """A change to the rows of a table."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        rows = list(csv.reader(path.open(newline="")))
        change(rows)
        path.write_text("\n".join(",".join(row) for row in rows))

    return apply


def csv_damages() -> Iterator[Damage]:
    """Of a table."""
    cells = (
        "x",
        "1_5",
        "nan",
        "inf",
        "1e400",
        "9" * 50,
        "9" * 5000,
        "1,5",
        '"',
        '"a"b',
        "\0",
        "1j",
        "",
    )
    for cell in cells:
        for column in (2, 4, 5, 6):
            if cell == "" and column == 6:
                continue  # an empty flag is no flag
            yield Damage(
                f"column {column} = {cell[:6]!r}", REFUSED,
                edit_csv(lambda rows, cell=cell, column=column: rows[2].__setitem__(column, cell)),
            )  # fmt: skip
    for what, change in {
        "a cell less": lambda rows: rows[3].pop(),
        "a column twice": lambda rows: rows[0].__setitem__(2, "reward"),
        "an unknown column": lambda rows: rows[0].__setitem__(2, "speed"),
        "no actions": lambda rows: [row.pop(4) for row in rows],
        "steps out of order": lambda rows: rows.insert(2, rows.pop(3)),
        "an episode again": lambda rows: rows.append(rows.pop(2)),
        "no rows": lambda rows: rows.__delitem__(slice(1, None)),
        "nothing": lambda rows: rows.clear(),
    }.items():
        yield Damage(what, REFUSED, edit_csv(change))
    yield Damage(
        "no UTF-8",
        REFUSED,
        lambda path, _: path.write_bytes(b"\xff\xfe" + path.read_bytes()) and None,
    )


def path_damages() -> Iterator[Damage]:
    """What lies in a file's place: the same for all formats."""

    def instead(make: Callable[[Path], Any]) -> Callable:
        def apply(path: Path, rng: np.random.Generator) -> Path | None:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            found = make(path)
            return found if isinstance(found, Path) else None

        return apply

    yield Damage("a dangling link", REFUSED, instead(lambda p: p.symlink_to(p.with_name("no"))))
    yield Damage("a link to itself", REFUSED, instead(lambda p: p.symlink_to(p)))
    yield Damage("a pipe", REFUSED, instead(lambda p: os.mkfifo(p)))
    yield Damage("an empty folder", REFUSED, instead(lambda p: p.mkdir()))
    yield Damage("a long name", REFUSED, instead(lambda p: p.with_name("a" * 300 + p.suffix)))
    yield Damage("a zero byte", REFUSED, instead(lambda p: Path(f"{p.parent}/a\0b{p.suffix}")))
    yield Damage(
        "a file below a file", REFUSED, instead(lambda p: p.write_bytes(b"x") and p / "b.npz")
    )
    yield Damage("nothing", REFUSED, instead(lambda p: None))
    yield Damage("an empty file", REFUSED, instead(lambda p: p.write_bytes(b"") and None))
