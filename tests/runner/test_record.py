"""What a run leaves is true: its length, its single writer, its rows, its identity."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import linear_regression
import numpy as np
import pytest
import tiny

from ddm.envs.base import EnvParams
from ddm.errors import DivergenceError, InputError
from ddm.runner import load_policy, locks, resume, score_curve, train
from ddm.runner.files import check_fields, read_json, sealed, write_json
from ddm.runner.report import Clock


@pytest.fixture(scope="module")
def half(run, tmp_path_factory):
    """Eight gradient steps, with evaluations and checkpoints at 4 and 8."""
    folder = tmp_path_factory.mktemp("half")
    run(folder, environment=tiny.Target(), num_updates=8)
    return folder


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return run(folder, environment=tiny.Target())


@pytest.fixture
def copy(half, tmp_path):
    return Path(shutil.copytree(half, tmp_path / "run"))


def go_on(run, folder, **options):
    return run(folder, environment=tiny.Target(), resume=True, **options)


def change(path, edit):
    """Edits a record as its writer would have written it."""
    record = json.loads(path.read_text())
    edit(record)
    write_json(path, sealed(record))


def steps_of(folder, metric):
    with (folder / "metrics.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["metric"] == metric]


# The length of a run.


def test_a_run_made_longer_ends_where_it_was_asked_to(run, tmp_path):
    whole = run(tmp_path / "whole", environment=tiny.Target(), num_updates=15, log_every=5)
    options = {"log_every": 5, "eval_every": 5, "checkpoint_every": 5}
    run(tmp_path / "parts", environment=tiny.Target(), **options | {"num_updates": 7})
    parts = go_on(run, tmp_path / "parts", num_updates=15, **options)
    assert parts.summary["gradient_steps"] == 15
    assert parts.policy.state.step.tolist() == [15]
    assert steps_of(tmp_path / "parts", "loss") == [5, 7, 10, 15]
    assert steps_of(tmp_path / "parts", "evaluation/return") == [0, 5, 7, 10, 15]
    assert parts.summary["score"]["last_step"] == 15
    assert parts.summary["score"]["lanes"][0]["last"] == whole.summary["score"]["lanes"][0]["last"]
    np.testing.assert_array_equal(parts.policy.state.weights, whole.policy.state.weights)
    assert load_policy(tmp_path / "parts", linear_regression, step=15).state.step == 15


def test_another_log_every_does_not_move_the_end(run, copy, whole):
    result = go_on(run, copy, log_every=5, eval_every=0, checkpoint_every=0)
    assert steps_of(copy, "loss") == [4, 8, 10, 12]
    np.testing.assert_array_equal(result.policy.state.weights, whole.policy.state.weights)


def test_a_checkpoint_beyond_the_end_is_refused(run, copy):
    go_on(run, copy, num_updates=10)
    change(copy / "config.json", lambda record: record["options"].update(num_updates=8))
    with pytest.raises(InputError, match=r"up to gradient step 10, beyond num_updates=8: go on"):
        go_on(run, copy, num_updates=8)


# One writer.


def test_a_second_writer_is_refused_in_one_sentence(run, copy, tmp_path):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with locks.FolderLock() as lock:
        assert lock.acquire(copy) == []
        with pytest.raises(InputError, match=rf"in use by another process \(process {os.getpid()}"):
            go_on(run, copy)
        del before[copy / "lock"]
        assert all(path.read_bytes() == content for path, content in before.items())
    new = tmp_path / "new"
    new.mkdir()
    with locks.FolderLock() as lock:
        lock.acquire(new)
        with pytest.raises(InputError, match="in use by another process"):
            run(new)  # a run that is being made is one, too
    assert [path.name for path in new.iterdir()] == ["lock"]
    assert go_on(run, copy).summary["gradient_steps"] == 12


def test_a_lock_ends_with_its_process_however_it_ends(tmp_path):
    script = (
        "import pathlib, sys, time; from ddm.runner import locks; lock = locks.FolderLock(); "
        "lock.acquire(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"process {other.pid} on .*name another folder"):
            locks.wait_until_free(tmp_path, 0.0)
        other.kill()
    locks.wait_until_free(tmp_path, 10.0)


def test_without_locks_it_says_so(tmp_path, monkeypatch):
    import errno
    import fcntl

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    [notice] = locks.FolderLock().acquire(tmp_path)
    assert notice.endswith(
        "cannot be locked (No locks available): see to it that no other process writes it"
    )


# Rows up to the restored step.


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b""), "has 0 bytes, but had [0-9]+ at gradient step 8; put"),
        (lambda path: path.write_bytes(path.read_bytes()[:90]), "has 90 bytes, but had"),
        (lambda path: path.unlink(), "metrics.csv is missing; put a copy of it back"),
        (
            lambda path: path.write_text(path.read_text().replace("0", "1")),
            "does not hold the rows that it had at gradient step 8",
        ),
        (
            lambda path: path.write_text("".join(path.read_text().splitlines(True)[:1])),
            "bytes, but had",
        ),
    ],
    ids=["empty", "cut", "deleted", "changed", "emptied"],
)
def test_rows_that_are_gone_are_missed(run, copy, damage, message):
    damage(copy / "metrics.csv")
    before = (copy / "config.json").read_bytes()
    with pytest.raises(InputError, match=message):
        go_on(run, copy)
    assert (copy / "config.json").read_bytes() == before  # what is refused leaves no trace
    with pytest.raises(InputError, match=r"metrics.csv"):
        score_curve(copy)


def test_without_a_checkpoint_there_is_nothing_to_miss(run, copy, whole):
    # Killed at its first moment: no checkpoint, and a metrics.csv without a byte.
    shutil.rmtree(copy / "checkpoints")
    (copy / "metrics.csv").write_bytes(b"")
    go_on(run, copy)
    assert (copy / "metrics.csv").read_bytes() == (whole.run_dir / "metrics.csv").read_bytes()


# Which run, which step.


def test_damage_at_one_step_again_takes_another_name(run, copy):
    for _ in range(3):
        for path in (copy / "checkpoints" / "8").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
        go_on(run, copy, num_updates=8)
    names = sorted(path.name for path in (copy / "checkpoints").iterdir())
    assert names == ["4", "8", "8.damaged", "8.damaged-2", "8.damaged-3"]


def test_a_checkpoint_of_another_step_is_not_believed(run, copy, capsys):
    folder = copy / "checkpoints"
    shutil.rmtree(folder / "8")
    shutil.copytree(folder / "4", folder / "8")
    with pytest.raises(InputError, match=r"checkpoints/8 is the checkpoint of gradient step 4"):
        load_policy(copy, linear_regression)
    go_on(run, copy, progress="plain")
    said = capsys.readouterr().err
    assert "is the checkpoint of gradient step 4; it is now 8.damaged" in said
    assert "going on after gradient step 4" in said


def test_a_checkpoint_of_another_run_is_not_believed(run, copy, tmp_path):
    run(tmp_path / "other", num_updates=8)
    shutil.rmtree(copy / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", copy / "checkpoints")
    with pytest.raises(InputError, match="checkpoints/8 is a checkpoint of another run"):
        go_on(run, copy)
    with pytest.raises(InputError, match="is a checkpoint of another run"):
        load_policy(copy, linear_regression)


def test_without_its_configuration_nothing_is_gone_on_with(run, copy):
    (copy / "config.json").unlink()
    for more in ({"resume": True}, {}):
        with pytest.raises(InputError, match=r"holds metrics.csv, but no config.json that says"):
            run(copy, environment=tiny.Target(), **more)


def test_a_configuration_that_was_changed_by_hand_is_refused(run, copy):
    path = copy / "config.json"
    path.write_text(path.read_text().replace('"noise": 0.01', '"noise": 0.02'))
    for action in (lambda: go_on(run, copy), lambda: load_policy(copy, linear_regression)):
        with pytest.raises(InputError, match=r"config\.json is not as it was written"):
            action()


def test_a_finished_run_keeps_its_warnings_and_its_speed(run, tmp_path):
    options = {"config": linear_regression.Config(learning_rate=0.0)}
    first = run(tmp_path, **options).summary
    again = run(tmp_path, resume=True, **options).summary
    assert first["warnings"]["seed 0"]
    assert first["updates_per_second"] > 0
    names = ("warnings", "updates_per_second", "updates_per_second_all_lanes", "compile_seconds")
    assert {name: again[name] for name in names} == {name: first[name] for name in names}


def test_the_clock_knows_calls_of_several_lengths(monkeypatch):
    # 10 s of compilation, then 4 steps a second; one call of another length compiles 5 s.
    times = iter([0, 11, 11, 12, 12, 13, 13, 18.5])
    monkeypatch.setattr("ddm.runner.report.time.perf_counter", lambda: next(times))
    clock = Clock({"updates_per_second": 1.0})
    assert clock.figures(2)["updates_per_second"] == 1.0
    for steps in (4, 4, 4, 2):
        with clock.interval(steps):
            pass
    expected = {"updates_per_second": 4, "updates_per_second_all_lanes": 8, "compile_seconds": 15}
    assert clock.figures(2) == pytest.approx(expected)


def test_another_order_of_the_lanes_is_said(run, copy, capsys):
    go_on(run, copy, lanes="vmap", progress="plain")
    said = capsys.readouterr().err
    assert "lanes is vmap of 1, not sequential as before: from here on, numbers may differ" in said
    go_on(run, copy, lanes="vmap", progress="plain")
    assert "as before" not in capsys.readouterr().err


@dataclasses.dataclass(frozen=True)
class Shorter(tiny.Target):
    @property
    def default_params(self):
        return EnvParams(max_steps=2)


def test_another_environment_of_the_same_name_is_refused(run, copy, dataset):
    options = tiny.make_options(copy, resume=True)
    with pytest.raises(InputError, match="scored in another Target: class=Target, not class=Short"):
        train(linear_regression, linear_regression.Config(), dataset, Shorter(), options)
    saved = {"environment": "Hopper", "environment_spec": {"kwargs": {"xml": 1}, "old": 2}}
    asked = {"environment": "Hopper", "environment_spec": {"kwargs": {"xml": 2}, "new": 3}}
    with pytest.raises(InputError, match=r"another Hopper: kwargs=\{'xml': 1\}, not kwargs="):
        resume._check_environment(saved, asked, Path("run"), False)
    asked["environment_spec"]["kwargs"]["xml"] = 1
    resume._check_environment(saved, asked, Path("run"), False)


# Versions.


def test_an_option_that_an_older_version_did_not_have_was_its_default(run, copy):
    change(copy / "config.json", lambda record: record["options"].pop("reward_scale"))
    with pytest.raises(InputError, match=r"was run with reward_scale=1.0, not 2.0"):
        go_on(run, copy, reward_scale=2.0)
    assert go_on(run, copy).summary["gradient_steps"] == 12


def test_a_field_that_an_older_version_did_not_have_was_its_default(run, copy):
    change(copy / "config.json", lambda record: record["config"].pop("noise"))
    message = "by a version without noise, which is 0.5 here and not its default"
    with pytest.raises(InputError, match=message):
        go_on(run, copy, config=linear_regression.Config(noise=0.5))
    assert go_on(run, copy).summary["gradient_steps"] == 12
    change(copy / "config.json", lambda record: record["config"].update(gone=3))
    with pytest.raises(InputError, match="run with gone=3, which this version does not have"):
        go_on(run, copy)


def test_a_run_of_a_version_without_seals_goes_on(run, copy, whole, monkeypatch):
    """Its config.json has no identity, and its checkpoints know neither step nor rows."""
    from ddm.runner import checkpoints

    path = copy / "config.json"
    record = json.loads(path.read_text())
    for name in ("seal", "run", "numerics"):
        del record[name]
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="is a checkpoint of another run"):
        go_on(run, copy)  # because these checkpoints are new
    with monkeypatch.context() as old:
        old.setattr(checkpoints, "sealed", lambda header: {**header, "run": None, "metrics": None})
        shutil.rmtree(copy / "checkpoints")
        go_on(run, copy, num_updates=8)
    result = go_on(run, copy)
    np.testing.assert_array_equal(result.policy.state.weights, whole.policy.state.weights)


# Scores that are no numbers.


def test_a_score_of_untrained_policies_that_is_no_number_is_a_divergence(run, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Broken(tiny.Target):
        def step(self, key, state, action, params):
            observation, state, _, *rest = super().step(key, state, action, params)
            return observation, state, jax.numpy.nan, *rest

    message = "evaluation/return of seed 0 is not finite before the first update: the environment"
    with pytest.raises(DivergenceError, match=message):
        run(tmp_path, environment=Broken())
    json.loads((tmp_path / "config.json").read_text(), parse_constant=pytest.fail)


def test_numbers_that_json_does_not_know(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, sealed({"score": [float("nan"), 1.0], "largest": float("inf")}))
    found = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (found["score"], found["largest"]) == ([None, 1.0], "inf")
    assert read_json(path) == found
    for text, message in (
        ('{"x": NaN}', "NaN is no number of JSON"),
        ("[1]", "holds a list, expected a JSON object"),
        ("[" * 100_000, "cannot be read"),
        (path.read_text().replace("1.0", "2.0"), "is not as it was written"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_json(path)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (3, "x is 3, expected a record"),
        ({"n": True, "o": {}}, "x: n is True, expected int"),
        ({"n": 1, "o": []}, r"x: o is \[\], expected a record"),
        ({"n": 1, "o": {"s": "ab"}}, "x: o: s is 'ab', expected a list"),
        ({"n": 1, "o": {"s": [1]}}, r"x: o: s is \[1\], expected a list"),
        ({"n": 1, "o": {"s": []}, "t": 1}, "x: t is 1, expected str or nothing"),
    ],
)
def test_records_of_another_shape_are_refused_by_field(record, message):
    with pytest.raises(InputError, match=message):
        check_fields(record, {"n": int, "o": {"s": [str]}, "t": (str, None)}, "x")
    check_fields({"n": 1, "o": {"s": ["a"]}}, {"n": int, "o": {"s": [str]}, "t": (str, None)}, "x")


@pytest.mark.parametrize("name", ["dataset", "options", "config", "algorithm"])
def test_a_configuration_of_another_shape_is_one_sentence(run, copy, name):
    change(copy / "config.json", lambda record: record.update({name: 7}))
    for action in (lambda: go_on(run, copy), lambda: load_policy(copy, linear_regression)):
        with pytest.raises(InputError, match=f"config.json: {name} is 7, expected"):
            action()


def test_a_folder_that_cannot_be_made_is_one_sentence(run, tmp_path):
    (tmp_path / "file").write_text("")
    for folder, message in (
        (tmp_path / ("n" * 300), "cannot be written: .*File name too long"),
        (tmp_path / "file" / "run", "cannot be written: .*Not a directory"),
        (tmp_path / "file", "is a file, expected a folder"),
    ):
        with pytest.raises(InputError, match=message):
            run(folder)
