"""The script that trains a model and writes its report."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import scripts

SCRIPT = pathlib.Path(__file__).parents[2] / "experiments" / "dynamics.py"


def test_a_model_is_trained_saved_and_reported(tmp_path):
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "log.npz",
        observations=random.normal(size=(60, 2)).astype(np.float32),
        actions=random.uniform(-1.0, 1.0, (60, 1)).astype(np.float32),
        rewards=random.normal(size=60).astype(np.float32),
        terminations=np.zeros(60, bool),
        truncations=np.arange(60) % 6 == 5,
    )
    done = scripts.run(
        SCRIPT, "--dataset=log.npz", "--action_low=-1", "--action_high=1", "--run_dir=run",
        "--model_hidden_sizes=4", "--model_weight_decay=0", "--model_batch_size=8",
        "--max_epochs=2", "--horizon=3", "--noplots", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 3
    record = json.loads((tmp_path / "run" / "model_report.json").read_text())
    assert record["data"] == "held-out episodes"
    [found] = record["models"]
    assert found["transitions"] == 5  # one of ten episodes; its last successor is not stored
    assert len(found["rmse"]) == len(found["explained"]) == 3
    assert len(found["open_loop"]) == 3
    assert f"after 3 steps the error is {found['open_loop'][-1]:.3g}" in done.stdout
    assert (tmp_path / "run" / "model_report.png").stat().st_size > 10_000
