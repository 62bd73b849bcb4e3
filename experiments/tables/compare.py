"""A family of methods on the same logs, at equal budgets: one table, one profile.

    python experiments/tables/compare.py --datasets=mujoco/hopper/medium-v0 --seeds=3
    python experiments/tables/compare.py --datasets=a.npz,b.npz --methods=bc,iql,td3_bc \\
        --method="soft iql=iql --expectile=0.6" --flags="--num_updates=30000 --eval_episodes=20"

Each method is a run of its own experiment, with its own defaults; `--flags` go to all of them.
Runs that are finished are not repeated, and one that was interrupted goes on, so that the same
command may be given again (with more methods, too). A result belongs to its whole command and to
the path and content of its dataset: where one of them changes, the run is made anew, beside the
old one. `--out` then holds `table.csv`, with the command of every run, and `profile.png`: the share
of runs that score above a threshold, over all datasets and seeds. Scores are of the last policy;
the best evaluation stands beside it, apart. Where this command is ended, its runs end, too.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import itertools
import os
import pathlib
import queue
import re
import shlex
from typing import Any

import numpy as np
import summary
from absl import flags
from children import Children

from ddm import runner
from ddm.data import minari_finding
from ddm.errors import InputError
from ddm.evaluation import statistics
from ddm.runner import locks
from ddm.runner.files import save_figure
from ddm.runner.train import FAILED_LANES

_DATASETS = flags.DEFINE_list("datasets", [], "Minari ids, folders or files, with commas.")
_METHODS = flags.DEFINE_list("methods", [], "Names from the table of methods; empty: all.")
_METHOD = flags.DEFINE_multi_string(
    "method", [], 'One more method, as "name=experiment --flag=value ...".'
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of each run.", lower_bound=1)
_FLAGS = flags.DEFINE_string("flags", "", "Flags for every run, as on a command line.")
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "Runs side by side, each on its share of the cores.", lower_bound=1
)
_OUT = flags.DEFINE_string("out", "runs/compare", "Folder of the runs, the table and the profile.")

EXPERIMENTS = pathlib.Path(__file__).parents[1]

_CHILDREN = Children()
_PATIENCE = 120.0  # seconds that a run has to save and end

# Name -> experiment and flags; continuous actions.
METHODS: dict[str, str] = {
    "bc": "bc",
    "td3_bc": "td3_bc",
    "rebrac": "rebrac",
    "iql": "iql",
    "awr": "awr",
    "awac": "awac",
    "crr": "crr --weight=binary",
    "crr_exp": "crr --weight=exponential",
    "one_step": "one_step",
    "bcq": "bcq",
    "bear": "bear",
    "brac_p": "brac --novalue_penalty",
    "brac_v": "brac --value_penalty",
    "algae_dice": "algae_dice",
}


def main(_):
    """Runs what is missing, then reports everything."""
    if not _DATASETS.value:
        raise InputError("--datasets is missing: name at least one Minari id, folder or file")
    methods = chosen_methods(_METHODS.value, _METHOD.value)
    for dataset in _DATASETS.value:  # downloaded now: a result belongs to what is there
        if not pathlib.Path(dataset).expanduser().exists() and minari_finding.is_dataset_id(
            dataset
        ):
            minari_finding.find_dataset(dataset)
    out = pathlib.Path(_OUT.value)
    jobs = {
        (dataset, name): (command, out / folder_name(dataset, name, command))
        for dataset, (name, command) in itertools.product(_DATASETS.value, methods.items())
    }
    shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    for share in core_shares(_JOBS.value):
        shares.put(share)
    pool = concurrent.futures.ThreadPoolExecutor(
        _JOBS.value, initializer=lambda: keep_to(shares.get())
    )
    with _CHILDREN.ended_with_this_process(), pool:
        futures = {
            key: pool.submit(run, command, key[0], folder)
            for key, (command, folder) in jobs.items()
        }
        try:
            failed = [key for key, done in futures.items() if not report_end(key, done.result())]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _CHILDREN.end()
            raise
    rows = [
        {"method": name, **row, "dataset": dataset}
        for (dataset, name), (_, folder) in jobs.items()
        if (dataset, name) not in failed
        for row in summary.read_rows(folder)
    ]
    if rows:
        runner.write_csv(out / "table.csv", rows)
        print_table(rows)
        draw_profile(rows, out / "profile.png")
        for name in dict.fromkeys(row["method"] for row in rows):
            if name not in scores_by_method(rows):
                print(f"{name} is not in the profile: it lacks a dataset, or seeds that failed")
        print(f"{out / 'table.csv'}\n{out / 'profile.png'}")
    if failed:
        logs = ", ".join(str(jobs[key][1]) + ".log" for key in failed)
        raise InputError(f"{len(failed)} of {len(jobs)} runs failed; see {logs}")


def chosen_methods(names: list[str], more: list[str]) -> dict[str, str]:
    """Name -> experiment and flags.

    Raises:
      InputError: an unknown name, or a method that is not "name=experiment ...".
    """
    if unknown := [name for name in names if name not in METHODS]:
        raise InputError(
            f"--methods={unknown[0]} is unknown; choose among {', '.join(METHODS)}, or describe "
            "it with --method"
        )
    found = {name: METHODS[name] for name in names or METHODS}
    for text in more:
        name, equals, command = (part.strip() for part in text.partition("="))
        if not equals or not command or not name:
            raise InputError(f'--method="{text}" is not "name=experiment --flag=value ..."')
        found[name] = command
    for name, command in found.items():
        script = EXPERIMENTS / f"{shlex.split(command)[0]}.py"
        if not script.is_file():
            raise InputError(f"--method: {name} needs {script}, which does not exist")
    return found


def core_shares(jobs: int) -> list[set[int]]:
    """The cores of each run of several: disjoint where there are enough, all for a single one."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [set(cores[job::jobs]) or set(cores) for job in range(jobs)]


def keep_to(cores: set[int]) -> None:
    """Runs that the calling thread starts stay on these cores, where the system can say so.

    Small products leave the second thread of a run waiting for the first; two runs of one thread
    each get more done than one after the other.
    """
    if cores:
        os.sched_setaffinity(0, cores)


def arguments_of(command: str, dataset: str) -> list[str]:
    """Experiment and flags of a run: all that decides its result."""
    experiment, *own = shlex.split(command)
    common = shlex.split(_FLAGS.value)
    return [experiment, f"--dataset={dataset}", f"--seeds={_SEEDS.value}", *common, *own]


def folder_name(dataset: str, name: str, command: str) -> str:
    """A folder for the run: the dataset's and the method's name, and what tells them from others.

    "x/m.npz" and "x-m.npz" are one name, a file that was written anew has its old one, and so has
    a method with other flags; the digits at the end are of all these.
    """
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{dataset.strip('/')}-{name}").strip("-")
    # A path may be longer than a name; its end says more than its beginning.
    return f"{readable[-100:]}-{identity(dataset, [name, *arguments_of(command, '')])}"


def identity(dataset: str, words: list[str]) -> str:
    """Sixteen hexadecimal digits of a dataset and of the words of a command.

    Of a file, its path and its bytes count; of a folder, the names, sizes and times of its files;
    of anything else, which is an id, the text, and the folder where minari keeps it.
    """
    found = hashlib.sha256("\0".join(words).encode())
    path = pathlib.Path(dataset).expanduser()
    found.update((str(path.resolve()) if path.exists() else dataset).encode())
    if not path.exists():
        path = minari_finding.datasets_root() / dataset
    if path.is_file():
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    elif path.is_dir():
        for part in sorted(path.rglob("*")):
            facts = part.stat() if part.exists() else part.lstat()  # a link to nothing
            found.update(f"{part} {facts.st_size} {facts.st_mtime_ns}".encode())
    return found.hexdigest()[:16]


def run(command: str, dataset: str, folder: pathlib.Path) -> bool:
    """Trains, unless the result is there; its output goes to a log beside the folder."""
    experiment, *arguments = arguments_of(command, dataset)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with pathlib.Path(f"{folder}.log").open("a", encoding="utf-8") as log:
        try:  # for the run of a command that was killed, and that has not noticed yet
            locks.wait_until_free(folder, _PATIENCE)
        except InputError as error:
            print(f"error: {error}", file=log)
            return False
        if (folder / "summary.json").is_file():
            return True
        arguments += [f"--run_dir={folder}", "--progress=plain"]
        if (folder / "config.json").is_file():
            arguments.append("--resume")
        code = _CHILDREN.call([str(EXPERIMENTS / f"{experiment}.py"), *arguments], log)
    # Where some seeds diverged, the others have their result, and the table says so.
    return code in (0, FAILED_LANES)


def report_end(key: tuple[str, str], succeeded: bool) -> bool:
    """One line as runs end."""
    dataset, name = key
    print(f"{name} on {dataset}: {'done' if succeeded else 'FAILED'}", flush=True)
    return succeeded


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line a method, a column a dataset: last score with its interval, and the best."""
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    cells: dict[tuple[str, str], str] = {}
    for row in rows:
        text = f"{summary.score_text(row)} best {row['best']:.1f}"
        cells[row["method"], row["dataset"]] = text
    width = max(len(text) for text in (*cells.values(), *datasets)) + 2
    print(f"{'':14}" + "".join(f"{dataset:>{width}}" for dataset in datasets))
    for name in dict.fromkeys(row["method"] for row in rows):
        line = "".join(f"{cells.get((name, dataset), '-'):>{width}}" for dataset in datasets)
        print(f"{name:14}{line}")


def scores_by_method(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """(seeds, datasets) last scores of the methods that have a run on every dataset."""
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    columns: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        seeds = [float(score) for score in row["last_of_each_seed"].split()]
        columns.setdefault(row["method"], {})[row["dataset"]] = seeds
    return {
        name: np.array([own[dataset] for dataset in datasets]).T
        for name, own in columns.items()
        if len(own) == len(datasets) and len({len(seeds) for seeds in own.values()}) == 1
    }


def draw_profile(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Share of runs above each threshold, and the interquartile mean with its interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scores = scores_by_method(rows)
    every = np.concatenate([values.ravel() for values in scores.values()])
    margin = 0.02 * (every.max() - every.min()) + 1e-6
    thresholds = np.linspace(every.min() - margin, every.max() + margin, 201)
    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    profile, means = figure.subplots(1, 2)
    for i, (name, values) in enumerate(scores.items()):
        style = {"color": f"C{i % 10}", "ls": ["-", "--", ":"][i // 10 % 3]}
        profile.plot(
            thresholds, statistics.performance_profile(values, thresholds), label=name, **style
        )
        if len(values) > 1:  # one seed has no interval
            low, high = statistics.bootstrap_interval(values)
            means.plot([low, high], [i, i], color=style["color"], lw=6, alpha=0.35)
        means.plot(statistics.interquartile_mean(values), i, "o", color=style["color"])
    profile.set(xlabel="score", ylabel="share of runs above it")
    figure.legend(
        *profile.get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False
    )
    means.set_yticks(range(len(scores)), list(scores))
    means.invert_yaxis()
    means.set(xlabel="interquartile mean, 95 % interval")
    for axis in (profile, means):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    save_figure(path, figure)


if __name__ == "__main__":
    runner.launch(main)
