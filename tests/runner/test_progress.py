from __future__ import annotations

import io

from ddm.runner import progress
from ddm.runner.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_without_a_terminal_there_is_a_line_for_each_score(monkeypatch):
    clock = iter([0.0, 2.0, 3.0])  # start, after the updates, after the evaluation
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    stream = io.StringIO()
    bar = Progress(1_000, stream=stream)
    bar.update(100)
    bar.score(100, "return 7.0")
    bar.close()
    assert stream.getvalue() == "step 100: return 7.0, 50 updates/s, 0:00:18 left\n"


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch):
    clock = iter([0.0, 10.0, 20.0, 31.0, 41.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    stream = io.StringIO()
    bar = Progress(1_000, stream=stream)
    for step in (100, 200, 310, 410):
        bar.update(step)
    assert stream.getvalue() == "step 310 of 1000, 10 updates/s, 0:01:09 left\n"


def test_on_a_terminal_one_line_is_redrawn(monkeypatch):
    clock = iter([0.0, 1.0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    stream = Terminal()
    bar = Progress(400, stream=stream)
    bar.update(100)
    assert stream.getvalue().startswith("\r\x1b[2K[######..................]  25% 100/400")
    assert "100 updates/s, 0:00:03 left" in stream.getvalue()
    bar.note("a notice")
    assert "\x1b[2Ka notice\n\r" in stream.getvalue()


def test_none_is_silent():
    stream = Terminal()
    bar = Progress(10, style="none", stream=stream)
    bar.update(5)
    bar.score(5, "return 1.0")
    bar.note("a notice")
    bar.close()
    assert stream.getvalue() == ""
