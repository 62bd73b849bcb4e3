"""Runs read back from their folders."""

import numpy as np
import pytest

from ddm.errors import InputError
from ddm.runner import plot_comparison, score_curve


@pytest.fixture
def run_dir(tmp_path):
    rows = ["step,seed,metric,value"]
    for step, scores in ((10, (1.0, 3.0)), (20, (5.0, 7.0))):
        rows += [f"{step},{seed},evaluation/return,{value}" for seed, value in enumerate(scores)]
        rows.append(f"{step},0,loss,99.0")
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_scores_of_all_lanes_by_step(run_dir):
    steps, scores = score_curve(run_dir)
    np.testing.assert_array_equal(steps, [10, 20])
    np.testing.assert_array_equal(scores, [[1.0, 3.0], [5.0, 7.0]])


def test_normalised_scores_are_preferred(run_dir):
    with (run_dir / "metrics.csv").open("a") as file:
        file.write("20,0,evaluation/normalized_score,50.0\n")
    assert score_curve(run_dir)[1] == 50.0


def test_lanes_that_failed_are_left_out(run_dir):
    with (run_dir / "metrics.csv").open("a") as file:
        file.write("10,2,evaluation/return,100.0\n")  # and no row of step 20
    np.testing.assert_array_equal(score_curve(run_dir)[1], [[1.0, 3.0], [5.0, 7.0]])


def test_comparison_is_a_picture(run_dir):
    plot_comparison(run_dir / "curves.png", {"a": run_dir, "b": run_dir}, "title", "return")
    assert (run_dir / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_missing_runs_are_named(run_dir, tmp_path):
    with pytest.raises(InputError, match="expected the folder of a run"):
        score_curve(tmp_path / "nowhere")
    (run_dir / "metrics.csv").write_text("step,seed,metric,value\n10,0,loss,1.0\n")
    with pytest.raises(InputError, match="no evaluation"):
        score_curve(run_dir)
