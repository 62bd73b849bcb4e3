"""The table of the MOPO paper, on logs like D4RL's: what pessimism is worth on which data.

    python experiments/tables/model_based.py --out=runs/model_based
    python experiments/tables/model_based.py --datasets=zoo/hopper/random-v0 --methods=mopo,mbpo \\
        --updates=15000 --rollouts=10000 --epochs=20

Twelve logs (random, medium, medium-replay and medium-expert of HalfCheetah, Hopper and Walker2d),
each method with the same number of gradient steps of its policy. The methods with a model share one
of each log and seed, which `dynamics.py` trains first. Penalties and horizons are those of the
papers for these logs, see `flags_of`.

The logs are made again by other policies, so the published numbers (`PUBLISHED`) are of other data:
they stand in columns of their own, to compare the order of the methods and not their scores.

Every run is one seed, and all runs of a seed come before those of the next. The tables are written
after each run, of what is finished: `model_based.csv`, one row a log, and `model_based_runs.csv`,
one row a run with its command. A run that is finished is not repeated, one that was interrupted
goes on: the same command completes the table.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import summary
from absl import flags
from compare import folder_name, run

from ddm import runner
from ddm.errors import InputError

_UPDATES = flags.DEFINE_integer("updates", 30_000, "Of each policy.", lower_bound=1)
_ROLLOUTS = flags.DEFINE_integer("rollouts", 50_000, "Imagined episodes a round.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 100, "Of the model at most.", lower_bound=1)
# Those of the comparison, which runs each command.
flags.FLAGS.set_default("out", "runs/model_based")
flags.FLAGS.set_default("methods", "bc,mopo,mbpo,sac,bear,brac_v,morel,combo,mobile,td3_bc")

TASKS = ("halfcheetah", "hopper", "walker2d")
KINDS = ("random", "medium", "medium-replay", "medium-expert")
LOGS = tuple(f"zoo/{task}/{kind}-v0" for kind in KINDS for task in TASKS)
METHODS = {
    "bc": "bc",
    "mopo": "mopo",
    "mopo_disagreement": "mopo --uncertainty=max_disagreement",
    "mbpo": "mbpo",
    "sac": "sac",
    "bear": "bear",
    "brac_v": "brac --value_penalty",
    "morel": "morel",
    "combo": "combo",
    "mobile": "mobile",
    "td3_bc": "td3_bc",
}
WITH_MODEL = ("mopo", "mopo_disagreement", "mbpo", "morel", "combo", "mobile")

# In the order of LOGS. MOPO's appendix: steps of an imagined episode, and lambda.
HORIZONS = (5, 5, 1, 1, 5, 5, 5, 5, 1, 5, 5, 1)
PENALTIES = (0.5, 1.0, 1.0, 1.0, 5.0, 5.0, 1.0, 1.0, 1.0, 5.0, 1.0, 2.0)
# MOBILE's c; on random data, which has none in what we read, that of the medium data.
SPREADS = (0.5, 1.5, 0.5, 0.5, 1.5, 0.5, 0.1, 0.1, 0.5, 2.0, 1.5, 1.5)

# Normalised scores on D4RL's logs, in the order of LOGS. Version 0: the table of MOPO's first
# preprint. Version 2: TD3+BC's paper, MOReL's paper, and OfflineRL-Kit for COMBO and MOBILE.
_NONE = (None, None, None)
PUBLISHED: dict[str, tuple[float | None, ...]] = {
    "bc_v0": (2.1, 1.6, 9.8, 36.1, 29.0, 6.6, 38.4, 11.8, 11.3, 35.8, 111.9, 6.4),
    "mopo_v0": (31.9, 13.3, 13.0, 40.2, 26.5, 14.0, 54.0, 92.5, 42.7, 57.9, 51.7, 55.0),
    "mbpo_v0": (30.7, 4.5, 8.6, 28.3, 4.9, 12.7, 47.3, 49.8, 22.2, 9.7, 56.0, 7.6),
    "sac_v0": (30.5, 11.3, 4.1, -4.3, 0.8, 0.9, -2.4, 1.9, 3.5, 1.8, 1.6, -0.1),
    "bear_v0": (25.5, 9.5, 6.7, 38.6, 47.6, 33.2, 36.2, 10.8, 25.3, 51.7, 4.0, 26.0),
    "brac_v_v0": (28.1, 12.0, 0.5, 45.5, 32.3, 81.3, 45.9, 0.9, 0.8, 45.3, 0.8, 66.6),
    "morel_v0": (*_NONE, 42.1, 95.4, 77.8, 40.2, 93.6, 49.8, 53.3, 108.7, 95.6),
    "combo_v2": (*_NONE, 71.9, 84.7, 83.9, 66.5, 90.1, 89.4, 98.2, 108.8, 110.0),
    "mobile_v2": (*_NONE, 75.8, 103.6, 88.3, 71.9, 105.1, 90.5, 100.9, 112.5, 114.5),
    "td3_bc_v2": (11.0, 8.5, 1.6, 48.3, 59.3, 83.7, 44.6, 60.9, 81.8, 90.7, 98.0, 110.1),
}


def main(_):
    """Runs what is missing, and reports after each run."""
    values = flags.FLAGS
    out = pathlib.Path(values.out)
    found, failed = [], []
    for log, method, seed, command in jobs(values.datasets, values.methods, values.seeds, out):
        folder = folder_name(log, f"{method}-{seed}", command)
        succeeded = run(command, log, out / folder)
        print(f"{method} on {log}, seed {seed}: {'done' if succeeded else 'FAILED'}", flush=True)
        if not succeeded:
            failed.append(folder)
        elif method != "dynamics":
            [row] = summary.read_rows(out / folder)
            found.append({"log": log, "method": method, "seed": seed, **row})
            runner.write_csv(out / "model_based_runs.csv", found)
            runner.write_csv(out / "model_based.csv", table_of(found))
    print_table(table_of(found))
    if failed:
        raise InputError(f"{len(failed)} runs failed; see {out}: {', '.join(failed)}")


# The runs.


def jobs(
    logs: list[str], methods: list[str], seeds: int, out: pathlib.Path
) -> Iterator[tuple[str, str, int, str]]:
    """Log, method, seed and command (experiment and flags) of every run; models come first.

    Raises:
      InputError: a log or a method that the table does not have.
    """
    for name, known in [(log, LOGS) for log in logs] + [(method, METHODS) for method in methods]:
        if name not in known:
            raise InputError(f"{name} is not in the table; expected one of {', '.join(known)}")
    for seed, log in itertools.product(range(seeds), logs or LOGS):
        own = f"--seeds=1 --seed={seed}"
        model = f"dynamics --max_epochs={_EPOCHS.value} {own}"
        if set(methods) & set(WITH_MODEL):
            yield log, "dynamics", seed, model
        for method in methods:
            command = f"{METHODS[method]} --num_updates={_UPDATES.value} {own}"
            if method in WITH_MODEL:
                folder = out / folder_name(log, f"dynamics-{seed}", model)
                command += f" --start_from={folder} {flags_of(method, log)}"
            yield log, method, seed, command


def flags_of(method: str, log: str) -> str:
    """What the papers set for this log, as flags; `METHODS` has what they set for all.

    MBPO is MOPO without the penalty. MOReL keeps one setting for all logs.
    """
    at = LOGS.index(log)
    horizon = HORIZONS[at]
    own = ""
    if method.startswith("mopo"):
        own = f" --penalty={PENALTIES[at]}"
    elif method == "mobile":
        own = f" --penalty={SPREADS[at]}"
    elif method == "combo":
        horizon = 1 if "walker2d" in log else 5
        light = "medium-replay" in log or ("halfcheetah" in log and "expert" not in log)
        own = f" --alpha={0.5 if light else 5.0}"
    return f"--num_rollouts={_ROLLOUTS.value} --rollout_length={horizon}{own}"


# The tables.


def table_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a log with a run: each method's mean over its seeds and their number, the published.

    Columns of methods that have no run yet are empty.
    """
    table = []
    for at, log in enumerate(LOGS):
        own = [row for row in rows if row["log"] == log]
        if not own:
            continue
        _, task, kind = log.split("/")
        line: dict[str, Any] = {"data": kind.removesuffix("-v0"), "task": task}
        for method in METHODS:
            scores = [row["last"] for row in own if row["method"] == method]
            line[method] = round(float(np.mean(scores)), 1) if scores else None
            line[f"{method}_seeds"] = len(scores)
        published = {f"d4rl_{name}": scores[at] for name, scores in PUBLISHED.items()}
        table.append(line | published)
    return table


def print_table(table: list[dict[str, Any]]) -> None:
    """Our means; in brackets the published score of the same method on D4RL's log."""
    of_method = {name.rpartition("_")[0]: name for name in PUBLISHED}
    for line in table:
        cells = []
        for method in METHODS:
            if line[method] is not None:
                other = line.get(f"d4rl_{of_method.get(method)}")
                cells.append(f"{method} {line[method]:.1f} ({'-' if other is None else other})")
        print(f"{line['data']:14}{line['task']:12}" + "  ".join(cells))


if __name__ == "__main__":
    runner.launch(main)
