"""Metrics on disk: a tidy CSV, and TensorBoard events if asked for."""

from __future__ import annotations

import csv
import importlib
import os
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddm.errors import InputError, MissingDependencyError
from ddm.runner.sweep import Lane

EVALUATION = "evaluation/"  # prefix of the metrics of an evaluation

# name of a metric -> gradient step -> (L,) values of the lanes
History = dict[str, dict[int, np.ndarray]]


class MetricsWriter:
    """Appends rows (step, seed, swept hyper-parameters, metric, value) to a CSV file.

    Rows are on disk when `write` returns. With `resume_step`, later rows of an earlier process
    are dropped first, because the run goes on from that step and writes them anew. So are the
    evaluations of that step itself, if they are made again.
    """

    def __init__(
        self,
        path: Path,
        lanes: Sequence[Lane],
        *,
        resume_step: int | None = None,
        evaluated_again: bool = False,
        tensorboard: bool = False,
    ):
        self._lanes = lanes
        header = _header(lanes)
        if resume_step is not None and path.exists():
            _truncate(path, header, resume_step, evaluated_again)
        else:
            path.write_text(",".join(header) + "\n", encoding="utf-8")
        self._file = path.open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._events = _open_events(path.parent, lanes, resume_step) if tensorboard else []

    def write(
        self, step: int, metrics: Mapping[str, np.ndarray], without: Container[int] = ()
    ) -> None:
        """Writes metrics of shape (L,) that belong to a gradient step, `without` some lanes."""
        for i, lane in enumerate(self._lanes):
            if i in without:
                continue
            point = [f"{value:.9g}" for _, value in lane.point]
            for name, values in metrics.items():
                self._rows.writerow([step, lane.seed, *point, name, f"{values[i]:.9g}"])
        self._file.flush()
        for i, events in enumerate(self._events):
            if i in without:
                continue
            for name, values in metrics.items():
                events.add_scalar(name, float(values[i]), step)
            events.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        for events in self._events:
            events.close()


def read_metrics(path: Path, lanes: Sequence[Lane]) -> History:
    """Reads the CSV of a run.

    Raises:
      InputError: the file is not one of a run with these lanes.
    """
    index = {_key(lane): i for i, lane in enumerate(lanes)}
    history: History = {}
    for row in _read_rows(path, _header(lanes)):
        step, *key, name, value = row
        by_step = history.setdefault(name, {})
        values = by_step.setdefault(int(step), np.full(len(lanes), np.nan))
        values[index[tuple(key)]] = float(value)
    return history


def _header(lanes: Sequence[Lane]) -> list[str]:
    return ["step", "seed", *(name for name, _ in lanes[0].point), "metric", "value"]


def _key(lane: Lane) -> tuple[str, ...]:
    return (str(lane.seed), *(f"{value:.9g}" for _, value in lane.point))


def _read_rows(path: Path, header: list[str]) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0] != header:
        found = ",".join(rows[0]) if rows else "nothing"
        raise InputError(f"{path}: the first line is {found}, expected {','.join(header)}")
    # A process that was killed while writing leaves an incomplete last line.
    return [row for row in rows[1:] if len(row) == len(header)]


def _truncate(path: Path, header: list[str], last_step: int, evaluated_again: bool) -> None:
    rows = [
        row
        for row in _read_rows(path, header)
        if int(row[0]) < last_step
        or (int(row[0]) == last_step and not (evaluated_again and row[-2].startswith(EVALUATION)))
    ]
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    os.replace(temporary, path)


def require_tensorboard() -> None:
    """Refuses --tensorboard where its package is missing, before there is a folder.

    Raises:
      MissingDependencyError: says what to install.
    """
    try:
        importlib.import_module("tensorboardX")
    except ImportError as error:
        raise MissingDependencyError(
            "--tensorboard needs tensorboardX: pip install ddm[logging], or leave the flag out"
        ) from error


def _open_events(folder: Path, lanes: Sequence[Lane], resume_step: int | None) -> list[Any]:
    require_tensorboard()
    from tensorboardX import SummaryWriter

    # Events after the purge step, from a process that was killed, are hidden by TensorBoard.
    purge = None if resume_step is None else resume_step + 1
    names = [str(lane).replace(" ", "_") for lane in lanes]
    return [SummaryWriter(str(folder / "tensorboard" / name), purge_step=purge) for name in names]
