from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scripts
import tiny

from ddm import data
from ddm.data import DatasetInfo
from ddm.errors import InputError, MissingDependencyError
from ddm.imitation import bc
from ddm.policy_constraint import iql
from ddm.runner import find_environment, load_dataset
from ddm.training import prepare
from ddm.types import Box, Discrete

HERE = str(Path(__file__).parent)

SCRIPT = '''"""Trains the tiny algorithm."""
import linear_regression, tiny
from absl import flags
from ddm import runner
from ddm.errors import InputError

flags.DEFINE_string("own", "", "Of this script.")
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
        return scripts.run(script, *arguments, cwd=script.parent)

    return call


def test_an_error_of_the_user_is_one_sentence(call, tmp_path):
    result = call("--dataset=tiny", f"--run_dir={tmp_path}", "--sweep=beta=1")
    assert result.returncode == 1
    assert result.stderr.startswith("error: --sweep: beta is not a hyper-parameter")
    assert result.stderr.count("\n") == 1


def test_help_and_unknown_flags(call):
    result = call("--help")
    assert result.returncode == 0
    algorithm, run = result.stdout.split("\nThe run:\n")
    assert "The algorithm, linear_regression:\n  --learning_rate: step size" in algorithm
    assert "This script:\n  --own: Of this script." in algorithm
    assert "--seeds: Number of seeds" in run
    assert "--learning_rate" not in run
    result = call("--learning_rat=1")
    assert result.returncode == 1
    assert "Unknown command line flag 'learning_rat'. Did you mean: learning_rate" in result.stderr


def test_a_run_prints_its_own_lines_only(call, tmp_path):
    result = call("--dataset=tiny", f"--run_dir={tmp_path / 'run'}", "--seeds=2")
    assert result.returncode == 0
    assert result.stderr.splitlines() == [
        f"linear_regression: 2 lanes, {tmp_path / 'run'}",
        "no environment: this run has no score",
        "trained 4 gradient steps; there is no score",
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


def named(environment_id, specification=None, lengths=(3, 7, 5)):
    """What `find_environment` asks of a dataset."""
    info = DatasetInfo(
        name="log",
        observation_space=Box((1,), (0.0,), (1.0,)),
        action_space=Discrete(2),
        environment_id=environment_id,
        environment_spec=specification,
    )
    return types.SimpleNamespace(info=info, episode_lengths=np.array(lengths))


def frozen_lake(**changes):
    gymnasium = pytest.importorskip("gymnasium")
    specification = json.loads(gymnasium.spec("FrozenLake-v1").to_json())
    specification["kwargs"]["is_slippery"] = False
    return named("FrozenLake-v1", json.dumps(specification | changes))


def found(options, dataset):
    """The specification of the gymnasium environment that is found."""
    return find_environment(options, dataset).specification


def test_the_environment_is_the_option_or_that_of_the_dataset(tmp_path):
    options = tiny.make_options(tmp_path)
    assert find_environment(options, named(None)) is None
    assert find_environment(options, named("Pendulum-v1")) is not None
    assert find_environment(tiny.make_options(tmp_path, environment="none"), named("x")) is None
    maze = tiny.make_options(tmp_path, environment="PointMaze-UMaze-v0")
    assert find_environment(maze, named(None)).name == "PointMaze-UMaze-v0"


def test_a_missing_simulator_says_how_to_train_without(tmp_path, monkeypatch):
    from ddm import evaluation

    def make_environment(spec, *arguments, **keywords):
        raise MissingDependencyError(f"{spec} needs gymnasium: pip install ddm[sim]")

    monkeypatch.setattr(evaluation, "make_environment", make_environment)
    with pytest.raises(MissingDependencyError, match=r"ddm\[sim\]; or train .*--environment=none"):
        find_environment(tiny.make_options(tmp_path), named("Hopper-v4"))


def test_the_environment_is_the_one_that_the_log_specifies(tmp_path, capfd):
    options = tiny.make_options(tmp_path)
    lake = found(options, frozen_lake(max_episode_steps=50))
    assert (lake.kwargs["is_slippery"], lake.max_episode_steps) == (False, 50)
    options = tiny.make_options(
        tmp_path, max_episode_steps=20, environment_kwargs='{"map_name": "8x8"}'
    )
    lake = found(options, frozen_lake())
    assert lake.kwargs == {"is_slippery": False, "map_name": "8x8"}
    assert lake.max_episode_steps == 20
    assert capfd.readouterr().err == ""


def test_the_users_environment_wins_and_what_it_leaves_out_is_said(tmp_path, capfd):
    lake = found(tiny.make_options(tmp_path, environment="FrozenLake-v1"), frozen_lake())
    assert "is_slippery" not in lake.kwargs
    assert capfd.readouterr().err == (
        "--environment decides: FrozenLake-v1 (map_name='4x4'), 100 steps; the data are from "
        "FrozenLake-v1 (map_name='4x4', is_slippery=False), 100 steps\n"
    )
    options = tiny.make_options(
        tmp_path, environment="FrozenLake-v1", environment_kwargs='{"is_slippery": false}'
    )
    assert found(options, frozen_lake()).kwargs["is_slippery"] is False
    assert capfd.readouterr().err == ""


def test_an_environment_without_a_limit_gets_that_of_the_logs_longest_episode(tmp_path, capfd):
    pytest.importorskip("gymnasium")
    assert found(tiny.make_options(tmp_path), named("CliffWalking-v1")).max_episode_steps == 7
    expected = "'CliffWalking-v1' has no step limit: an evaluation episode ends after 7 steps"
    assert expected in capfd.readouterr().err
    options = tiny.make_options(tmp_path, max_episode_steps=30)
    assert found(options, named("CliffWalking-v1")).max_episode_steps == 30
    unlimited = frozen_lake(max_episode_steps=None)
    assert found(tiny.make_options(tmp_path), unlimited).max_episode_steps == 7


def test_a_module_is_imported_only_if_the_user_names_it(tmp_path):
    with pytest.raises(InputError, match=r"log names .*: --environment=no_package:Own-v0"):
        find_environment(tiny.make_options(tmp_path), named("no_package:Own-v0"))


@pytest.mark.parametrize("text", ["{is_slippery", "[1]"])
def test_environment_kwargs_are_a_json_object(tmp_path, text):
    options = tiny.make_options(tmp_path, environment_kwargs=text)
    with pytest.raises(InputError, match="--environment_kwargs="):
        find_environment(options, frozen_lake())


@pytest.mark.parametrize("algorithm", [bc, iql])
def test_the_number_of_actions_is_the_one_given_or_the_logs(algorithm):
    log = types.SimpleNamespace(info=named(None).info)  # two actions
    assert prepare(algorithm, algorithm.Config(), log).num_actions == 2
    assert prepare(algorithm, algorithm.Config(num_actions=5), log).num_actions == 5
    with pytest.raises(InputError, match="num_actions is 1, and log has 2 actions"):
        prepare(algorithm, algorithm.Config(num_actions=1), log)
    box = dataclasses.replace(log.info, action_space=Box((1,), (-1.0,), (1.0,)))
    config = algorithm.Config()
    assert prepare(algorithm, config, types.SimpleNamespace(info=box)) is config


def test_the_default_policy_class_follows_the_kind_of_actions():
    log = types.SimpleNamespace(info=named(None).info)
    assert prepare(bc, bc.Config(), log).head == "categorical"
    assert prepare(bc, bc.Config(head="tabular"), log).head == "tabular"


def test_bounds_of_actions_come_in_pairs(tmp_path):
    with pytest.raises(InputError, match="--action_low needs --action_high"):
        load_dataset(tiny.make_options(tmp_path, action_low=(-1.0,)))
    with pytest.raises(InputError, match="--action_high needs --action_low"):
        load_dataset(tiny.make_options(tmp_path, action_high=(1.0,)))


def test_flags_reach_the_loader(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "hopper-medium-v0.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(6.0)[:, None]
        file["actions"] = np.array([[-2.0], [2], [0], [1], [2], [0]])
        file["rewards"] = np.ones(6)
        file["terminals"] = np.zeros(6, bool)
    bounds = {"action_low": (-2.0,), "action_high": (2.0,)}
    options = tiny.make_options(tmp_path, dataset=str(path), max_episode_steps=3, **bounds)
    dataset = load_dataset(options)
    assert dataset.episode_returns.tolist() == [3, 3]
    assert dataset.info.action_space == Box((1,), (-2.0,), (2.0,))
    assert dataset.info.environment_id == "Hopper-v4"
    assert dataset.info.name == str(path)
    loaded = data.load(path, max_episode_steps=3, action_space=([-2.0], [2.0]))
    np.testing.assert_array_equal(dataset.actions, loaded.actions)
