"""Reports about a run: scores, a summary and learning curves."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddm import data, evaluation
from ddm.evaluation import statistics
from ddm.runner.files import save_figure
from ddm.runner.metrics import History
from ddm.runner.processes import gather_values
from ddm.runner.sweep import Lane

RETURN = "evaluation/return"
NORMALIZED = "evaluation/normalized_score"
SUCCESS = "evaluation/success_rate"


class Clock:
    """Times the calls of the device; the first one of each length contains a compilation.

    Args:
      before: the figures from an earlier process of this run; they are kept until there are new
        ones.
    """

    def __init__(self, before: Mapping[str, Any] | None = None):
        self._before = before or {}
        self._calls: list[tuple[int, float]] = []  # gradient steps and seconds

    @contextlib.contextmanager
    def interval(self, steps: int) -> Iterator[None]:
        """Times one call that makes `steps` gradient steps in every lane."""
        started = time.perf_counter()
        yield
        self._calls.append((steps, time.perf_counter() - started))

    def figures(self, num_lanes: int) -> dict[str, float | None]:
        """Gradient steps per second (of each lane, and of all together), compile seconds.

        They are None until there is a second call to compare with the first one.
        """
        lengths = [steps for steps, _ in self._calls]
        first = {lengths.index(steps) for steps in lengths}
        again = [call for i, call in enumerate(self._calls) if i not in first]
        if not again:
            return {name: self._before.get(name) for name in _SPEED}
        each = float(np.median([seconds / steps for steps, seconds in again]))
        compiled = [self._calls[i][1] - self._calls[i][0] * each for i in first]
        figures = 1.0 / each, num_lanes / each, sum(max(seconds, 0.0) for seconds in compiled)
        return dict(zip(_SPEED, figures, strict=True))


_SPEED = ("updates_per_second", "updates_per_second_all_lanes", "compile_seconds")


def score_metrics(
    result: evaluation.EvaluationResult, references: tuple[float, float] | None
) -> dict[str, np.ndarray]:
    """Means over the episodes, shape (L,), of one evaluation.

    Args:
      result: of the evaluation.
      references: returns that count as 0 and 100 percent; None: there is no normalised score.
    """
    metrics = {
        RETURN: result.returns.mean(axis=1),
        "evaluation/return_std": result.returns.std(axis=1),  # over the episodes
        "evaluation/length": result.lengths.mean(axis=1),
    }
    if references is not None:
        metrics[NORMALIZED] = np.asarray(data.normalized_score(metrics[RETURN], references))
    if result.successes is not None:
        metrics[SUCCESS] = result.successes.mean(axis=1)
    return metrics


def score_name(metrics: Mapping[str, Any]) -> str | None:
    """The metric that is the run's score: the normalised score, else the return, else None."""
    return next((name for name in (NORMALIZED, RETURN) if name in metrics), None)


def summarize_scores(
    history: History, lanes: Sequence[Lane], failed: Collection[int] = ()
) -> dict[str, Any] | None:
    """Last and best score of every lane, and for each sweep point the seeds together.

    The main result is the last score. The best score is selected by the evaluation itself, so it is
    too optimistic for a user. The mean over the evaluations of the run's second half is given too:
    it is more stable if scores change much between evaluations. If the environment reports success,
    its rate is also given.

    Args:
      history: the metrics of the run.
      lanes: its lanes.
      failed: indices of lanes that diverged. They have no score, and count in no mean.

    Returns:
      None when there was no evaluation.
    """
    name = score_name(history)
    if name is None or len(failed) == len(lanes):
        return None
    steps = sorted(history[name])
    curve = np.stack([history[name][step] for step in steps])  # (evaluations, L)
    successes = history.get(SUCCESS, {}).get(steps[-1])
    second_half = curve[2 * np.array(steps) >= steps[-1]]
    rows = []
    for i, lane in enumerate(lanes):
        if i in failed:
            rows.append({**_label(lane), "failed": True})
            continue
        best = int(curve[:, i].argmax())
        rows.append(
            {
                **_label(lane),
                "last": float(curve[-1, i]),
                "best": float(curve[best, i]),
                "best_step": steps[best],
                "second_half": float(second_half[:, i].mean()),
                **({} if successes is None else {"success_rate": float(successes[i])}),
            }
        )
    good = [i for i in range(len(lanes)) if i not in failed]
    return {
        "metric": name.partition("/")[2],
        "unit": "percent" if name == NORMALIZED else "raw return",
        "headline": "last",
        "last_step": steps[-1],
        "points": [
            _summarize_point(point, chosen, curve[-1], successes)
            | {"failed": sum(lanes[i].point == point for i in failed)}
            for point in _points(lanes)
            if (chosen := [i for i in good if lanes[i].point == point])
        ],
        "lanes": rows,
    }


def _summarize_point(
    point: tuple, chosen: list[int], scores: np.ndarray, successes: np.ndarray | None
) -> dict[str, Any]:
    """The lanes of one sweep point together: (L,) scores, and success rates where there are any."""
    scores = scores[chosen]
    success = {} if successes is None else {"success_rate": float(successes[chosen].mean())}
    return {
        **dict(point),
        "seeds": len(scores),
        "mean": float(statistics.mean(scores)),
        "mean_interval": _interval(scores, statistics.mean),
        "iqm": float(statistics.interquartile_mean(scores)),
        "iqm_interval": _interval(scores, statistics.interquartile_mean),
        **success,
    }


def _interval(scores: np.ndarray, statistic: Any, repetitions: int = 2000) -> list[float] | None:
    """95 % bootstrap interval; None for a single seed, which does not show the spread."""
    if len(scores) < 2 or not np.all(np.isfinite(scores)):
        return None
    ends = statistics.bootstrap_interval(scores, statistic, repetitions=repetitions)
    return [float(end) for end in ends]


def _points(lanes: Sequence[Lane]) -> list[tuple]:
    return list(dict.fromkeys(lane.point for lane in lanes))


def _label(lane: Lane) -> dict[str, float]:
    return {"seed": lane.seed, **dict(lane.point)}


def describe_score(score: Mapping[str, Any] | None) -> list[str]:
    """The scores of a summary as lines to print; none for a run without a score."""
    if score is None:
        return []
    lines = []
    for point in score["points"]:
        keys = [key for key in point if key not in _POINT_STATISTICS]
        label = " ".join(f"{key}={point[key]:g}" for key in keys)
        ends = point["mean_interval"]
        spread = f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else ""
        seeds = f"{point['seeds']} seed(s)"
        if point["failed"]:
            seeds += f" without {point['failed']} that failed"
        text = f"last {score['metric']} {point['mean']:.1f}{spread} ({seeds})"
        if "success_rate" in point:
            text += f", success rate {point['success_rate']:.0%}"
        lines.append(f"{label}: {text}" if label else text)
    return lines


_POINT_STATISTICS = (
    "seeds", "failed", "mean", "mean_interval", "iqm", "iqm_interval", "success_rate",
)  # fmt: skip


_MAX_SHOWN = 4  # sweep points in a line of progress


def describe_scores_now(metrics: Mapping[str, np.ndarray], lanes: Sequence[Lane]) -> str:
    """One line for an evaluation: the scores of sweep points, each a mean over its seeds.

    If there are many points, only the best are shown.

    Args:
      metrics: of the evaluation, (L,) each; NaN for lanes that diverged.
      lanes: the lanes.
    """
    name = score_name(metrics) or RETURN
    means: dict[str, float] = {}
    for point in _points(lanes):
        values = metrics[name][[lane.point == point for lane in lanes]]
        values = values[np.isfinite(values)]
        label = " ".join(f"{key}={value:g}" for key, value in point)
        means[label] = values.mean() if len(values) else -np.inf
    shown = sorted(means, key=lambda label: -means[label]) if len(means) > _MAX_SHOWN else means
    parts = [
        (f"{label}: " if label else "")
        + ("failed" if means[label] == -np.inf else f"{means[label]:.1f}")
        for label in list(shown)[:_MAX_SHOWN]
    ]
    best = f"of {len(means)} points the best are " if len(means) > _MAX_SHOWN else ""
    text = f"{name.partition('/')[2]} {best}{', '.join(parts)}"
    if SUCCESS in metrics:
        text += f", success rate {np.nanmean(metrics[SUCCESS]):.0%}"
    return text


def device_record() -> dict[str, Any]:
    """The machines of the run; all processes call this together."""
    devices = jax.local_devices()
    counts = gather_values(len(devices))
    return {
        "platform": jax.default_backend(),
        "device": devices[0].device_kind,
        "device_count": sum(counts),
        "process_count": len(counts),
        "peak_bytes": _peak_bytes(),
    }


def _peak_bytes() -> int | None:
    """The most memory used so far: of the first device, or of the process on a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def plot_curves(path: Path, history: History, lanes: Sequence[Lane], title: str) -> None:
    """Draws the score and the main losses against gradient steps, one line per sweep point.

    Lines are means over the seeds, bands their 95 % bootstrap intervals.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = _panels(history)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, name in zip(axes, names, strict=False):
        _plot_metric(axis, history[name], lanes)
        label = name.replace("evaluation/", "").replace("_", " ")
        axis.set_title(f"{label} (%)" if name == NORMALIZED else label, fontsize=10)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if labels and any(labels):
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False
        )
    seeds = len({lane.seed for lane in lanes})
    figure.suptitle(f"{title} ({seeds} seed{'s' if seeds > 1 else ''})", fontsize=11)
    save_figure(path, figure)


_MAX_PANELS = 6


def _panels(history: History) -> list[str]:
    """The score first, then losses, then the other metrics of training, up to six."""
    training = [name for name in history if not name.startswith("evaluation/")]
    losses = sorted(name for name in training if "loss" in name)
    others = sorted(name for name in training if "loss" not in name)
    score = score_name(history)
    return [*([score] if score else []), *losses, *others][:_MAX_PANELS]


def _plot_metric(axis: Any, by_step: Mapping[int, np.ndarray], lanes: Sequence[Lane]) -> None:
    steps = sorted(by_step)
    curve = np.stack([by_step[step] for step in steps])
    marker = "o" if len(steps) < 30 else None
    for i, point in enumerate(_points(lanes)):
        values = curve[:, [lane.point == point for lane in lanes]]
        values = values[:, np.isfinite(values).all(axis=0)]  # without lanes that diverged
        if not values.shape[1]:
            continue
        label = " ".join(f"{key}={value:g}" for key, value in point)
        axis.plot(
            steps, values.mean(axis=1), color=f"C{i}", label=label, lw=1.6, marker=marker, ms=3
        )
        if values.shape[1] > 1:
            ends = [_interval(row, statistics.mean, 500) or [np.nan, np.nan] for row in values]
            axis.fill_between(steps, *np.transpose(ends), color=f"C{i}", alpha=0.2, lw=0)
    axis.set_xlabel("gradient steps", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
