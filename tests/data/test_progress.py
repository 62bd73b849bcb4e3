"""The progress line is for terminals only."""

from __future__ import annotations

import io
import sys

from ddm.data import progress as module


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_quiet_when_nobody_looks(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(module, "DELAY", 0.0)
    assert list(module.progress(range(3), "reading", "episodes")) == [0, 1, 2]
    assert sys.stderr.getvalue() == ""


def test_a_terminal_sees_how_far_it_is(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(module, "DELAY", 0.0)
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    assert list(module.progress(range(3), "reading", "episodes")) == [0, 1, 2]
    assert "reading: 2/3 episodes" in sys.stderr.getvalue()
    assert sys.stderr.getvalue().endswith("\r\033[K")
