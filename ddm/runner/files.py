"""Small files that are complete or absent, and that show if they were changed."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ddm.errors import InputError

SEAL = "seal"  # field of a JSON object: the digest of all other fields


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file; a reader sees the old or the new content, even after a loss of power."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def append(file: BinaryIO, content: bytes) -> None:
    """Writes all bytes to an unbuffered file, which may accept them in several parts."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def _sync_folder(folder: Path) -> None:
    """Writes the names in a folder to the disk, if the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    text = json.dumps(json_values(value), indent=2, allow_nan=False)
    replace_file(path, (text + "\n").encode())


def json_values(value: Any) -> Any:
    """The same value without numbers that JSON does not have: NaN is null, infinity is "inf"."""
    if isinstance(value, Mapping):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the digest of its fields, so that changes of the file are noticed."""
    value = {name: item for name, item in json_values(record).items() if name != SEAL}
    return {**value, SEAL: digest_of(value)}


def digest_of(value: Any) -> str:
    """A digest of a value of JSON; the order of names does not count."""
    text = json.dumps(json_values(value), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file with one JSON object, and checks its seal where it has one.

    Raises:
      InputError: it cannot be read, or was changed after it was written.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, expected a JSON object")
    if SEAL in value and sealed(value)[SEAL] != value[SEAL]:
        raise InputError(
            f"{path} is not as it was written (its seal does not fit); put a copy of it back, or "
            "start a new run"
        )
    return value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def check_fields(value: Any, expected: Mapping[str, Any], name: str) -> None:
    """Refuses a record of another shape.

    Args:
      value: of JSON.
      expected: field -> type, or tuple of types; if None is among them, the field may be missing. A
        list with one type means a list of such values, and a mapping means a record in the record.
      name: of the record, for the message.

    Raises:
      InputError: names the field.
    """
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is {_shown(value)}, expected a record")
    for field, kind in expected.items():
        item = value.get(field)
        if isinstance(kind, Mapping):
            check_fields(item, kind, f"{name}: {field}")
        elif isinstance(kind, list):
            if not isinstance(item, list) or not all(isinstance(x, kind[0]) for x in item):
                raise InputError(f"{name}: {field} is {_shown(item)}, expected a list")
        else:
            kinds = kind if isinstance(kind, tuple) else (kind,)
            allowed = tuple(type(None) if k is None else k for k in kinds)
            # A bool is an int in Python, but not in a record.
            if not isinstance(item, allowed) or (isinstance(item, bool) and bool not in kinds):
                words = " or ".join("nothing" if k is None else k.__name__ for k in kinds)
                raise InputError(f"{name}: {field} is {_shown(item)}, expected {words}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of one shape as a table, whole or not at all; the first row names the columns."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    replace_file(path, text.getvalue().encode())


def save_figure(path: str | os.PathLike[str], figure: Any) -> None:
    """Draws a figure of matplotlib, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")  # the ending gives the format
    figure.savefig(temporary, dpi=130)
    os.replace(temporary, path)


_NOT_WRITABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP,
    errno.EISDIR, errno.EEXIST, errno.EFBIG, errno.ENOENT,
}  # fmt: skip


@contextlib.contextmanager
def write_errors_named(path: Path) -> Iterator[None]:
    """Turns errors of a full disk, from any library, or of a failed write into one sentence.

    Raises:
      InputError: the device of `path` is full, or a file in it cannot be written.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            raise InputError(
                f"{path}: no space left on the device; free some and go on with --resume"
            ) from error
        if number in _NOT_WRITABLE and _lies_in(getattr(error, "filename", None), path):
            raise InputError(f"{path} cannot be written: {error}") from error
        raise


def _lies_in(name: Any, folder: Path) -> bool:
    """Whether an error is about a file in the folder, or a folder above it, not a simulator's."""
    if not isinstance(name, (str, os.PathLike)):
        return False
    found, folder = (Path(os.path.abspath(x)) for x in (name, folder))
    return found.is_relative_to(folder) or folder.is_relative_to(found)
