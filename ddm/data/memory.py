"""Reports that a dataset does not fit the device, before the device itself fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import jax

from ddm.errors import InputError

MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")
CGROUP = Path("/sys/fs/cgroup")  # of a container; inside it, its own limit is at this root

REMEDY = "use a machine with more memory, or store a part of the episodes in a file of its own"


def check_fits(
    num_bytes: int,
    device: jax.Device | None = None,  # pyright: ignore[reportInvalidTypeForm]
    name: str = "the dataset",
) -> None:
    """Refuses arrays that are larger than the free memory of the device.

    Args:
      num_bytes: bytes that will be put on the device.
      device: the default device if None.
      name: how the error calls the arrays.

    Raises:
      InputError: they do not fit; both sizes are named.
    """
    device = jax.local_devices()[0] if device is None else device
    free = free_bytes(device)
    if free is not None and num_bytes > free:
        raise InputError(
            f"{name} needs {_readable(num_bytes)} and {device} has {_readable(free)} free: {REMEDY}"
        )


def check_declared(num_bytes: int, name: str) -> None:
    """Refuses a file whose arrays would not fit the host's memory, before they are read.

    A file may declare other sizes than it holds: see `check_held`.

    Args:
      num_bytes: the size of its arrays that the file declares.
      name: how the error calls the file.

    Raises:
      InputError: they do not fit; both sizes are named.
    """
    free = free_host_bytes()
    if free is not None and num_bytes > free:
        raise InputError(
            f"{name} holds arrays of {_readable(num_bytes)} and the host has {_readable(free)} "
            f"free: {REMEDY}"
        )


def check_held(declared: int, held: int, name: str) -> None:
    """Refuses an array whose declared size is more than the bytes that the file has for it.

    Args:
      declared: bytes by its shape and dtype.
      held: bytes in the file, if they are not compressed.
      name: the file and the array.

    Raises:
      InputError: both numbers are named.
    """
    if declared > held:
        raise InputError(
            f"{name} declares {declared} bytes and the file holds {held} of them: it is damaged"
        )


@contextlib.contextmanager
def fitting(name: str) -> Iterator[None]:
    """Reports in one sentence that memory ran out, if the limit was not known before.

    Raises:
      InputError: in place of a MemoryError, or of the device's own error.
    """
    try:
        yield
    except MemoryError as error:
        raise InputError(f"{name} does not fit the host's memory: {REMEDY}") from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise InputError(f"{name} does not fit the device's memory: {REMEDY}") from error


def free_bytes(device: jax.Device) -> int | None:  # pyright: ignore[reportInvalidTypeForm]
    """Free bytes of an accelerator, or of the host for the CPU; None where neither is known."""
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    return free_host_bytes()


def free_host_bytes() -> int | None:
    """Free bytes of the host, within the limits of the process and of its container."""
    known = [_free_system_bytes(), _free_process_bytes(), _free_container_bytes()]
    return min((free for free in known if free is not None), default=None)


def _free_process_bytes() -> int | None:
    """The memory that `ulimit -v` leaves to the process; None without such a limit."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(STATM.read_text().split()[0])
        return max(0, limit - pages * os.sysconf("SC_PAGE_SIZE"))
    except (ImportError, OSError, ValueError):  # not a Linux host
        return None


def _free_container_bytes() -> int | None:
    """The memory that the container's limit leaves; None without a limit."""
    try:
        limit = int((CGROUP / "memory.max").read_text())  # "max" without a limit
        used = int((CGROUP / "memory.current").read_text())
        facts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # The page cache of read files counts as used, but it is freed on demand.
    return max(0, limit - used + int(facts.get("inactive_file", 0)))


def _free_system_bytes() -> int | None:
    # Linux's own estimate includes page cache that it can free. sysconf's free pages do not, and
    # they are almost 0 on a machine that has read many files.
    try:
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX host
        return None


def _readable(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**28 else f"{num_bytes / 2**20:.1f} MiB"
