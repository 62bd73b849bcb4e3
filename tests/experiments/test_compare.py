"""The comparison command: what it refuses, what it reports, and one small comparison."""

from __future__ import annotations

import csv
import os
import pathlib
import sys
import types

import jax
import numpy as np
import pytest
import scripts

from ddm import data, envs
from ddm.envs import point_mass

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "tables" / "compare.py"


@pytest.fixture(scope="module")
def compare():
    """Imported as its script does: with its own folder on the path."""
    import importlib

    sys.path.insert(0, str(SCRIPT.parent))
    try:
        yield importlib.import_module("compare")
    finally:
        sys.path.remove(str(SCRIPT.parent))


def _run(*arguments):
    return scripts.run(SCRIPT, *arguments, cwd=SCRIPT.parent)


def test_every_method_has_its_experiment(compare):
    assert set(compare.chosen_methods([], [])) == set(compare.METHODS)


def test_one_more_method_is_described_on_the_command_line(compare):
    methods = compare.chosen_methods(["bc"], ["soft iql = iql --expectile=0.6"])
    assert methods == {"bc": "bc", "soft iql": "iql --expectile=0.6"}
    name = compare.folder_name("D4RL/door/human-v2", "soft iql")
    assert name.startswith("D4RL-door-human-v2-soft-iql-")


def test_datasets_are_told_apart_by_path_and_content(compare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [tmp_path / "x" / "m.npz", tmp_path / "x-m.npz"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"same")
    folders = {compare.folder_name(name, "bc") for name in ("x/m.npz", "x-m.npz")}
    assert len(folders) == 2
    assert compare.identity("x/m.npz", "bc") == compare.identity(str(paths[0]), "bc")
    before = compare.folder_name("x/m.npz", "bc"), compare.folder_name("x", "bc")
    paths[0].write_bytes(b"other")
    after = compare.folder_name("x/m.npz", "bc"), compare.folder_name("x", "bc")
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert compare.folder_name("a/b-c", "bc") != compare.folder_name("a-b/c", "bc")


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


def test_datasets_of_one_name_are_two_columns(compare, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.npz").write_bytes(b"")
    rows = {"x/m.npz": 1.0, "y/m.npz": 5.0}

    def read_rows(folder):
        dataset = next(name for name in rows if compare.folder_name(name, "bc") == folder.name)
        return [_row("bc", "arrays", [rows[dataset], rows[dataset]])]

    monkeypatch.setattr(compare.summary, "read_rows", read_rows)
    monkeypatch.setattr(compare, "run", lambda *job: True)
    for flag, value in (("datasets", list(rows)), ("methods", ["bc"]), ("out", str(tmp_path))):
        monkeypatch.setattr(compare, f"_{flag.upper()}", types.SimpleNamespace(value=value))
    for flag, value in (("METHOD", []), ("JOBS", 1), ("SEEDS", 2), ("FLAGS", "")):
        monkeypatch.setattr(compare, f"_{flag}", types.SimpleNamespace(value=value))
    compare.main([])
    header, line = capsys.readouterr().out.splitlines()[2:4]
    assert header.split() == ["x/m.npz", "y/m.npz"]
    assert " ".join(line.split()) == "bc 1.0 [1.0, 1.0] best 1.0 5.0 [5.0, 5.0] best 5.0"


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
