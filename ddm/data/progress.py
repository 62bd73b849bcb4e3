"""A progress line for long reads; silent if the output is not a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")

DELAY = 1.0  # seconds before the first line: short reads stay quiet
INTERVAL = 0.2  # seconds between lines


def progress(items: Iterable[Item], what: str, unit: str) -> Iterator[Item]:
    """Yields the items and, on a terminal, writes how many of them are done to stderr."""
    if not sys.stderr.isatty():
        yield from items
        return
    total = f"/{len(items)}" if isinstance(items, Sized) else ""
    start = time.monotonic()
    due = start + DELAY
    shown = False
    for done, item in enumerate(items):
        now = time.monotonic()
        if now >= due:
            sys.stderr.write(f"\r{what}: {done}{total} {unit}, {now - start:.0f} s")
            sys.stderr.flush()
            due, shown = now + INTERVAL, True
        yield item
    if shown:
        sys.stderr.write("\r\033[K")  # clears the line
