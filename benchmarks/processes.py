"""Puts faults into runs of several real processes, and counts how the runs end.

    python benchmarks/processes.py --csv=benchmarks/results/reliability.csv

Each fault is a run of two processes on this machine, one of which is started or behaves
differently. It ends well if every process ends with a sentence and an exit code that is not 0: none
trains on, hangs, crashes or ends with a traceback. The seconds are those from the end of the first
process to the end of the last one; of a fault with one process, those from its start.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from absl import app, flags
from reliability import Row, print_rows, write_rows

from ddm import data, runner
from ddm.errors import EvaluationError
from ddm.imitation import bc

_CSV = flags.DEFINE_string("csv", "", "Table whose rows of this script are replaced.")
_LIMIT = flags.DEFINE_float("seconds", 120.0, "A process that takes longer than that hangs.")
_ONLY = flags.DEFINE_string("only", "", "Put in only the faults whose names contain this.")

SCRIPT = Path(__file__).resolve()
_TINY = {
    "num_updates": 40, "log_every": 10, "eval_every": 20, "checkpoint_every": 20, "batch_size": 8,
    "seeds": 2, "hidden_sizes": (8,), "environment": "none", "plots": False,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Fault:
    """Flags of each of the two processes, beside those of a run that is sound."""

    kind: str  # "differ", "error", "killed" or "start"
    name: str
    zero: tuple[str, ...] = ()
    one: tuple[str, ...] | None = ()  # None: there is no process 1


def faults(folder: Path) -> list[Fault]:
    """What is put in."""
    taken = socket.create_server(("127.0.0.1", 0))  # stays open as long as the program runs
    _OPEN.append(taken)
    used = f"--coordinator_address=127.0.0.1:{taken.getsockname()[1]}"
    (folder / "taken").mkdir()
    (folder / "taken" / "config.json").write_text("{}")

    def both(kind, name, *given):
        return Fault(kind, name, given, given)

    def address(text):
        return f"--coordinator_address={text}"

    return [
        Fault("differ", "another learning rate", one=("--learning_rate=0.1",)),
        Fault("differ", "another log", one=(f"--dataset={folder / 'other.npz'}",)),
        Fault("differ", "another normalisation", one=("--normalize_observations=none",)),
        Fault("differ", "another log_every", one=("--log_every=5",)),
        Fault("differ", "another eval_every", one=("--eval_every=40",)),
        Fault("differ", "another checkpoint_every", one=("--checkpoint_every=10",)),
        Fault("differ", "another num_updates", one=("--num_updates=80",)),
        Fault("differ", "other seeds", one=("--seed=7",)),
        Fault("differ", "another sweep", one=("--sweep=learning_rate=0.1,0.2",)),
        Fault("differ", "another num_processes", one=("--num_processes=3",)),
        Fault("differ", "two processes 0", ("--connect_timeout=10",), ("--process_id=0",)),
        Fault("error", "folder of another run", (f"--run_dir={folder / 'taken'}",)),
        Fault("error", "file in place of the folder", (f"--run_dir={folder / 'log.npz'}",)),
        Fault("error", "log that is missing in process 0", ("--dataset=missing.npz",)),
        Fault("error", "log that is missing in process 1", (), ("--dataset=missing.npz",)),
        Fault("error", "disk full at step 20", ("--fault=disk",)),
        Fault("error", "bug in process 0", ("--fault=bug",)),
        Fault("error", "bug in process 1", (), ("--fault=bug",)),
        Fault("error", "evaluation failed in process 1", ("--fault=scored",), ("--fault=scores",)),
        both("error", "divergence", "--learning_rate=1e38"),
        Fault("killed", "process 1 killed in training", one=("--fault=kill",)),
        Fault("killed", "process 0 killed in training", ("--fault=kill",)),
        Fault("killed", "process 1 killed at loading", one=("--fault=kill_at_load",)),
        Fault("killed", "killed while the other computes", ("--fault=long",), ("--fault=kill",)),
        Fault("start", "port in use", (used,), None),
        Fault("start", "127.0.0.1:notaport", (address("127.0.0.1:notaport"),), None),
        Fault("start", "foo", (address("foo"),), None),
        Fault("start", "port 99999", (address("127.0.0.1:99999"),), None),
        Fault("start", "host that is unknown", (address("no-such-host.invalid:4567"),), None),
        Fault("start", "address of another machine", (address("192.0.2.1:4567"),), None),
        Fault("start", "nobody answers", ("--process_id=1", "--connect_timeout=10"), None),
        Fault("start", "process 1 does not start", ("--connect_timeout=10",), None),
    ]


_OPEN: list[socket.socket] = []


def make_logs(folder: Path) -> None:
    """Two small logs that differ."""
    for name, seed in (("log", 0), ("other", 1)):
        generator = np.random.default_rng(seed)
        log = data.from_arrays(
            observations=generator.normal(size=(200, 3)).astype(np.float32),
            actions=generator.uniform(-1, 1, (200, 2)).astype(np.float32),
            rewards=np.ones(200, np.float32),
            terminations=np.arange(200) % 20 == 19,
        )
        data.save_npz(log, folder / f"{name}.npz")


@dataclasses.dataclass
class End:
    """How one process ended."""

    seconds: float
    code: int | None  # None: it was still there at the time limit
    last: str  # line of what it said

    @property
    def wrong(self) -> str:
        """What is wrong with that end; empty: nothing."""
        if self.code is None:
            return "hangs"
        if self.code == 0:
            return "trains"
        if self.code < 0:
            return f"dies of signal {-self.code}"
        return "" if self.last.startswith("error: ") else "does not end with a sentence"


def put_in(fault: Fault, folder: Path, limit: float) -> list[End]:
    """Starts the processes of a run with a fault, and waits for their ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sound = [
        f"--dataset={folder / 'log.npz'}", f"--run_dir={folder / fault.name}",
        f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2",
    ]  # fmt: skip
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(SCRIPT.parents[1])}
    started, processes = time.monotonic(), []
    for index, given in enumerate((fault.zero, fault.one)):
        if given is not None:
            command = [sys.executable, str(SCRIPT), "worker", *sound, f"--process_id={index}"]
            said = (folder / f"said-{index}").open("w+")
            processes.append(
                (subprocess.Popen([*command, *given], stderr=said, env=environment), said)
            )
    ends: dict[int, float] = {}
    while len(ends) < len(processes) and time.monotonic() < started + limit:
        for index, (process, _) in enumerate(processes):
            if index not in ends and process.poll() is not None:
                ends[index] = time.monotonic() - started
        time.sleep(0.05)
    return [
        _end(process, said, ends.get(index, limit))
        for index, (process, said) in enumerate(processes)
    ]


def _end(process: subprocess.Popen, said: IO[str], seconds: float) -> End:
    code = process.poll()
    if code is None:
        process.kill()
        process.wait()
    said.seek(0)
    lines = [line.strip() for line in said.read().splitlines() if line.strip()]
    said.close()
    return End(seconds, code, lines[-1] if lines else "")


def _judged(fault: Fault, ends: list[End]) -> list[End]:
    """The ends that count: of a process that is killed, or has the bug, nothing is asked."""
    own = [*fault.zero, ""], [*(fault.one or ()), ""]
    excused = ("--fault=kill", "--fault=kill_at_load", "--fault=bug")
    return [
        end
        for end, given in zip(ends, own, strict=False)
        if not any(flag in excused for flag in given)
    ]


_KINDS = {
    "differ": "runs whose processes differ",
    "error": "runs with an error in one process",
    "killed": "runs with a killed process",
    "start": "addresses that cannot work",
}
# Faults that the first examination put in, all of which went wrong.
_EXAMINED = {
    "another learning rate", "another log", "another log_every", "folder of another run",
    "disk full at step 20", "process 1 killed in training", "port in use", "127.0.0.1:notaport",
    "foo", "nobody answers",
}  # fmt: skip
# The seconds of those that were timed then.
_TIMED = {
    "folder of another run": 309,
    "process 1 killed in training": 85,
    "nobody answers": 312,
}


def main(_) -> None:
    """Prints how each run ended, and the table."""
    wrong: dict[Fault, bool] = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_logs(folder)
        for fault in faults(folder):
            if _ONLY.value not in fault.name:
                continue
            ends = put_in(fault, folder, _LIMIT.value)
            judged = _judged(fault, ends)
            found = [end.wrong for end in judged if end.wrong]
            wrong[fault] = bool(found)
            times = [end.seconds for end in ends]
            waited = max(times) - min(times) if len(times) > 1 else times[0]
            print(f"{fault.name:<34} {waited:5.1f} s  {', '.join(found) or 'ok'}", flush=True)
            for end in judged:
                print(f"    {end.last[:150]}")
            if seconds := _TIMED.get(fault.name):
                rows.append(Row(f"{fault.name}: wait", 1, seconds, round(waited), "seconds"))
    rows.extend(_count(wrong))
    print_rows(rows)
    if _CSV.value:
        write_rows(_CSV.value, "processes", rows)


def _count(wrong: dict[Fault, bool]) -> list[Row]:
    """Of each kind, the faults of the first examination, and all faults."""
    rows = []
    for kind, what in _KINDS.items():
        every = [fault for fault in wrong if fault.kind == kind]
        first = [fault for fault in every if fault.name in _EXAMINED]
        unit = "runs that train on, hang or crash"
        if first:
            count = sum(wrong[fault] for fault in first)
            rows.append(Row(f"{what}, as examined", len(first), len(first), count, unit))
        if every:
            count = sum(wrong[fault] for fault in every)
            rows.append(Row(what, len(every), None, count, unit))
    return rows


def worker(_):
    """One process of a run, which does what --fault says."""
    options, config = runner.parse_flags(bc)
    fault = flags.FLAGS.fault
    if fault == "kill_at_load":
        os.kill(os.getpid(), signal.SIGKILL)
    with _behaving(fault):
        dataset = runner.load_dataset(options)
        environment = "scored" if fault.startswith("score") else None
        return runner.train(bc, config, dataset, environment, options)


@contextlib.contextmanager
def _behaving(fault: str) -> Iterator[None]:
    """Changes what a process does at step 20, or in its evaluation."""
    from unittest import mock

    from ddm import evaluation
    from ddm.runner.train import _Run

    advance = _Run.advance

    def changed(run):
        if run.step == 20:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "long":
                time.sleep(1_000.0)
            if fault == "disk":
                raise OSError(errno.ENOSPC, "No space left on device")
            if fault == "bug":
                raise TypeError("a bug of somebody's own algorithm")
        advance(run)

    with (
        mock.patch.object(_Run, "advance", changed),
        mock.patch.object(evaluation, "make_evaluator", return_value=_Evaluator(fault)),
    ):
        yield


class _Evaluator:
    """Fails in the process whose fault is "scores"."""

    def __init__(self, fault: str):
        self._fault = fault

    def check(self, policy):
        """Finds nothing."""

    def close(self):
        """Holds nothing."""

    def __call__(self, policy, seed):
        """No result that anybody uses."""
        if self._fault == "scores":
            raise EvaluationError("no display")


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        del sys.argv[1]
        # Of this process alone: a flag of the script would count as a difference of the runs.
        flags.DEFINE_string("fault", "", "What goes wrong.", module_name="fault")
        runner.define_flags(bc, **_TINY)
        runner.launch(worker)
    else:
        app.run(main)
