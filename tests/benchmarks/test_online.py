"""The online benchmark: what it measures of ours, and how it speaks to the other library."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
from absl import app

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
MEASURE = """
import jax, online
from absl import flags
flags.FLAGS(["online", "--seeds=2", "--hidden_sizes=4", "--batch_size=4", "--random_steps=40"])
for arrangement in (online.one_after_the_other, jax.vmap):
    lanes = online.Lanes(arrangement)
    rate, score = lanes._run(16)
    learner = lanes._learners
    print(rate, score, *learner.state.step, *learner.experience.buffer.size)
"""


@pytest.fixture
def peer(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return __import__("peer").Peer


@pytest.mark.slow  # it compiles four programs in a process of its own
def test_both_arrangements_take_the_same_steps():
    # A process of its own, as the benchmark defines flags that other scripts define, too.
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [list(map(float, line.split())) for line in done.stdout.splitlines()]
    for rate, score, *counts in rows:
        assert rate > 0.0
        assert -120.0 < score < -40.0  # 50 steps at a distance of 1 to 2.4: one episode is over
        assert counts == [17.0, 17.0, 57.0, 57.0]  # an update per step, and 40 steps before
    assert rows[0][1] == pytest.approx(rows[1][1], rel=1e-4)


def test_a_library_that_is_missing_is_named(peer):
    with pytest.raises(app.UsageError, match="--sb3_python is missing: name a Python in which"):
        peer("", "sb3_worker.py", flag="sb3_python", library="stable-baselines3")
    with pytest.raises(app.UsageError, match="--sb3_python=/no/python: No such file"):
        peer("/no/python", "sb3_worker.py", flag="sb3_python", library="stable-baselines3")


def test_a_worker_that_ends_is_named_and_one_that_answers_is_heard(peer, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    request = json.loads(line)\n"
        "    if request['do'] == 'end':\n"
        "        break\n"
        "    print(json.dumps(2 * request['x'] + int(sys.argv[1])), flush=True)\n"
    )
    worker = peer(sys.executable, str(script), "5", flag="python", library="it")
    assert worker.ask(do="double", x=3) == 11
    worker.send(do="end")
    with pytest.raises(app.UsageError, match=r"--python=.* stopped at end; is it installed\?"):
        worker.receive()
    worker.close()
