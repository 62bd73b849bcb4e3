"""What is said about a run, from metrics that are made up."""

from __future__ import annotations

import json

import matplotlib.figure
import numpy as np
import pytest

from ddm.runner import report
from ddm.runner.sweep import Lane

LANES = [Lane(seed, (("alpha", alpha),)) for alpha in (1.0, 5.0) for seed in (0, 1)]
HISTORY = {
    "evaluation/return": {5: np.array([1.0, 2, 3, 4]), 10: np.array([np.nan, 20, 30, 40])},
    "evaluation/success_rate": {5: np.zeros(4), 10: np.array([np.nan, 0.5, 0.2, 0.4])},
}


def test_lanes_that_failed_count_in_no_mean_and_are_named():
    score = report.summarize_scores(HISTORY, LANES, failed=[0])
    found = [(point["seeds"], point["failed"], point["mean"]) for point in score["points"]]
    assert found == [(1, 1, 20), (2, 0, 35)]
    assert score["points"][0]["mean_interval"] is None
    assert score["lanes"][0] == {"seed": 0, "alpha": 1.0, "failed": True}
    assert json.loads(json.dumps(score, allow_nan=False)) == score
    assert report.describe_score(score) == [
        "alpha=1: last return 20.0 (1 seed(s) without 1 that failed), success rate 50%",
        "alpha=5: last return 35.0 [30.0, 40.0] (2 seed(s)), success rate 30%",
    ]


def test_a_point_without_a_lane_has_no_mean():
    score = report.summarize_scores(HISTORY, LANES, failed=[0, 1])
    assert [point["alpha"] for point in score["points"]] == [5.0]
    assert report.summarize_scores(HISTORY, LANES, failed=[0, 1, 2, 3]) is None


def test_progress_shows_each_point_and_of_many_the_best():
    metrics = {"evaluation/return": np.array([np.nan, np.nan, 30.0, 40.0])}
    assert report.describe_scores_now(metrics, LANES) == "return alpha=1: failed, alpha=5: 35.0"
    many = [Lane(0, (("alpha", float(i)),)) for i in range(6)]
    text = report.describe_scores_now({"evaluation/return": np.arange(6.0)}, many)
    assert text == (
        "return of 6 points the best are alpha=5: 5.0, alpha=4: 4.0, alpha=3: 3.0, alpha=2: 2.0"
    )
    assert report.describe_scores_now({"evaluation/return": np.ones(1)}, [Lane(0)]) == "return 1.0"


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_no_frame_of_the_picture_is_empty(tmp_path, monkeypatch, count):
    figures = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    history = {f"loss_{i}": {1: np.ones(4), 2: np.ones(4)} for i in range(count)}
    report.plot_curves(tmp_path / "curves.png", history, LANES, "title")
    [figure] = figures
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == count
    assert all(axis.lines for axis in shown)
