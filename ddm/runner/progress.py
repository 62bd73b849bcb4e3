"""Progress on the terminal: one line that is redrawn, or plain lines without a terminal."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

_BAR_WIDTH = 24
_PLAIN_SECONDS = 30.0  # between two plain lines, unless there is a score to show


class Progress:
    """Shows steps done, updates per second, the last score and the time left.

    Args:
      total: gradient steps of the run.
      first: gradient steps that are already done.
      style: "bar", "plain", "none", or "auto": the bar on a terminal, otherwise plain.
      stream: where to write; standard error by default.
    """

    def __init__(
        self, total: int, first: int = 0, style: str = "auto", stream: TextIO | None = None
    ):
        self._stream = stream or sys.stderr
        if style == "auto":
            style = "bar" if self._stream.isatty() else "plain"
        self._style = style
        self._total, self._step = total, first
        self._score = ""
        self._rate: float | None = None  # gradient steps per second, smoothed
        self._time = self._shown = time.perf_counter()

    def update(self, step: int) -> None:
        """Reports that gradient step `step` is done."""
        now = time.perf_counter()
        rate = (step - self._step) / max(now - self._time, 1e-9)
        self._rate = rate if self._rate is None else 0.7 * self._rate + 0.3 * rate
        self._step, self._time = step, now
        if self._style == "plain" and now - self._shown >= _PLAIN_SECONDS:
            self._line(f"step {step} of {self._total}{self._left(', ')}")
        self._draw()

    def score(self, step: int, text: str) -> None:
        """Shows the newest score, and does not count the time of the evaluation."""
        self._score, self._time = text, time.perf_counter()
        if self._style == "plain":
            self._line(f"step {step}: {text}{self._left(', ')}")
        self._draw()

    def note(self, text: str) -> None:
        """Prints one line that stays."""
        if self._style == "bar":
            self._stream.write("\r\x1b[2K")
        if self._style != "none":
            self._line(text)
        self._draw()

    def close(self) -> None:
        """Keeps the bar and moves to a new line."""
        if self._style == "bar":
            self._stream.write("\n")
            self._stream.flush()

    def _draw(self) -> None:
        if self._style != "bar":
            return
        done = self._step / self._total
        filled = round(_BAR_WIDTH * done)
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        parts = [f"[{bar}] {done:4.0%} {self._step}/{self._total}", self._score]
        line = "  ".join(part for part in parts if part) + self._left("  ")
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[2K{line[:width]}")
        self._stream.flush()

    def _left(self, before: str) -> str:
        if not self._rate:
            return ""
        seconds = round((self._total - self._step) / self._rate)
        left = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        return f"{before}{self._rate:.0f} updates/s, {left} left"

    def _line(self, text: str) -> None:
        self._shown = self._time
        self._stream.write(text + "\n")
        self._stream.flush()
