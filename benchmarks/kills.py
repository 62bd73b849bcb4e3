"""Kills runs, lets two write one folder, and damages what a run left; counts what goes wrong.

    python benchmarks/kills.py --kills=20 --writers=3 --files=396 \\
        --csv=benchmarks/results/reliability.csv

Runs are killed at random moments by SIGKILL or SIGTERM, resumed until they end, and compared bit
for bit with the run that nobody interrupted: arrays, metrics.csv and score. Damages of run files
are cuts, flipped and added bytes, emptied, deleted and exchanged files, and fields of JSON of other
types; each is followed by a resume, or by the readers of a finished run. One that ends in another
error than a sentence is a traceback; one that ends with another result than the undamaged files is
accepted although damaged.
"""

from __future__ import annotations

import json
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import reliability
from absl import app, flags, logging

from ddm import data, envs, runner
from ddm.envs import point_mass
from ddm.errors import DdmError
from ddm.policy_constraint import td3_bc
from ddm.runner import locks
from ddm.runner.checkpoints import Store
from ddm.runner.lanes import is_key
from ddm.runner.saved import read_record, read_summary

_KILLS = flags.DEFINE_integer("kills", 5, "Runs that are killed, each once or twice.")
_WRITERS = flags.DEFINE_integer("writers", 1, "Pairs of writers of one folder.")
_FILES = flags.DEFINE_integer("files", 50, "Damaged run files.")
_SEED = flags.DEFINE_integer("seed", 0, "Of moments and damages.")
_CSV = flags.DEFINE_string("csv", "", "Table to put the rows into.")
_VERBOSE = flags.DEFINE_boolean("verbose", False, "Print every damage that goes wrong.")

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = "ddm/PointMass-8-v0"
UPDATES, HALF = 60, 40
SMALL: dict[str, Any] = {
    "num_updates": UPDATES, "log_every": 4, "eval_every": 20, "checkpoint_every": 20,
    "batch_size": 16, "eval_episodes": 2, "seeds": 2, "progress": "none", "plots": False,
}  # fmt: skip


def make_dataset() -> data.Dataset:
    """Random transitions with the spaces of the environment."""
    environment = envs.make("PointMass-8-v0")
    policy = point_mass.behavior_policy("medium", environment.default_params)
    episodes = envs.collect(environment, policy, jax.random.key(0), num_episodes=4)
    space = environment.action_space(environment.default_params)
    return data.from_episodes(episodes, action_space=space, name="log")


# Kills, and two writers.


def command(path: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """A run of an experiment, which goes on where the folder holds one."""
    options = [
        f"--{name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in SMALL.items()
    ]
    script = str(ROOT / "experiments" / "td3_bc.py")
    more = ["--resume"] if (folder / "config.json").is_file() else []
    return [
        sys.executable, script, f"--dataset={path}", f"--environment={ENVIRONMENT}",
        "--hidden_sizes=16", f"--run_dir={folder}", *options, *more,
    ]  # fmt: skip


def result_of(folder: pathlib.Path) -> tuple[Any, ...]:
    """What must be equal bit for bit: arrays, rows and score."""
    store = Store(folder, run=read_record(folder).get("run"))
    arrays = store.header(UPDATES)["digest"]
    store.close()
    return arrays, (folder / "metrics.csv").read_bytes(), read_summary(folder)["score"]


def count_kills(path: pathlib.Path, work: pathlib.Path, draw: random.Random) -> reliability.Row:
    """Runs that are killed once or twice, and then end."""
    started = time.monotonic()
    subprocess.run(command(path, work / "whole"), check=True, capture_output=True)
    seconds, expected = time.monotonic() - started, result_of(work / "whole")
    kills = wrong = 0
    for i in range(_KILLS.value):
        folder = work / f"killed-{i}"
        for _ in range(draw.randint(1, 2)):
            kills += _killed(command(path, folder), draw.uniform(0.0, seconds), draw)
        last = subprocess.run(command(path, folder), capture_output=True, text=True)
        good = last.returncode == 0 and result_of(folder) == expected
        if not good:
            print(f"run {i} is another one: {last.stderr[-300:]}")
        wrong += not good
        shutil.rmtree(folder)
    what = f"runs killed {kills} times and resumed"
    return reliability.Row(what, _KILLS.value, 0, wrong, "not equal to the uninterrupted run")


def _killed(arguments: list[str], seconds: float, draw: random.Random) -> int:
    """Kills a process after some seconds; 0 where it ended before."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
        return 0
    except subprocess.TimeoutExpired:
        process.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM]))
        process.wait()
        return 1


def count_writers(path: pathlib.Path, work: pathlib.Path) -> reliability.Row:
    """A second process on the folder of a run that is under way."""
    expected, wrong = result_of(work / "whole"), 0
    for i in range(_WRITERS.value):
        folder = work / f"shared-{i}"
        first = subprocess.Popen(command(path, folder), stderr=subprocess.DEVNULL)
        while not (folder / "config.json").is_file() and first.poll() is None:
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)  # so that it lives as long as the second one
        second = subprocess.run(command(path, folder), capture_output=True, text=True)
        first.send_signal(signal.SIGCONT)
        good = "in use by another process" in second.stderr and second.stderr.count("\n") == 1
        wrong += not (good and first.wait() == 0 and result_of(folder) == expected)
        locks.wait_until_free(folder, 0.0)
    return reliability.Row("second writers of a folder", _WRITERS.value, None, wrong, "not refused")


# Damaged run files.


class Files:
    """A finished run and half of it, copies of which are damaged and read."""

    def __init__(self, work: pathlib.Path, dataset: data.Dataset):
        self._dataset, self._work = dataset, work
        self._environment = envs.make("PointMass-8-v0")
        self._train(work / "half-run", num_updates=HALF)
        self._train(work / "whole-run")
        self.actions: dict[str, tuple[str, Callable[[pathlib.Path], Any]]] = {
            "resume": ("half-run", self._resume),
            "load_policy": ("whole-run", self._load),
            "score_curve": ("whole-run", lambda folder: _plain(runner.score_curve(folder))),
            "summary": ("whole-run", read_summary),
        }
        self._expected: dict[str, Any] = {}
        for name, (source, act) in self.actions.items():
            copy = shutil.copytree(work / source, work / "copy")
            self._expected[name] = act(copy)
            shutil.rmtree(copy)

    def outcome(self, draw: random.Random) -> tuple[str, str]:
        """Damages one file and reads it: "refused", "equal", "accepted" or "traceback"."""
        name = draw.choice(list(self.actions))
        source, act = self.actions[name]
        copy = pathlib.Path(shutil.copytree(self._work / source, self._work / "copy"))
        told = f"{name}: {damage(copy, _target(copy, name, draw), draw)}"
        try:
            found = "equal" if act(copy) == self._expected[name] else "accepted"
        except DdmError as error:
            found = "refused" if "\n" not in str(error) else "traceback"
        except Exception as error:
            found, told = "traceback", f"{told}: {error!r}"
        finally:
            shutil.rmtree(copy)
        return found, told

    def _train(self, folder: pathlib.Path, **options: Any) -> runner.Result:
        return runner.train(
            td3_bc,
            td3_bc.Config(hidden_sizes=(16,)),
            self._dataset,
            self._environment,
            runner.Options(dataset="log", run_dir=str(folder), **{**SMALL, **options}),
        )

    def _resume(self, folder: pathlib.Path) -> Any:
        result = self._train(folder, resume=True)
        rows = (folder / "metrics.csv").read_text()
        kept = {name: result.summary[name] for name in ("score", "warnings", "gradient_steps")}
        return _plain(result.policy.state), rows, kept

    def _load(self, folder: pathlib.Path) -> Any:
        policy = runner.load_policy(folder, td3_bc, lane=None)
        return _plain((policy.state, policy.config, policy.normalization))


def _plain(tree: Any) -> list[Any]:
    leaves = jax.tree.leaves(tree)
    raw = (jax.random.key_data(x) if is_key(x) else x for x in leaves)
    return [np.asarray(x).tolist() for x in raw]


def _target(folder: pathlib.Path, action: str, draw: random.Random) -> pathlib.Path:
    """A file that the action reads."""
    checkpoint = draw.choice([p for p in (folder / "checkpoints").rglob("*") if p.is_file()])
    read = {
        "resume": ["config.json", "metrics.csv", checkpoint],
        "load_policy": ["config.json", checkpoint],
        "score_curve": ["metrics.csv", "summary.json"],
        "summary": ["summary.json"],
    }[action]
    return folder / draw.choice(read)


OTHER_VALUES = (None, -1, 10**30, 0.5, "x", "", [], [1], {}, {"x": 1}, True, "\u0000", [[[]]])


def damage(folder: pathlib.Path, path: pathlib.Path, draw: random.Random) -> str:
    """Damages a file, and says how."""
    content = path.read_bytes()
    place = draw.randrange(max(len(content), 1))
    kinds = ["cut", "emptied", "deleted", "flipped", "doubled", "zeroed", "folder"]
    kinds += ["field"] * 4 if path.suffix == ".json" else []
    kinds += ["renamed"] if "checkpoints" in path.parts else []
    kind = draw.choice(kinds)
    if kind == "field":
        record = json.loads(content)
        within = draw.choice([record, *(x for x in record.values() if isinstance(x, dict) and x)])
        name = draw.choice(list(within))
        if draw.random() < 0.3:
            del within[name]
        else:
            within[name] = draw.choice(OTHER_VALUES)
        path.write_text(json.dumps(record))
        return f"{path.name}: field {name}"
    if kind == "renamed":
        steps = sorted((folder / "checkpoints").iterdir(), key=lambda p: int(p.name))
        shutil.rmtree(steps[-1])
        steps[0].rename(steps[-1])
    elif kind in ("deleted", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    else:
        flipped = bytes([content[place] ^ (1 << draw.randrange(8))]) if content else b"x"
        path.write_bytes(
            {
                "cut": content[:place],
                "emptied": b"",
                "flipped": content[:place] + flipped + content[place + 1 :],
                "doubled": content + content[place:],
                "zeroed": content[:place] + bytes(len(content) - place),
            }[kind]
        )
    return f"{path.relative_to(folder)}: {kind} at {place}"


def count_files(work: pathlib.Path, draw: random.Random) -> list[reliability.Row]:
    """Damaged run files: tracebacks, and results that are other ones."""
    files, found = Files(work, make_dataset()), Counter()
    for _ in range(_FILES.value):
        outcome, told = files.outcome(draw)
        found[outcome] += 1
        if _VERBOSE.value and outcome in ("traceback", "accepted"):
            print(f"{outcome}: {told}")
    print(f"damaged run files: {dict(found)}")
    # The inputs were others of the same kinds; its counts are of 396.
    scale = _FILES.value == 396
    return [
        reliability.Row(
            "damaged run files", _FILES.value, 49 if scale else None, found["traceback"],
            "tracebacks",
        ),
        reliability.Row(
            "damaged run files", _FILES.value, 31 if scale else None, found["accepted"],
            "accepted although damaged",
        ),
    ]  # fmt: skip


def main(_):
    """Runs all parts."""
    logging.set_verbosity(logging.WARNING)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        draw = random.Random(_SEED.value)
        path = work / "log.npz"
        data.save_npz(make_dataset(), path)
        if _KILLS.value:
            rows.append(count_kills(path, work, draw))
            if _WRITERS.value:
                rows.append(count_writers(path, work))
        if _FILES.value:
            rows += count_files(work, draw)
    reliability.print_rows(rows)
    if _CSV.value:
        reliability.write_rows(_CSV.value, "kills", rows)


if __name__ == "__main__":
    app.run(main)
