"""Small files that are either complete or not there at all."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddm.errors import InputError


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file; a reader sees the old content or the new, never half of it."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    text = json.dumps(json_values(value), indent=2, allow_nan=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, path)


def json_values(value: Any) -> Any:
    """The same value without what JSON has no number for: infinity becomes "inf", and so on."""
    if isinstance(value, Mapping):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of one shape as a table, whole or not at all; the first row names the columns."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
      InputError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turns the errors of a full disk, from whichever library, into one sentence.

    Raises:
      InputError: the device of `path` is full.
    """
    try:
        yield
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error):
            raise InputError(
                f"{path}: no space left on the device; free some and go on with --resume"
            ) from error
        raise
