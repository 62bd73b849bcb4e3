"""Silences libraries whose threads print pages about an error that we report in one sentence."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
import threading
from collections.abc import Iterator

_TALKERS = ("absl", "asyncio", "orbax", "tensorstore")


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
    """Hides the reports of other threads and their libraries until the end of the context.

    An error of this thread is raised as usual. After an error, threads that are not Python's own
    stay silent, because they continue to report undelivered work.
    """
    loggers = [logging.getLogger(name) for name in _TALKERS]
    levels = [logger.level for logger in loggers]
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook = sys.unraisablehook = lambda _: None
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except Exception:
        if not isinstance(sys.excepthook, _MainThreadHook):
            sys.excepthook = _MainThreadHook(sys.excepthook)
        gc.collect()  # tasks without a waiter print errors when they are collected: do it now
        raise
    finally:
        threading.excepthook, sys.unraisablehook = hooks
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _MainThreadHook:
    """Reports errors of the main thread; Python's other threads have their own hook."""

    def __init__(self, previous):
        self._previous = previous

    def __call__(self, *error):
        if threading.current_thread() is threading.main_thread():
            self._previous(*error)
