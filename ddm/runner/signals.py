"""Asks a run to stop cleanly when the process is told to end."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Within the context, SIGTERM and the first Ctrl-C are noted instead of ending the process.

    A second Ctrl-C raises KeyboardInterrupt as usual. Outside the main thread, where Python
    allows no handlers, nothing is changed.
    """

    def __init__(self):
        self.received = 0  # the signal's number; 0: none
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:
            if self.received:
                raise KeyboardInterrupt
            print("\nstopping after this interval; again to stop at once", file=sys.stderr)
        self.received = number
