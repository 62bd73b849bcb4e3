"""Contiguous, memory-mapped copies of datasets that are slow to read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

VERSION = 2  # of the layout below; it is part of the key, so an older copy is never found
MANIFEST = "manifest.json"


def cache_directory() -> Path:
    """Where copies are kept: $DDM_CACHE, or ~/.cache/ddm."""
    return Path(os.environ.get("DDM_CACHE") or "~/.cache/ddm").expanduser()


def cached_arrays(
    sources: Sequence[Path], read: Callable[[], Mapping[str, np.ndarray]], choice: str = ""
) -> Mapping[str, np.ndarray]:
    """What `read()` returns, from the cache if it was read before and the files are unchanged.

    A copy is one `.npy` file per array, mapped read-only, and a manifest with their checksums. It
    appears whole or not at all. A damaged copy is replaced. If a copy cannot be written (a full
    disk), there is a warning, and the next load is slow again.

    Args:
      sources: files that the arrays depend on, and folders for all files below them; path, size
        and time of change of each make the key.
      read: the slow way.
      choice: other values that decide what `read` returns.
    """
    folder = cache_directory() / _key(sources, choice)
    stored = _open(folder)
    if stored is not None:
        return stored
    arrays = read()
    try:
        _store(folder, arrays)
    except OSError as error:
        warnings.warn(f"no cache was written to {folder}: {error.strerror or error}", stacklevel=2)
    return arrays


def _key(sources: Sequence[Path], choice: str) -> str:
    # A folder's own time of change does not change when a file in it is written again.
    files = [file for path in sources for file in (_files(path) if path.is_dir() else [path])]
    stats = [(file.resolve(), file.stat()) for file in files]
    facts = [[str(file), status.st_size, status.st_mtime_ns] for file, status in stats]
    return hashlib.sha256(json.dumps([VERSION, facts, choice]).encode()).hexdigest()[:32]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _open(folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a copy; None if there is no copy or a byte of it is wrong."""
    try:
        checksums = dict(json.loads((folder / MANIFEST).read_text()))
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in checksums
        }
    except Exception:  # a damaged copy is replaced, whatever the error
        return None
    intact = bool(arrays) and all(
        _checksum(array) == checksums[name] for name, array in arrays.items()
    )
    return arrays if intact else None


def _store(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        checksums = {name: _checksum(array) for name, array in arrays.items()}
        (temporary / MANIFEST).write_text(json.dumps(checksums))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).ravel().data)
