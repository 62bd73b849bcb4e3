"""Silence around libraries whose threads print pages about what one sentence of ours says."""

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
    """Shows nothing of what other threads and their libraries report, until the end of the context.

    An error of this thread is raised as ever.
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
        gc.collect()  # tasks that nobody waited for complain when they are collected: now
        raise
    finally:
        threading.excepthook, sys.unraisablehook = hooks
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
