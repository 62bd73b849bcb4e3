"""Processes that end with the one that started them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

# A run that is told so by the system stops when its parent ends, also by a kill (Linux).
_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Children:
    """The runs of this process, which end with it."""

    def __init__(self):
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self._ended = False

    def call(self, arguments: list[str], log: Any) -> int:
        """Runs a script to its end; returns its exit code."""
        with self._lock:
            if self._ended:
                return 1
            command = [sys.executable, "-c", _WITH_PARENT, str(os.getpid()), *arguments]
            child = subprocess.Popen(command, stdout=log, stderr=log)
            self._running.add(child)
        try:
            return child.wait()
        finally:
            self._running.discard(child)

    def end(self) -> None:
        """Asks all to save and end, and starts no more."""
        with self._lock:
            self._ended = True
            for child in self._running:
                child.terminate()

    @contextlib.contextmanager
    def ended_with_this_process(self) -> Iterator[None]:
        """Within the context, SIGTERM ends the runs before it ends this process."""

        def stop(number: int, frame: Any) -> None:
            del frame
            sys.exit(128 + number)

        on_main = threading.current_thread() is threading.main_thread()
        previous = signal.signal(signal.SIGTERM, stop) if on_main else None
        try:
            yield
        finally:
            if on_main:
                signal.signal(signal.SIGTERM, previous)
