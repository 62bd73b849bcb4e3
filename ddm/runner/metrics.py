"""Metrics on disk: a tidy CSV, and TensorBoard events if asked for."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import os
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddm.errors import InputError, MissingDependencyError
from ddm.runner.files import append, replace_file
from ddm.runner.sweep import Lane

EVALUATION = "evaluation/"  # prefix of the metrics of an evaluation

# name of a metric -> gradient step -> (L,) values of the lanes
History = dict[str, dict[int, np.ndarray]]


class MetricsWriter:
    """Appends rows (step, seed, swept hyper-parameters, metric, value) to a CSV file.

    Rows are in the file when `write` returns, and on the disk after `sync`. With `resume_step`,
    the rows up to that step must be there. Later rows of an earlier process are dropped, because
    the run continues from that step and writes them again. The evaluations of that step itself are
    dropped too, if they are made again.

    Args:
      path: of the CSV file.
      lanes: of the run.
      resume_step: of the checkpoint from which the run continues; None: a new file.
      recorded: the result of `sync` when that checkpoint was written; None: an older version wrote
        it.
      evaluated_again: whether the evaluation of `resume_step` is made again.
      tensorboard: whether to write events, too.

    Raises:
      InputError: the file does not hold the rows up to `resume_step`.
    """

    def __init__(
        self,
        path: Path,
        lanes: Sequence[Lane],
        *,
        resume_step: int | None = None,
        recorded: Mapping[str, Any] | None = None,
        evaluated_again: bool = False,
        tensorboard: bool = False,
    ):
        self._lanes = lanes
        content = _lines([_header(lanes)])
        if resume_step is not None:
            content = _rows_until(path, _header(lanes), resume_step, recorded, evaluated_again)
        replace_file(path, content)
        self._length, self._digest = len(content), hashlib.sha256(content)
        self._file = path.open("ab", buffering=0)
        self._events = _open_events(path.parent, lanes, resume_step) if tensorboard else []

    def write(
        self, step: int, metrics: Mapping[str, np.ndarray], without: Container[int] = ()
    ) -> None:
        """Writes metrics of shape (L,) that belong to a gradient step, `without` some lanes."""
        rows = [
            [step, *_key(lane), name, f"{values[i]:.9g}"]
            for i, lane in enumerate(self._lanes)
            if i not in without
            for name, values in metrics.items()
        ]
        content = _lines(rows)
        append(self._file, content)
        self._length += len(content)
        self._digest.update(content)
        for i, events in enumerate(self._events):
            if i in without:
                continue
            for name, values in metrics.items():
                events.add_scalar(name, float(values[i]), step)
            events.flush()

    def sync(self) -> dict[str, Any]:
        """Writes all rows to the disk, and returns the record of the file for a checkpoint."""
        os.fsync(self._file.fileno())
        return {"bytes": self._length, "digest": self._digest.hexdigest()}

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
    for step, key, name, value in read_rows(path, _header(lanes)):
        if key not in index:
            raise InputError(f"{path}: {','.join(key)} is no lane of this run")
        by_step = history.setdefault(name, {})
        by_step.setdefault(step, np.full(len(lanes), np.nan))[index[key]] = value
    return history


def read_rows(
    path: Path, header: list[str] | None = None, recorded: Mapping[str, Any] | None = None
) -> list[tuple[int, tuple[str, ...], str, float]]:
    """Rows as (step, seed and swept hyper-parameters, metric, value).

    Args:
      path: of a run's CSV file.
      header: its columns; None: of any run.
      recorded: the beginning that the file must have, from `MetricsWriter.sync`; None if unknown.

    Raises:
      InputError: it cannot be read, or a line is not one of a run.
    """
    content = _read(path)
    if recorded is not None:
        _check_beginning(path, content, recorded, "at the end of the run")
    return _parse(path, content, header)


def _header(lanes: Sequence[Lane]) -> list[str]:
    return ["step", "seed", *(name for name, _ in lanes[0].point), "metric", "value"]


def _key(lane: Lane) -> tuple[str, ...]:
    return (str(lane.seed), *(f"{value:.9g}" for _, value in lane.point))


def _lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; {_REMEDY}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


_REMEDY = "put a copy of it back, or start a new run in another --run_dir"


def _check_beginning(path: Path, content: bytes, recorded: Mapping[str, Any], when: str) -> None:
    length = recorded["bytes"]
    if len(content) < length:
        raise InputError(f"{path} has {len(content)} bytes, but had {length} {when}; {_REMEDY}")
    if hashlib.sha256(content[:length]).hexdigest() != recorded["digest"]:
        raise InputError(f"{path} does not hold the rows that it had {when}; {_REMEDY}")


def _parse(
    path: Path, content: bytes, header: list[str] | None
) -> list[tuple[int, tuple[str, ...], str, float]]:
    # If a process is killed while writing, the last line has no end.
    whole = content[: content.rfind(b"\n") + 1]
    try:
        lines = list(csv.reader(io.StringIO(whole.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    first = lines[0] if lines else []
    if first != header if header else (first[:2] != _FIRST or first[-2:] != _LAST):
        expected = ",".join(header or [*_FIRST, "...", *_LAST])
        raise InputError(
            f"{path}: the first line is {','.join(first)[:80] or 'nothing'}, expected {expected}"
        )
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            step, *key, name, value = line
            if len(line) != len(first):
                raise ValueError
            rows.append((int(step), tuple(key), name, float(value)))
        except ValueError:
            raise InputError(
                f"{path}: line {number} is {','.join(line)[:80]}, expected {','.join(first)}"
            ) from None
    return rows


_FIRST, _LAST = ["step", "seed"], ["metric", "value"]


def _rows_until(
    path: Path,
    header: list[str],
    last_step: int,
    recorded: Mapping[str, Any] | None,
    evaluated_again: bool,
) -> bytes:
    """The file up to a step, as bytes."""
    content = _read(path)
    length = 0
    if recorded is not None:
        length = recorded["bytes"]
        _check_beginning(path, content, recorded, f"at gradient step {last_step}")
    rows = _parse(path, content, header)
    if recorded is None and not any(step == last_step for step, *_ in rows):
        raise InputError(f"{path} has no row of gradient step {last_step}; {_REMEDY}")
    known = len(_parse(path, content[:length], header)) if length else 0
    later = [
        [step, *key, name, f"{value:.9g}"]
        for step, key, name, value in rows[known:]
        if step < last_step
        or (step == last_step and not (evaluated_again and name.startswith(EVALUATION)))
    ]
    return (content[:length] or _lines([header])) + _lines(later)


def require_tensorboard() -> None:
    """Refuses --tensorboard if its package is missing, before a folder is made.

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
