"""Several runs side by side, read back from their folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ddm.errors import InputError
from ddm.evaluation import statistics
from ddm.runner.files import save_figure
from ddm.runner.metrics import read_rows
from ddm.runner.records import METRICS, SUMMARY
from ddm.runner.report import NORMALIZED, RETURN
from ddm.runner.saved import read_summary


def score_curve(run_dir: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a run's evaluations.

    Args:
      run_dir: folder of a run.

    Returns:
      Gradient steps (K,) of the evaluations, and scores (K, L) of the lanes: normalised where
      the run has reference scores, raw returns otherwise. Lanes that failed are left out.

    Raises:
      InputError: the folder holds no metrics, or no evaluation, or its rows are not those from the
        end of the run.
    """
    run_dir = Path(run_dir)
    path, summary = run_dir / METRICS, run_dir / SUMMARY
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected the folder of a run")
    recorded = read_summary(run_dir).get("metrics") if summary.is_file() else None
    rows = read_rows(path, recorded=recorded)
    for wanted in (NORMALIZED, RETURN):
        by_lane: dict[tuple[str, ...], dict[int, float]] = {}
        for step, lane, name, value in rows:
            if name == wanted:
                by_lane.setdefault(lane, {})[step] = value
        steps = sorted({step for curve in by_lane.values() for step in curve})
        whole = [curve for curve in by_lane.values() if set(curve) == set(steps)]
        if whole:
            return np.array(steps), np.array([[curve[step] for curve in whole] for step in steps])
    raise InputError(f"{path} holds no evaluation; the run had no environment")


def plot_comparison(
    path: str | os.PathLike, runs: Mapping[str, str | os.PathLike], title: str, score: str
) -> None:
    """Draws the score of several runs against gradient steps in one PNG.

    Lines are means over all lanes of a run, bands 95 % bootstrap intervals.

    Args:
      path: of the picture.
      runs: label -> folder of the run.
      title: of the picture.
      score: label of the vertical axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for i, (label, run_dir) in enumerate(runs.items()):
        steps, scores = score_curve(run_dir)
        axis.plot(steps, scores.mean(axis=1), "o-", color=f"C{i}", label=label, lw=1.6, ms=3)
        if scores.shape[1] > 1:
            ends = [
                statistics.bootstrap_interval(row, statistics.mean, repetitions=500)
                for row in scores
            ]
            axis.fill_between(steps, *np.transpose(ends), color=f"C{i}", alpha=0.2, lw=0)
    axis.set(xlabel="gradient steps", ylabel=score, title=title)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    save_figure(path, figure)
