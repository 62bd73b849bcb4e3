"""The README's example, and every experiment script, as a new user would run them."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import scripts

ROOT = pathlib.Path(__file__).parent.parent
SMALL = "--hidden_sizes=8"
TOKENS = ("--width=8", "--num_heads=2", "--num_layers=1")
MODEL = (SMALL, "--num_rollouts=4", "--model_hidden_sizes=8", "--model_weight_decay=1e-4")
SCRIPTS = {
    "act": (*TOKENS, "--chunk_size=4", "--execute_steps=4"),
    "algae_dice": (SMALL,),
    "autoregressive": ("--decoder=lstm", "--width=8", "--num_bins=8", "--binning=quantile"),
    "awac": (SMALL,),
    "awr": (SMALL, "--window=4"),
    "bc": (SMALL,),
    "bcq": (SMALL, "--vae_hidden_sizes=8"),
    "bear": (SMALL, "--vae_hidden_sizes=8"),
    "brac": (SMALL,),
    "ccil": (SMALL, "--model_hidden_sizes=8", "--max_epochs=2"),
    "cql": (SMALL,),
    "crr": (SMALL,),
    "cvae": (SMALL,),
    "diffusion": (SMALL,),
    "edac": (SMALL, "--num_critics=3"),
    "flow_matching": (SMALL,),
    "history_bc": (SMALL, "--width=8"),
    "implicit_bc": ("--width=8",),
    "iq_learn": (SMALL,),
    "iql": (SMALL,),
    "combo": MODEL,
    "mbpo": MODEL,
    "mobile": MODEL,
    "mopo": MODEL,
    "morel": MODEL,
    "rambo": (*MODEL, "--adversarial_steps=2", "--adversarial_batch_size=4"),
    "noise_bc": (SMALL,),
    "one_step": (SMALL,),
    "rebrac": (SMALL,),
    "reverse_kl": (SMALL,),
    "sac": (SMALL,),
    "sac_n": (SMALL, "--num_critics=3"),
    "td3": (SMALL,),
    "td3_bc": (SMALL,),
    "value_dice": (SMALL,),
}


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Forty random transitions in four episodes."""
    actions = np.random.default_rng(1).uniform(-1.0, 1.0, (40, 2)).astype(np.float32)
    return _write_logs(tmp_path_factory.mktemp("logs") / "logs.npz", actions)


@pytest.fixture(scope="module")
def discrete_logs(tmp_path_factory):
    """The same with three discrete actions."""
    actions = np.arange(40) % 3
    return _write_logs(tmp_path_factory.mktemp("discrete") / "logs.npz", actions)


def _write_logs(path, actions):
    random = np.random.default_rng(0)
    ends = np.arange(40) % 10 == 9
    np.savez(
        path,
        observations=random.normal(size=(40, 3)).astype(np.float32),
        actions=actions,
        rewards=random.normal(size=40).astype(np.float32),
        terminations=ends,
        truncations=np.zeros(40, bool),
    )
    return path


def test_the_example_of_the_readme_runs(logs):
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    example = example.replace("1000", "2").replace("256", "4")
    done = subprocess.run(
        [sys.executable, "-c", f"{example}\nprint(action.shape, int(state.step))"],
        cwd=logs.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["(2,)", "2"], done.stderr[-2000:]


def _some_by_day(names, some):
    """All names; those that are not in `some` only where the suite takes its time."""
    return [n if n in some else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_experiment_reaches_its_first_update(name, logs, tmp_path):
    done = scripts.run(
        ROOT / "experiments" / f"{name}.py", f"--dataset={logs}", "--batch_size=4", *SCRIPTS[name],
        cwd=tmp_path, traced=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(rf"traced ddm\.\w+\.{name}$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("name", _some_by_day(SCRIPTS, ("autoregressive", "bc", "iql")))
def test_every_experiment_trains_without_an_environment(name, logs, tmp_path):
    done = scripts.run(
        ROOT / "experiments" / f"{name}.py", f"--dataset={logs}", "--num_updates=4",
        "--log_every=2", "--batch_size=4", "--run_dir=run", "--noplots", *SCRIPTS[name],
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "no score" in done.stdout + done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    if name == "autoregressive":  # what it took from the log is part of its configuration
        assert summary["config"]["binning"] == "quantile"
        assert len(summary["config"]["edges"]) == 2 * 9


def test_a_script_collects_its_own_experience_and_goes_on_from_another_run(logs, tmp_path):
    shared = (
        "--num_updates=4", "--log_every=2", "--batch_size=4", "--eval_episodes=1", "--noplots",
        SMALL,
    )  # fmt: skip
    online = ("--online", "--random_steps=20", "--buffer_capacity=64")
    script = ROOT / "experiments" / "sac.py"
    task = "--environment=PointMass-8-v0"
    done = scripts.run(script, *online, task, *shared, "--run_dir=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["score"]["metric"] == "return"
    again = ("--start_from=run", "--run_dir=next")
    done = scripts.run(script, *online, task, *shared, *again, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    wrong = (*again[:1], f"--dataset={logs}", "--run_dir=wrong")
    done = scripts.run(script, *shared, *wrong, cwd=tmp_path)
    assert "observations have shape (3,), those of the policy (8,)" in done.stderr
    done = scripts.run(script, *online, *shared, "--run_dir=no", cwd=tmp_path)
    assert "--online needs --environment" in done.stderr


@pytest.mark.parametrize("name", _some_by_day(("ppo", "npg", "policy_gradient"), ("ppo",)))
def test_experiments_that_learn_from_their_own_steps_need_no_log(name, tmp_path):
    done = scripts.run(
        ROOT / "experiments" / f"{name}.py", "--online", "--environment=PointMass-8-v0",
        "--collect_copies=2", "--window=60", "--num_updates=2", "--log_every=1", "--eval_every=2",
        "--eval_episodes=1", "--run_dir=run", "--noplots", SMALL, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["collect"]["capacity"] == 120
    assert summary["score"]["metric"] == "return"


ADVERSARIAL = {
    "gail": ("--window=60", "--discriminator_steps=2", "--discriminator_hidden_sizes=8"),
    "airl": ("--window=60", "--discriminator_steps=2", "--reward_hidden_sizes=8"),
    "dac": ("--block_size=2", "--random_steps=20", "--discriminator_hidden_sizes=8"),
}


@pytest.mark.parametrize("name", _some_by_day(ADVERSARIAL, ("gail",)))
def test_adversarial_imitation_learns_from_a_log_and_its_own_steps(name, tmp_path):
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "demos.npz",
        observations=random.uniform(-1.0, 1.0, (40, 8)).astype(np.float32),
        actions=random.uniform(-1.0, 1.0, (40, 8)).astype(np.float32),
        rewards=np.zeros(40, np.float32),
        terminations=np.zeros(40, bool),
        truncations=np.arange(40) % 10 == 9,
    )
    done = scripts.run(
        ROOT / "experiments" / f"{name}.py", "--dataset=demos.npz",
        "--environment=PointMass-8-v0", "--collect_copies=2", "--num_updates=4", "--log_every=2",
        "--eval_every=4", "--checkpoint_every=4", "--eval_episodes=1", "--batch_size=4",
        "--run_dir=run", "--noplots", SMALL, *ADVERSARIAL[name], cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["score"]["metric"] == "return"
    assert (tmp_path / "run" / "metrics.csv").read_text().count("estimated_divergence") > 0


@pytest.mark.parametrize(
    "name", _some_by_day(("crr", "discrete_bcq", "kl_control", "spibb_dqn"), ("discrete_bcq",))
)
def test_experiments_train_on_discrete_actions(name, discrete_logs, tmp_path):
    done = scripts.run(
        ROOT / "experiments" / f"{name}.py", f"--dataset={discrete_logs}", "--num_updates=4",
        "--log_every=2", "--batch_size=4", "--run_dir=run", "--noplots", SMALL,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "summary.json").is_file()


@pytest.mark.parametrize(("name", "wrong"), [("bcq", "discrete_logs"), ("discrete_bcq", "logs")])
def test_actions_of_the_other_kind_are_refused_in_one_sentence(name, wrong, request, tmp_path):
    done = scripts.run(
        ROOT / "experiments" / f"{name}.py", f"--dataset={request.getfixturevalue(wrong)}",
        "--run_dir=run", SMALL, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode != 0
    assert "actions" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_help_shows_hyper_parameters_with_their_meaning(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "experiments" / "iql.py", "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    text = " ".join((done.stdout + done.stderr).split())
    assert "--expectile: 0.5 evaluates the behaviour policy" in text
    assert "(in (0, 1)) (default: 0.7)" in text
    assert "--seeds: Number of seeds" in text


def test_mistakes_get_one_sentence_and_no_traceback(logs, tmp_path):
    for arguments, message in (
        (["--datset=x"], "Unknown command line flag 'datset'. Did you mean: dataset"),
        (["--dataset=nowhere.npz"], "nowhere.npz"),
        ([f"--dataset={logs}", "--sweep=colour=1,2"], "colour"),
    ):
        done = scripts.run(ROOT / "experiments" / "bc.py", *arguments, cwd=tmp_path)
        assert done.returncode != 0
        assert message in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
