"""The experiments of the tabular algorithms, as a user would run them."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import scripts

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"
SCRIPTS = (
    "constrained_iteration", "fitted_q", "q_learning", "spibb", "tabular_bc", "tabular_cql",
    "tabular_model",
)  # fmt: skip


def _save(path, actions):
    """Four random walks of ten steps over three states, one-hot."""
    random = np.random.default_rng(0)
    np.savez(
        path,
        observations=np.eye(3, dtype=np.float32)[random.integers(3, size=40)],
        actions=actions,
        rewards=random.normal(size=40).astype(np.float32),
        terminations=np.arange(1, 41) % 10 == 0,
        truncations=np.zeros(40, bool),
    )
    return path


def _run(name, logs, folder):
    return scripts.run(
        EXPERIMENTS / f"{name}.py", f"--dataset={logs}", "--num_updates=4", "--log_every=2",
        "--batch_size=4", "--run_dir=run", "--noplots", cwd=folder,
    )  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_trains_on_discrete_actions(name, tmp_path):
    logs = _save(tmp_path / "logs.npz", np.arange(40) % 2)
    done = _run(name, logs, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "summary.json").is_file()
    configuration = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "num_actions" in json.dumps(configuration)


def test_continuous_actions_get_one_sentence_and_no_traceback(tmp_path):
    logs = _save(tmp_path / "logs.npz", np.linspace(-1.0, 1.0, 40)[:, None])
    done = _run("q_learning", logs, tmp_path)
    assert done.returncode != 0
    assert "q_learning: batch.actions are float32, expected the int32" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
