from __future__ import annotations

import csv
import json
import pathlib
import sys

import pytest
import scripts

from ddm.errors import InputError

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "tables" / "summary.py"


def _write_run(folder, *, interval=(10.0, 11.0), **score):
    lanes = [
        {"seed": s, "last": 10.0 + s, "best": 20.0 + s, "best_step": 1, "second_half": 9.0 + s}
        for s in (0, 1)
    ]
    point = {"seeds": 2, "mean": 10.5, "mean_interval": interval, "iqm": 10.5}
    summary = {
        "algorithm": "iql",
        "config": {
            "expectile": 0.9,
            "discount": 0.99,
            "hidden_sizes": [256, 256],
            "edges": [0.5] * 99,
        },
        "script_flags": {"binning": "quantile"},
        "options": {"dataset": "logs.npz", "seeds": 2, "eval_episodes": 10, "run_dir": "x"},
        "dataset": {"name": "logs.npz"},
        "environment": "Hopper-v4",
        "versions": {"jax": "0.10.2", "numpy": "2.4.6"},
        "gradient_steps": 1_000,
        "score": {"metric": "normalized_score", "points": [point], "lanes": lanes} | score,
        "device": "cpu",
    }
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def _run(*arguments):
    return scripts.run(SCRIPT, *arguments, cwd=SCRIPT.parent)


def test_rows_hold_scores_and_the_command_that_repeats_the_run(tmp_path):
    _write_run(tmp_path / "run")
    done = _run(f"--runs={tmp_path / 'run'}", f"--csv={tmp_path / 'table.csv'}")
    assert done.returncode == 0, done.stderr
    assert "10.5 [10.0, 11.0]" in done.stdout
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert row["last_of_each_seed"] == "10.0 11.0"
    assert (row["last"], row["best"], row["updates"]) == ("10.5", "20.5", "1000")
    assert row["second_half"] == "9.5"
    assert row["command"] == (
        "python experiments/iql.py --dataset=logs.npz --seeds=2 --expectile=0.9 --binning=quantile"
    )
    assert row["versions"] == "jax=0.10.2 numpy=2.4.6"


def test_one_seed_has_a_score_without_an_interval(tmp_path):
    _write_run(tmp_path / "run", interval=None)
    done = _run(f"--runs={tmp_path / 'run'}", f"--csv={tmp_path / 'table.csv'}")
    assert done.returncode == 0, done.stderr
    assert "10.5 " in done.stdout
    assert "[" not in done.stdout
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert (row["last"], row["low"], row["high"]) == ("10.5", "", "")


def test_seeds_that_failed_count_in_no_mean(tmp_path):
    good = {"best": 20.0, "best_step": 1, "second_half": 9.0}
    lanes = [
        {"seed": 0, "alpha": 1.0, "failed": True},
        {"seed": 1, "alpha": 1.0, "last": 10.0, **good},
        {"seed": 0, "alpha": 5.0, "last": 30.0, **good},
        {"seed": 1, "alpha": 5.0, "last": 40.0, **good},
    ]
    points = [
        {"alpha": 1.0, "seeds": 1, "failed": 1, "mean": 10.0, "mean_interval": None},
        {"alpha": 5.0, "seeds": 2, "failed": 0, "mean": 35.0, "mean_interval": (30.0, 40.0)},
    ]
    _write_run(tmp_path / "run", points=points, lanes=lanes)
    done = _run(f"--runs={tmp_path / 'run'}", f"--csv={tmp_path / 'table.csv'}")
    assert done.returncode == 0, done.stderr
    assert "10.0 (1 failed)" in done.stdout
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["alpha"], row["seeds"], row["failed"]) for row in rows] == [
        ("1.0", "1", "1"), ("5.0", "2", "0"),
    ]  # fmt: skip
    assert [row["last_of_each_seed"] for row in rows] == ["10.0", "30.0 40.0"]


def test_folders_without_a_result_are_refused_in_one_sentence(tmp_path):
    for arguments, message in (
        ((), "--runs is missing"),
        ((f"--runs={tmp_path}",), "expected the folder of a finished run"),
    ):
        done = _run(*arguments)
        assert done.returncode != 0
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_summaries_of_another_shape_are_refused_in_one_sentence(tmp_path):
    _write_run(tmp_path / "run")
    path = tmp_path / "run" / "summary.json"
    whole = path.read_text()
    record = json.loads(whole)
    changed = [
        ("[]", "holds a list, expected a JSON object"),
        (whole[:-9], "cannot be read"),
        (whole.replace("10.5", "NaN", 1), "NaN is no number of JSON"),
        (json.dumps(record | {"score": 3}), "score is 3, expected dict"),
        (json.dumps(record | {"gradient_steps": "many"}), "gradient_steps is 'many', expected int"),
        (json.dumps(record | {"options": {}}), "is not the summary of a run of this version"),
        (json.dumps(record | {"seal": "x"}), "is not as it was written"),
        (json.dumps(record | {"run": "x"}), "has lost its seal"),
    ]
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import summary
    finally:
        sys.path.remove(str(SCRIPT.parent))
    for text, message in changed:
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            summary.read_rows(tmp_path / "run")
