"""States that wait for a person's labels, and the labels given so far: a folder of two text files.

``states.jsonl`` holds the states that a run asks about, ``labels.jsonl`` the answers, one JSON
object a line. A label stands beside the state itself and its name, which is a hash of the numbers,
so the file says everything and does not depend on the order of a run. A label is on the disk before
the next state is shown. The last label of a state counts, so a mistake is mended by a new one.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ddm.errors import InputError, LabelsNeededError
from ddm.types import Box, Discrete, Space

STATES, LABELS, TASK = "states.jsonl", "labels.jsonl", "task.json"


class LabelFolder:
    """The states and labels of one task.

    Args:
      path: the folder; made when the first states are written.

    Raises:
      InputError: a file in it is cut short or was edited wrongly; the line is named.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.space: Space | None = None
        self.name = ""
        if (self.path / TASK).is_file():
            self.name, self.space = _read_task(self.path / TASK)
        self.states: dict[str, np.ndarray] = {}
        for number, row in _rows(self.path / STATES):
            where = f"{self.path / STATES}, line {number}"
            name = _name_of(row, where)
            self.states[name] = _numbers(row, "observation", where)
        self.labels: dict[str, Any] = {}
        for number, row in _rows(self.path / LABELS):
            where = f"{self.path / LABELS}, line {number}"
            name = _name_of(row, where)
            self.labels[name] = self.checked(row.get("action"), where)

    @property
    def waiting(self) -> list[str]:
        """Names of the states without a label, in the order in which they were asked."""
        return [name for name in self.states if name not in self.labels]

    def open(self, name: str, space: Space) -> None:
        """Says whose actions the labels are, before states are asked.

        Raises:
          InputError: the folder belongs to a task with other actions.
        """
        if self.space is not None and self.space != space:
            raise InputError(
                f"{self.path} has labels for {self.name}, with {describe(self.space)}, and "
                f"{name} has {describe(space)}: give another folder"
            )
        if self.space is None:
            self.path.mkdir(parents=True, exist_ok=True)
            record = {"environment": name, "kind": type(space).__name__, **vars(space)}
            (self.path / TASK).write_text(json.dumps(record) + "\n")
            self.name, self.space = name, space

    def ask(self, observations: np.ndarray) -> np.ndarray:
        """The labels of observations (N, *O), if all of them are known.

        Raises:
          LabelsNeededError: some have none; they were added to the file of states.
        """
        names = [state_name(each) for each in observations]
        for name, observation in zip(names, observations, strict=True):
            if name not in self.states:
                row = {"state": name, "observation": _plain(observation)}
                _append(self.path / STATES, row)
                self.states[name] = np.asarray(observation)
        missing = {name for name in names if name not in self.labels}
        if missing:
            raise LabelsNeededError(
                f"{len(missing)} of {len(set(names))} states in {self.path} wait for a label: run "
                f"python experiments/label.py --labels={self.path}, and go on with --resume"
            )
        return np.asarray([self.labels[name] for name in names])

    def add(self, name: str, action: Any) -> None:
        """Keeps a label; it is on the disk when this returns.

        Raises:
          InputError: the action is not one of the task's.
        """
        action = self.checked(action, f"the label of state {name}")
        row = {"state": name, "action": action, "observation": _plain(self.states[name])}
        _append(self.path / LABELS, row)
        self.labels[name] = action

    def checked(self, action: Any, where: str) -> Any:
        """The action as a number, or a list of them.

        Raises:
          InputError: it is not one of the task's.
        """
        expected = f"expected {describe(self.space)}" if self.space else "expected numbers"
        try:
            found = np.asarray(action, np.float64)
        except (TypeError, ValueError):
            raise InputError(f"{where}: action is {action!r}, {expected}") from None
        if not np.isfinite(found).all() or not _fits(found, self.space):
            raise InputError(f"{where}: action is {action!r}, {expected}")
        if isinstance(self.space, Discrete):
            return int(found)
        return found.tolist()


def state_name(observation: np.ndarray) -> str:
    """A name that depends on the numbers of an observation alone, to the last bit."""
    array = np.asarray(observation)
    array = array if array.dtype == np.uint8 else np.asarray(array, np.float32)
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


def describe(space: Space) -> str:
    """The space in words, such as "2 numbers, each from -1 to 1"."""
    if isinstance(space, Discrete):
        return f"one of the actions {space.start} .. {space.start + space.n - 1}"
    size = int(np.prod(space.shape))
    bounds = sorted(set(zip(space.low, space.high, strict=True)))
    if len(bounds) == 1:
        low, high = bounds[0]
        each = "each " if size > 1 else ""
        return f"{size} number{'s' if size > 1 else ''}, {each}from {low:g} to {high:g}"
    ranges = ", ".join(
        f"{low:g} to {high:g}" for low, high in zip(space.low, space.high, strict=True)
    )
    return f"{size} numbers, from {ranges}"


def _fits(action: np.ndarray, space: Space | None) -> bool:
    if space is None:
        return True
    if isinstance(space, Discrete):
        inside = not action.shape and space.start <= action < space.start + space.n
        return bool(inside and action == round(float(action)))
    if action.shape != tuple(space.shape):
        return False
    flat = action.ravel()
    return bool(np.all(flat >= np.asarray(space.low)) and np.all(flat <= np.asarray(space.high)))


def _read_task(path: Path) -> tuple[str, Space]:
    try:
        record = json.loads(path.read_text())
        if record["kind"] == "Discrete":
            return record["environment"], Discrete(int(record["n"]), int(record["start"]))
        shape, low, high = (tuple(record[name]) for name in ("shape", "low", "high"))
        return record["environment"], Box(shape, low, high, record["dtype"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} does not describe a task: {error!r}") from error


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file with the numbers of their lines.

    Raises:
      InputError: a line is cut short or is no object.
    """
    if not path.is_file():
        return []
    text = path.read_text()
    lines = text.split("\n")
    if lines[-1]:
        raise InputError(
            f"{path}, line {len(lines)} is cut short: delete that line, and its state is asked "
            "again"
        )
    rows = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} is {line[:40]!r}, expected a JSON object")
        rows.append((number, row))
    return rows


def _name_of(row: dict[str, Any], where: str) -> str:
    """The name of the line's state, which must be that of its observation."""
    observation = _numbers(row, "observation", where)
    names = {state_name(observation), state_name(np.asarray(observation, np.uint8))}
    if row.get("state") not in names:
        raise InputError(
            f"{where}: observation is not that of state {row.get('state')!r}; only actions may be "
            "edited"
        )
    return row["state"]


def _numbers(row: dict[str, Any], field: str, where: str) -> np.ndarray:
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(row[field], np.float32)
    except KeyError:
        raise InputError(f"{where} has no {field}") from None
    except (TypeError, ValueError):
        raise InputError(f"{where}: {field} is {row[field]!r}, expected numbers") from None


def _plain(observation: np.ndarray) -> Any:
    """As JSON; float32 numbers come back to the last bit."""
    return np.asarray(observation).tolist()


def _append(path: Path, row: dict[str, Any]) -> None:
    """Adds a line at the end, and waits until the disk has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
