"""Says that a dataset does not fit the device before the device does."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from ddm.errors import InputError

MEMINFO = Path("/proc/meminfo")


def check_fits(
    num_bytes: int,
    device: jax.Device | None = None,  # pyright: ignore[reportInvalidTypeForm]
    name: str = "the dataset",
) -> None:
    """Refuses arrays that are larger than what is free on the device.

    Args:
      num_bytes: bytes that are about to be put on the device.
      device: the default device if None.
      name: how the error calls the arrays.

    Raises:
      InputError: they do not fit; both sizes are named.
    """
    device = jax.local_devices()[0] if device is None else device
    free = free_bytes(device)
    if free is not None and num_bytes > free:
        raise InputError(
            f"{name} needs {_readable(num_bytes)} and {device} has {_readable(free)} free: "
            "load fewer episodes or use a device with more memory"
        )


def free_bytes(device: jax.Device) -> int | None:  # pyright: ignore[reportInvalidTypeForm]
    """Free bytes of an accelerator, or of the host for the CPU; None where neither is known."""
    statistics = device.memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"] - statistics.get("bytes_in_use", 0)
    return _free_host_bytes()


def _free_host_bytes() -> int | None:
    # Linux's own estimate counts page cache that it would give up; sysconf's free pages do not,
    # and on a machine that has read many files they are next to none.
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
