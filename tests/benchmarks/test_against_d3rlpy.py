"""What d3rlpy is given are the transitions of the log, each with its own observation."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import numpy as np

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
WRITE = """
import pathlib, sys
import against_d3rlpy as benchmark
benchmark.write_arrays(benchmark.point_mass_log(), pathlib.Path(sys.argv[1]))
"""


def test_rows_of_the_log_obey_the_dynamics(tmp_path):
    # A process of its own, as the benchmark defines flags that other scripts define, too.
    path = tmp_path / "transitions.npz"
    subprocess.run([sys.executable, "-c", WRITE, str(path)], cwd=BENCHMARKS, check=True)
    with np.load(path) as arrays:
        observations, actions = arrays["observations"], arrays["actions"]
        ends = arrays["terminations"] | arrays["truncations"]
    assert len(observations) == len(actions) == 10_000
    assert ends.sum() == 200
    inside = np.flatnonzero(~ends)
    moved = np.clip(observations[inside] + 0.1 * actions[inside], -1.0, 1.0)
    np.testing.assert_allclose(observations[inside + 1], moved, atol=1e-5)
