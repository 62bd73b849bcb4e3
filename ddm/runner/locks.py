"""One writer per folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import os
import platform
import time
from pathlib import Path
from typing import Any

from ddm.errors import InputError
from ddm.runner.files import write_errors_named

NAME = "lock"  # of the file in the folder; the file is not removed, because only its lock counts

_HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
_SECONDS = 0.2  # between two attempts


class FolderLock:
    """The right to write a folder.

    The system releases the lock when its process ends in any way, so nothing has to be cleaned up
    after a kill. The file says which process holds the lock.
    """

    def __init__(self):
        self._handle: int | None = None

    def acquire(self, folder: Path, patience: float = 0.0) -> list[str]:
        """Takes the lock of a folder that exists.

        Args:
          folder: to be written.
          patience: seconds to wait for another process.

        Returns:
          A sentence for the user where the system or the file system has no locks.

        Raises:
          InputError: another process, or another run of this one, writes the folder.
        """
        path = folder / NAME
        with write_errors_named(folder):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            missing = _lock(handle, path, patience)
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        if missing is not None:
            return [
                f"{folder} cannot be locked ({missing}): see to it that no other process writes it"
            ]
        with write_errors_named(folder):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)
        return []

    def release(self) -> None:
        """Releases the lock; without one, does nothing."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def wait_until_free(folder: Path, patience: float) -> None:
    """Waits for the process that writes a folder; one that does not exist is free.

    Raises:
      InputError: it is still written after `patience` seconds.
    """
    if folder.is_dir():
        with FolderLock() as lock:
            lock.acquire(folder, patience)


def _lock(handle: int, path: Path, patience: float) -> str | None:
    """Locks an open file, or says why locks are not possible."""
    try:
        import fcntl
    except ImportError:  # Windows
        return "this system has no such locks"
    give_up = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except OSError as error:
            if error.errno not in _HELD:
                return str(error.strerror)
            if time.monotonic() >= give_up:
                raise InputError(_in_use(path, handle)) from None
        time.sleep(_SECONDS)


def _in_use(path: Path, handle: Any) -> str:
    holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
    who = f" ({holder})" if holder else ""
    return (
        f"--run_dir={path.parent} is in use by another process{who}: wait for its end, or name "
        "another folder"
    )
