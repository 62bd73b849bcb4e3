from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
import tiny

from ddm.errors import MissingDependencyError
from ddm.runner import find_environment

HERE = str(Path(__file__).parent)

SCRIPT = '''"""Trains the tiny algorithm."""
import linear_regression, tiny
from ddm import runner
from ddm.errors import InputError

runner.define_flags(linear_regression, num_updates=4, log_every=4, plots=False)

def main(_):
    options, config = runner.parse_flags(linear_regression)
    if options.dataset == "interrupt":
        raise KeyboardInterrupt
    runner.train(linear_regression, config, tiny.make_dataset(), None, options)

if __name__ == "__main__":
    runner.launch(main)
'''


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    script = tmp_path_factory.mktemp("experiment") / "experiment.py"
    script.write_text(f"import sys; sys.path.insert(0, {HERE!r})\n{SCRIPT}")

    def call(*arguments):
        command = [sys.executable, str(script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return call


def test_an_error_of_the_user_is_one_sentence(call, tmp_path):
    result = call("--dataset=tiny", f"--run_dir={tmp_path}", "--sweep=beta=1")
    assert result.returncode == 1
    assert result.stderr.startswith("error: --sweep: beta is not a hyper-parameter")
    assert result.stderr.count("\n") == 1


def test_help_and_unknown_flags(call):
    result = call("--help")
    assert "--learning_rate: [linear_regression] step size" in result.stdout
    assert "--seeds: Number of seeds" in result.stdout
    result = call("--learning_rat=1")
    assert result.returncode == 1
    assert "Unknown command line flag 'learning_rat'. Did you mean: learning_rate" in result.stderr


def test_a_run_prints_its_own_lines_only(call, tmp_path):
    result = call("--dataset=tiny", f"--run_dir={tmp_path / 'run'}", "--seeds=2")
    assert result.returncode == 0
    assert result.stderr.splitlines() == [
        f"linear_regression: 2 lanes, {tmp_path / 'run'}",
        "no environment: this run has no score",
    ]


def test_ctrl_c_outside_of_training(call):
    result = call("--dataset=interrupt")
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


def test_importing_the_runner_is_light():
    heavy = ("orbax", "matplotlib", "gymnasium", "minari", "h5py", "tensorboardX", "distrax")
    code = f"import sys, ddm.runner; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def named(environment_id):
    return types.SimpleNamespace(info=types.SimpleNamespace(environment_id=environment_id))


def test_the_environment_is_the_option_or_that_of_the_dataset(tmp_path):
    options = tiny.make_options(tmp_path)
    assert find_environment(options, named(None)) is None
    assert find_environment(options, named("Pendulum-v1")) is not None
    assert find_environment(tiny.make_options(tmp_path, environment="none"), named("x")) is None
    maze = tiny.make_options(tmp_path, environment="PointMaze-UMaze-v0")
    assert find_environment(maze, named(None)).name == "PointMaze-UMaze-v0"


def test_a_missing_simulator_says_how_to_train_without(tmp_path, monkeypatch):
    from ddm import evaluation

    def make_environment(spec, max_episode_steps):
        raise MissingDependencyError(f"{spec} needs gymnasium: pip install ddm[sim]")

    monkeypatch.setattr(evaluation, "make_environment", make_environment)
    with pytest.raises(MissingDependencyError, match=r"ddm\[sim\]; or train .*--environment=none"):
        find_environment(tiny.make_options(tmp_path), named("Hopper-v4"))
