"""One table from the folders of finished runs, on the screen and as CSV.

    python experiments/tables/summary.py --runs=runs/bc-hopper,runs/iql-hopper --csv=table.csv

The score is the last evaluation's, with a bootstrap interval over seeds; the best one of each run
stands beside it, apart, and the mean over the evaluations of its second half. Seeds that diverged
count in no mean; a sweep point of which nothing is left has no row. Each row holds the
command, with the flags that are not defaults, and the versions that the run was made with, so
that it can be repeated.
"""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

from absl import flags

from ddm import runner
from ddm.errors import InputError
from ddm.runner.saved import read_summary

_RUNS = flags.DEFINE_list("runs", [], "Folders of finished runs, with commas between them.")
_CSV = flags.DEFINE_string("csv", "", "File for the table, beside the screen.")

FAMILIES = (
    "imitation",
    "off_policy",
    "on_policy",
    "policy_constraint",
    "lower_bound",
    "model_based",
)
LONGEST_LIST = 32
NOT_PART_OF_THE_RESULT = ("run_dir", "resume", "progress", "plots", "tensorboard", "lanes")


def main(_):
    """Reads every folder, prints, writes."""
    if not _RUNS.value:
        raise InputError("--runs is missing: name at least one folder of a finished run")
    rows = [row for folder in _RUNS.value for row in read_rows(pathlib.Path(folder))]
    print(f"{'dataset':34}{'algorithm':12}{'seeds':>6}{'updates':>9}{'last score':>22}{'best':>8}")
    for row in rows:
        score = score_text(row)
        name, size = row["algorithm"], f"{row['seeds']:6}{row['updates']:9}"
        print(f"{row['dataset']:34}{name:12}{size}{score:>22}{row['best']:8.1f}")
    if _CSV.value:
        runner.write_csv(_CSV.value, rows)


def read_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    """One row for each point of the run's sweep."""
    path = folder / "summary.json"
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected the folder of a finished run")
    summary = read_summary(folder)
    if not summary.get("score"):
        raise InputError(f"{path} holds no score: the run had no environment, or no lane is left")
    try:
        return _rows_of(summary)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not the summary of a run of this version: {error!r}") from None


def _rows_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    lanes = summary["score"]["lanes"]
    rows = []
    for point in summary["score"]["points"]:
        swept = {name: value for name, value in point.items() if not _is_statistic(name)}
        of_point = [lane for lane in lanes if swept.items() <= lane.items()]
        own = [lane for lane in of_point if not lane.get("failed")]
        low, high = point["mean_interval"] or (None, None)  # one seed has no interval
        rows.append(
            {
                "dataset": summary["dataset"]["name"],
                "algorithm": summary["algorithm"],
                **swept,
                "seeds": len(own),
                "failed": len(of_point) - len(own),
                "success_rate": point.get("success_rate"),
                "updates": summary["gradient_steps"],
                "episodes": summary["options"]["eval_episodes"],
                "metric": summary["score"]["metric"],
                "last": round(point["mean"], 2),
                "low": None if low is None else round(low, 2),
                "high": None if high is None else round(high, 2),
                "best": _mean_of(own, "best"),
                "second_half": _mean_of(own, "second_half"),
                "last_of_each_seed": " ".join(f"{lane['last']:.1f}" for lane in own),
                "environment": summary["environment"],
                "command": " ".join(command_of(summary)),
                "versions": " ".join(f"{k}={v}" for k, v in summary["versions"].items()),
                "device": summary["device"],
            }
        )
    return rows


def score_text(row: dict[str, Any]) -> str:
    """The last score, with its interval where there are several seeds, and how many failed."""
    text = f"{row['last']:.1f}"
    if row["low"] is not None:
        text += f" [{row['low']:.1f}, {row['high']:.1f}]"
    return f"{text} ({row['failed']} failed)" if row.get("failed") else text


def command_of(summary: dict[str, Any]) -> list[str]:
    """The command of a run: flags that are not the defaults of `Options` and of its `Config`.

    Long lists of numbers are left out: what an experiment fitted to its data, it fits again.
    """
    options = {
        name: value
        for name, value in summary["options"].items()
        if name not in NOT_PART_OF_THE_RESULT
    }
    found = ["python", f"experiments/{summary['algorithm']}.py"]
    for values, defaults in (
        (options, runner.Options()),
        (summary["config"], find_algorithm(summary["algorithm"]).Config()),
    ):
        for name, value in values.items():
            default = getattr(defaults, name, None)
            if isinstance(value, list) and len(value) > LONGEST_LIST:
                continue
            if value != (list(default) if isinstance(default, tuple) else default):
                text = ",".join(map(str, value)) if isinstance(value, list) else value
                found.append(f"--{name}={text}")
    return found + [f"--{name}={value}" for name, value in summary.get("script_flags", {}).items()]


def find_algorithm(name: str) -> Any:
    """The algorithm module of this name, in whichever family."""
    for family in FAMILIES:
        try:
            return importlib.import_module(f"ddm.{family}.{name}")
        except ModuleNotFoundError:
            continue
    raise InputError(f"there is no algorithm {name}")


def _mean_of(lanes: list[dict[str, Any]], name: str) -> float | None:
    if any(name not in lane for lane in lanes):  # the summary of an older run
        return None
    return round(sum(lane[name] for lane in lanes) / len(lanes), 2)


def _is_statistic(name: str) -> bool:
    return name in ("seeds", "failed", "success_rate") or name.split("_")[0] in ("mean", "iqm")


if __name__ == "__main__":
    runner.launch(main)
