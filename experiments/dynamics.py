"""An ensemble of models of the environment, and a report on what it knows and where it is wrong.

    python experiments/dynamics.py --dataset=mujoco/hopper/medium-v0 --seeds=3 --run_dir=MODEL
    python experiments/mopo.py --dataset=mujoco/hopper/medium-v0 --seeds=3 --start_from=MODEL

A share of the episodes is held out for the report (--holdout). It goes to `model_report.json`, one
entry for each seed, and `model_report.png`: errors per target and along logged actions, coverage
of the predicted intervals, and whether the uncertainties grow with the error and outside of the
data. "Outside" are uniformly random actions in the log's states, or another log: --outside=FILE.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from absl import flags

from ddm import data, runner
from ddm.model_based import dynamics
from ddm.model_based.parts import calibration
from ddm.model_based.parts.report import report
from ddm.runner.files import save_figure, write_json

# A row of metrics after each epoch, and the training that the configuration declares.
runner.define_flags(dynamics, num_updates=0, log_every=1, eval_every=0, holdout=0.1)
_OUTSIDE = flags.DEFINE_string("outside", "", "A log of what is outside of the data, for AUROC.")
_HORIZON = flags.DEFINE_integer("horizon", 20, "Steps of the open loop, at most.", lower_bound=1)
_ROWS = flags.DEFINE_integer("report_rows", 20_000, "Rows in the report, at most.", lower_bound=1)


def main(_):
    """Load, normalise, hold out, train, report."""
    options, config = runner.parse_flags(dynamics)
    dataset = runner.load_dataset(options)
    # A model has no policy; an environment that is named is refused by the runner.
    named = options.environment not in ("", "none")
    environment = runner.find_environment(options, dataset) if named else None
    log, held = data.hold_out(dataset, options.holdout) if options.holdout else (dataset, None)
    outside = _inputs(_OUTSIDE.value, dataset) if _OUTSIDE.value else None
    result = runner.train(dynamics, config, log, environment, options, holdout=held)

    models = [result.policy.lane(i) for i in range(len(result.policy.state.step))]
    shown = log if held is None else held
    choice = {"horizon": _HORIZON.value, "outside": outside, "count": _ROWS.value}
    reports = [report(model.config, model.state, shown, **choice) for model in models]
    source = "the log, of which rows were learned" if held is None else "held-out episodes"
    record = {"data": source, "outside": _OUTSIDE.value or "random actions", "models": reports}
    write_json(result.run_dir / "model_report.json", record)
    draw(result.run_dir / "model_report.png", reports[0], models[0], shown)
    print_report(reports, source)
    return result


def _inputs(path: str, like: data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Observations and actions of another log, in the units of the first."""
    other = data.normalize(data.load(path), like=like.normalization)
    rows = np.arange(other.num_transitions) + np.asarray(other.episode_ids)
    return np.asarray(other.observations)[rows], np.asarray(other.actions)


def print_report(reports: list[dict[str, Any]], source: str) -> None:
    """Three lines: errors, intervals, uncertainties; means over seeds."""
    mean = lambda read: float(np.mean([read(found) for found in reports]))  # noqa: E731
    steps = len(reports[0]["open_loop"])
    print(
        f"{source}: explains {100 * mean(lambda r: np.mean(r['explained'])):.1f} % of the variance "
        f"of a step; after {steps} steps the error is {mean(lambda r: r['open_loop'][-1]):.3g} "
        f"standard deviations ({mean(lambda r: r['no_change'][-1]):.3g} if nothing moved)"
    )
    if reports[0]["coverage"] is None:
        print("regressions have no intervals")
    else:
        found = [
            f"{100 * mean(lambda r, i=i: r['coverage']['mixture'][i]):.1f} % in {100 * level:g} %"
            for i, level in enumerate(reports[0]["levels"])
        ]
        print(f"coverage of the elites' intervals: {', '.join(found)}")
    found = [
        f"{name} {mean(lambda r, n=name: r['uncertainties'][n]['spearman']):.2f}"
        f" / {mean(lambda r, n=name: r['uncertainties'][n]['auroc']):.2f}"
        for name in reports[0]["uncertainties"]
    ]
    print(f"rank correlation with the error / AUROC of outside: {', '.join(found)}")


def draw(path: Any, found: dict[str, Any], model: Any, log: data.Dataset) -> None:
    """Error along logged actions; coverage; each uncertainty against the error of a step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 6.6), layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(2, 1)
    loop, intervals = halves[0].subplots(1, 2)
    steps = np.arange(1, len(found["open_loop"]) + 1)
    loop.plot(steps, found["open_loop"], label="model")
    loop.plot(steps, found["no_change"], "--", color="0.5", label="if nothing moved")
    loop.set(xlabel="steps of logged actions", ylabel="RMSE / standard deviation", ylim=(0, None))
    loop.legend(frameon=False)
    intervals.plot([0, 1], [0, 1], color="0.7", lw=0.8)
    for name, shares in (found["coverage"] or {}).items():
        intervals.plot(found["levels"], shares, "o-", label=name)
    if found["coverage"]:
        intervals.legend(frameon=False)
    intervals.set(xlabel="level of the predicted interval", ylabel="share of the truth inside",
                  xlim=(0.4, 1.0), ylim=(0.0, 1.02))  # fmt: skip
    _draw_uncertainties(halves[1], found, model, log)
    figure.suptitle(f"{log.info.name}: {found['transitions']} transitions")
    save_figure(path, figure)


def _draw_uncertainties(figure: Any, found: dict[str, Any], model: Any, log: data.Dataset) -> None:
    """At most 2,000 transitions, on logarithmic axes."""
    picked = np.linspace(0, log.num_transitions - 1, min(2_000, log.num_transitions)).astype(int)
    rows = picked + np.asarray(log.episode_ids)[picked]
    observations, actions = np.asarray(log.observations), np.asarray(log.actions)[picked]
    predicted = calibration.predict(model.config, model.state, observations[rows], actions)
    rewards = np.asarray(log.rewards)[picked]
    targets = calibration.targets_of(model.config, rewards, observations[rows + 1])
    errors = np.linalg.norm((predicted.mean - targets)[:, 1:], axis=-1)
    axes = figure.subplots(1, len(found["uncertainties"]), sharey=True)
    for axis, (name, numbers) in zip(axes, found["uncertainties"].items(), strict=True):
        axis.loglog(predicted.uncertainties[name] + 1e-9, errors + 1e-9, ".", ms=2, alpha=0.4)
        axis.set(xlabel=name)
        axis.set_title(
            f"Spearman {numbers['spearman']:.2f}, AUROC {numbers['auroc']:.2f}", fontsize=9
        )
    axes[0].set_ylabel("error of the next observation")


if __name__ == "__main__":
    runner.launch(main)
