"""The one place that turns any error of a reader into a sentence for the user."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from ddm.data.memory import fitting
from ddm.errors import DdmError, InputError

LONGEST_REASON = 200  # characters of another library's message that are shown


@dataclasses.dataclass
class Place:
    """The place of a reader; the reader updates it, so that an error can name the member."""

    file: str
    member: str | None = None  # an array, a group, a field of the metadata


@contextlib.contextmanager
def reading(file: str | Path, kind: str) -> Iterator[Place]:
    """Turns every error of a reader into an error of this library.

    With a damaged file zipfile, numpy, h5py, json and minari may raise any error. Each one becomes
    one sentence with the file, the member and what was expected.

    Args:
      file: the beginning of the sentence.
      kind: what the file was expected to be: "HDF5 file".

    Yields:
      The place; the reader sets its `member` while it reads.

    Raises:
      InputError: in place of any error that is not of this library.
    """
    place = Place(str(file))
    try:
        with fitting(place.file):
            yield place
    except DdmError:
        raise
    except Exception as error:
        member = f"{place.member}: " if place.member else ""
        raise InputError(f"{file} is not a readable {kind}: {member}{reason(error)}") from error


def reason(error: BaseException) -> str:
    """Another library's message in one line; never its advice to unpickle untrusted files."""
    text = next(iter(str(error).splitlines()), "")
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if "pickle" in str(error):
        return "it holds Python objects, or what claims to be some, expected plain arrays"
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    if isinstance(error, KeyError) or not text:
        text = f"{type(error).__name__} {text}".rstrip()
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."


def require_file(path: Path, expected: str) -> None:
    """Refuses a path that is not a regular file, and says what it is.

    Raises:
      InputError: nothing, a broken link, a folder, or something else.
    """
    try:
        if path.is_file():
            return
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read ({reason(error)}), expected {expected}") from error
    if path.is_symlink():
        raise InputError(f"{path} is a link to {path.readlink()}, which leads to no file")
    if not path.exists():
        raise InputError(f"{path} does not exist, expected {expected}")
    raise InputError(f"{path} is no file, expected {expected}")
