"""The comparison command: what it refuses, what it reports, and one small comparison."""

from __future__ import annotations

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import jax
import numpy as np
import pytest
import scripts

from ddm import data, envs
from ddm.envs import point_mass
from ddm.runner import locks

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "tables" / "compare.py"


@pytest.fixture(scope="module")
def compare():
    """The command's module."""
    with scripts.imported(SCRIPT) as module:
        yield module


def _run(*arguments):
    return scripts.run(SCRIPT, *arguments, cwd=SCRIPT.parent)


def test_every_method_has_its_experiment(compare):
    assert set(compare.chosen_methods([], [])) == set(compare.METHODS)


def test_one_more_method_is_described_on_the_command_line(compare):
    methods = compare.chosen_methods(["bc"], ["soft iql = iql --expectile=0.6"])
    assert methods == {"bc": "bc", "soft iql": "iql --expectile=0.6"}


@pytest.fixture
def flags(compare, monkeypatch):
    """Sets flags of the command."""

    def flags(**values):
        for name, value in {"SEEDS": 2, "FLAGS": "", **values}.items():
            monkeypatch.setattr(compare, f"_{name}", types.SimpleNamespace(value=value))

    flags()
    return flags


def test_a_result_belongs_to_its_whole_command(compare, flags):
    def name(dataset="D4RL/door/human-v2", method="soft iql", command="iql --expectile=0.6"):
        return compare.folder_name(dataset, method, command)

    first = name()
    assert first.startswith("D4RL-door-human-v2-soft-iql-")
    assert first == name()
    flags(SEEDS=3)
    more_seeds = name()
    flags(FLAGS="--num_updates=30000")
    other_flags = name()
    flags()
    others = {more_seeds, other_flags, name(command="iql --expectile=0.7"), name(command="bc")}
    assert len(others | {name(method="other"), name(dataset="D4RL/door/human-v3"), first}) == 7
    assert len(name(dataset="x/" * 200)) < 160


def test_datasets_are_told_apart_by_path_and_content(compare, flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def folder_name(dataset):
        return compare.folder_name(dataset, "bc", "bc")

    paths = [tmp_path / "x" / "m.npz", tmp_path / "x-m.npz"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"same")
    folders = {folder_name(name) for name in ("x/m.npz", "x-m.npz")}
    assert len(folders) == 2
    assert compare.identity("x/m.npz", ["bc"]) == compare.identity(str(paths[0]), ["bc"])
    before = folder_name("x/m.npz"), folder_name("x"), folder_name("a/b-v0")
    paths[0].write_bytes(b"other")
    (tmp_path / "minari" / "a" / "b-v0").mkdir(parents=True)
    (tmp_path / "minari" / "a" / "b-v0" / "main_data.hdf5").write_bytes(b"new")
    after = folder_name("x/m.npz"), folder_name("x"), folder_name("a/b-v0")
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert folder_name("a/b-c") != folder_name("a-b/c")


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (["nothing"], [], "--methods=nothing is unknown"),
        ([], ["iql --expectile=0.6"], "does not exist|is not"),
        (["bc"], ["mine="], "is not"),
        (["bc"], ["mine=nothing --alpha=1"], "nothing.py, which does not exist"),
    ],
)
def test_methods_that_there_are_not_are_refused(compare, names, more, message):
    with pytest.raises(compare.InputError, match=message):
        compare.chosen_methods(names, more)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no threads")
def test_runs_side_by_side_share_the_cores(compare):
    cores = os.sched_getaffinity(0)
    assert compare.core_shares(1) == [cores]
    shares = compare.core_shares(len(cores))
    assert [len(share) for share in shares] == [1] * len(cores)
    assert set.union(*shares) == cores
    assert compare.core_shares(len(cores) + 1)[-1] == cores  # more runs than cores


def test_one_seed_has_no_interval(compare, tmp_path, capsys):
    row = _row("bc", "a", [2.0]) | {"low": None, "high": None}
    compare.print_table([row])
    assert "2.0 best 2.0" in capsys.readouterr().out
    compare.draw_profile([row], tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_without_datasets_it_says_so():
    done = _run()
    assert done.returncode != 0
    assert "--datasets is missing" in done.stderr
    assert "Traceback" not in done.stderr


def _row(method, dataset, scores):
    return {
        "method": method, "dataset": dataset, "last": np.mean(scores), "low": min(scores),
        "high": max(scores), "best": max(scores),
        "last_of_each_seed": " ".join(map(str, scores)),
    }  # fmt: skip


def test_the_profile_holds_methods_that_ran_everywhere(compare, tmp_path, capsys):
    rows = [
        _row("bc", "a", [1.0, 3.0]),
        _row("bc", "b", [5.0, 7.0]),
        _row("iql", "a", [2.0, 4.0]),
    ]
    scores = compare.scores_by_method(rows)
    assert list(scores) == ["bc"]
    np.testing.assert_array_equal(scores["bc"], [[1.0, 5.0], [3.0, 7.0]])
    compare.draw_profile(rows, tmp_path / "profile.png")
    assert (tmp_path / "profile.png").read_bytes().startswith(b"\x89PNG")
    compare.print_table(rows)
    lines = capsys.readouterr().out.splitlines()
    assert "2.0 [1.0, 3.0] best 3.0" in lines[1]
    assert "6.0 [5.0, 7.0] best 7.0" in lines[1]
    assert lines[2].split()[-1] == "-"


def test_datasets_of_one_name_are_two_columns(compare, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.npz").write_bytes(b"")
    rows = {"x/m.npz": 1.0, "y/m.npz": 5.0}

    def read_rows(folder):
        dataset = next(
            name for name in rows if compare.folder_name(name, "bc", "bc") == folder.name
        )
        return [_row("bc", "arrays", [rows[dataset], rows[dataset]])]

    monkeypatch.setattr(compare.summary, "read_rows", read_rows)
    monkeypatch.setattr(compare, "run", lambda *job: True)
    for flag, value in (("datasets", list(rows)), ("methods", ["bc"]), ("out", str(tmp_path))):
        monkeypatch.setattr(compare, f"_{flag.upper()}", types.SimpleNamespace(value=value))
    flags(METHOD=[], JOBS=1)
    compare.main([])
    header, line = capsys.readouterr().out.splitlines()[2:4]
    assert header.split() == ["x/m.npz", "y/m.npz"]
    assert " ".join(line.split()) == "bc 1.0 [1.0, 1.0] best 1.0 5.0 [5.0, 5.0] best 5.0"


# Stands for a run: it holds its folder until it is told to end.
CHILD = """
import pathlib, signal, sys, time
from ddm.runner import locks
folder = pathlib.Path(sys.argv[1])
folder.mkdir()
with locks.FolderLock() as lock:
    lock.acquire(folder)
    signal.signal(signal.SIGTERM, lambda *_: (folder / "saved").touch() or sys.exit(143))
    (folder / "begun").touch()
    time.sleep(60)
"""
PARENT = """
import sys
from children import Children
children = Children()
with children.ended_with_this_process():
    try:
        children.call(sys.argv[1:], None)
    except BaseException:
        children.end()
        raise
"""


def _wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    pytest.fail(f"{path} was not made within a minute")


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process of its parent's end"
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_runs_end_with_the_command_however_it_ends(tmp_path, number):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(script), str(tmp_path / "run")], cwd=SCRIPT.parent
    )
    _wait_for(tmp_path / "run" / "begun")
    parent.send_signal(number)
    assert parent.wait() == (128 + number if number == signal.SIGTERM else -number)
    locks.wait_until_free(tmp_path / "run", 30.0)
    assert (tmp_path / "run" / "saved").exists()


def test_a_folder_that_is_still_written_is_a_failure_with_a_sentence(
    compare, flags, tmp_path, monkeypatch
):
    monkeypatch.setattr(compare, "_PATIENCE", 0.0)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "summary.json").touch()
    with locks.FolderLock() as lock:
        lock.acquire(folder)
        assert compare.run("bc", "a.npz", folder) is False
    assert "is in use by another process" in (tmp_path / "run.log").read_text()
    assert compare.run("bc", "a.npz", folder) is True


@pytest.mark.slow
def test_two_methods_on_a_log(tmp_path):
    environment = envs.make("PointMass-8-v0")
    policy = point_mass.behavior_policy("expert", environment.default_params)
    episodes = envs.collect(environment, policy, jax.random.key(0), num_episodes=4)
    dataset = data.from_episodes(
        episodes, action_space=environment.action_space(environment.default_params), name="log"
    )
    path = tmp_path / "log.npz"
    data.save_npz(dataset, path)
    small = "--num_updates=10 --hidden_sizes=8 --eval_episodes=2 --environment=ddm/PointMass-8-v0"
    arguments = (
        f"--datasets={path}", "--methods=bc", "--method=fast=bc --learning_rate=0.01",
        f"--flags={small}", "--seeds=2", f"--out={tmp_path / 'out'}",
    )  # fmt: skip
    done = _run(*arguments)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["bc", "fast"]
    assert "--learning_rate=0.01" in rows[1]["command"]
    logs = sorted((tmp_path / "out").glob("*.log"))
    sizes = [log.stat().st_size for log in logs]
    assert _run(*arguments).returncode == 0
    assert [log.stat().st_size for log in logs] == sizes  # finished runs are not repeated

    failing = _run(*arguments, "--method=broken=bc --head=nothing")
    assert failing.returncode != 0
    assert "1 of 3 runs failed" in failing.stderr
    assert "log.npz-broken-" in failing.stderr
