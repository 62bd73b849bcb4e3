"""Runs of models, and runs of a policy that begin with a trained model."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
import tiny

from ddm import data
from ddm.errors import InputError
from ddm.model_based import dynamics, mopo
from ddm.runner import train
from ddm.runner.lanes import unwrap_keys
from ddm.runner.policies import load_normalization, load_policy

MODEL = {
    "model_hidden_sizes": (4,), "model_weight_decay": (1e-4,), "num_members": 3, "num_elites": 2,
    "model_batch_size": 8, "max_epochs": 3, "holdout_share": 0.25,
}  # fmt: skip
POLICY = {
    "hidden_sizes": (4,), "num_rollouts": 8, "rollout_length": 2, "rollout_frequency": 2,
    "retained_rounds": 2, "real_share": 0.5,
}  # fmt: skip
STEPS = 3 * 3  # of the model: three epochs of 24 rows


def normalized(log: data.Dataset, **units) -> data.Dataset:
    return data.normalize(log, observations="standardize", **units)


def train_model(folder, log, **options):
    options = {"num_updates": 0, "log_every": 1, "eval_every": 0, **options}
    config = dynamics.Config(**MODEL)
    return train(dynamics, config, log, None, tiny.make_options(folder, **options))


def train_policy(folder, log, fields=None, environment=None, **options):
    options = {"num_updates": 4, "log_every": 2, "eval_every": 0, "checkpoint_every": 2, **options}
    config = mopo.Config(**POLICY, **(fields or {}))
    return train(mopo, config, log, environment, tiny.make_options(folder, **options))


@pytest.fixture(scope="module")
def log(dataset):
    return normalized(dataset)


@pytest.fixture(scope="module")
def model(log, tmp_path_factory):
    """The folder of a run of a model with two lanes, and its result."""
    folder = tmp_path_factory.mktemp("model")
    return folder, train_model(folder, log, seeds=2)


@pytest.fixture(scope="module")
def started(log, model, tmp_path_factory):
    """A run that began with that model."""
    folder = tmp_path_factory.mktemp("policy")
    like = normalized(tiny.make_dataset(), like=load_normalization(model[0]))
    return train_policy(folder, like, start_from=str(model[0]), seeds=2)


def assert_same(found, expected):
    chex.assert_trees_all_equal(*(unwrap_keys(x.policy.state) for x in (found, expected)))


def test_a_model_is_trained_as_long_as_it_declares(model):
    folder, result = model
    np.testing.assert_array_equal(result.policy.state.step, [STEPS, STEPS])
    assert result.summary["score"] is None
    kept = load_policy(folder, dynamics, lane=None)
    chex.assert_trees_all_equal(*map(unwrap_keys, (kept.state, result.policy.state)))
    rows = (folder / "metrics.csv").read_text().splitlines()
    names = {row.split(",")[2] for row in rows[1:] if len(row.split(",")) > 2}
    assert {"holdout_error", "train_loss", "idle_epochs"} <= names | set(rows[0].split(","))


def test_a_policy_starts_from_a_model_bit_for_bit_and_does_not_train_it(model, started):
    trained, found = model[1].policy.state, started.policy.state.model
    for field in ("members", "params", "holdout_errors", "scales", "train_loss", "idle_epochs"):
        chex.assert_trees_all_equal(getattr(found, field), getattr(trained, field))
    np.testing.assert_array_equal(found.step, [0, 0])
    np.testing.assert_array_equal(started.policy.state.step, [4, 4])  # those of the policy alone
    assert started.summary["config"]["max_epochs"] == 0
    assert started.summary["config"]["model_hidden_sizes"] == [4]  # the model's, not the default
    assert started.summary["config"]["steps_per_epoch"] == 3
    assert int(started.policy.state.imagined.size[0]) > 0


def test_one_model_serves_all_lanes(log, tmp_path):
    one = train_model(tmp_path / "model", log)
    found = train_policy(tmp_path / "policy", log, start_from=str(tmp_path / "model"), seeds=2)
    for lane in range(2):
        chex.assert_trees_all_equal(
            jax.tree.map(lambda x: x[lane], found.policy.state.model.params),  # noqa: B023
            jax.tree.map(lambda x: x[0], one.policy.state.params),
        )


def test_a_model_that_held_episodes_out_is_of_the_same_log(log, tmp_path):
    train_model(tmp_path / "model", log, holdout=0.25)
    metrics = (tmp_path / "model" / "metrics.csv").read_text()
    assert "holdout/error" in metrics
    assert "holdout/negative_log_likelihood" in metrics
    found = train_policy(tmp_path / "policy", log, start_from=str(tmp_path / "model"))
    assert found.summary["dataset"]["digest"] == data.digest(log)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_hidden_sizes": (8,)}, r"model_hidden_sizes is \(8,\), and the dynamics to start"),
        ({"num_members": 5}, "num_members is 5, and the dynamics to start from has 3"),
        ({"probabilistic": False}, "probabilistic is False, and the dynamics to start from has T"),
    ],
)
def test_a_model_of_other_sizes_is_refused(log, model, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        train_policy(tmp_path, log, fields, start_from=str(model[0]), seeds=2)
    assert not list(tmp_path.iterdir())


def test_a_model_of_another_log_or_other_units_or_lanes_is_refused(log, model, tmp_path):
    other = log.replace(rewards=log.rewards.at[0].add(1.0))
    with pytest.raises(InputError, match="its dynamics was trained on another log, tiny, or on o"):
        train_policy(tmp_path, other, start_from=str(model[0]), seeds=2)
    start = model[1].policy
    raw = tiny.make_dataset()
    options = tiny.make_options(tmp_path, num_updates=4, seeds=2)
    config = mopo.Config(**POLICY)
    with pytest.raises(InputError, match="tiny has another observation_mean than the policy to st"):
        train(mopo, config, raw, None, options, start=start)
    scaled = normalized(raw, reward_scale=3.0)
    with pytest.raises(InputError, match="tiny has a reward_scale of 3, and the dynamics to start"):
        train(mopo, config, scaled, None, options, start=start)
    with pytest.raises(InputError, match="or another number of lanes"):
        train(mopo, config, log, None, dataclasses.replace(options, seeds=3), start=start)
    assert not list(tmp_path.iterdir())


def test_a_model_has_no_policy(log, model, tmp_path):
    options = tiny.make_options(tmp_path, num_updates=0)
    with pytest.raises(InputError, match=r"dynamics has no policy: it predicts with dynamics\.pre"):
        train(dynamics, dynamics.Config(**MODEL), log, tiny.Target(), options)
    with pytest.raises(InputError, match="dynamics has no policy"):
        model[1].policy.lane(0)(np.zeros(2), jax.random.key(0))
    assert not list(tmp_path.iterdir())


def test_a_run_that_began_with_a_model_resumes_to_the_bit(log, model, started, tmp_path):
    options = {"start_from": str(model[0]), "seeds": 2}
    half = train_policy(tmp_path, log, num_updates=2, **options)
    np.testing.assert_array_equal(half.policy.state.step, [2, 2])
    assert_same(train_policy(tmp_path, log, resume=True, **options), started)


SCRIPT = """
import os, signal, sys
import tiny
from ddm.runner import progress
from test_start_from_model import MODEL, normalized, train_policy

update = progress.Progress.update
def update_and_be_killed(self, step):
    update(self, step)
    if step == 6 and "kill" in sys.argv:
        os.kill(os.getpid(), signal.SIGTERM)
progress.Progress.update = update_and_be_killed
train_policy(sys.argv[1], normalized(tiny.make_dataset()), MODEL, log_every=1,
             progress="plain", resume="resume" in sys.argv)
"""


def test_a_run_that_is_killed_while_its_model_learns_goes_on_from_there(log, tmp_path):
    expected = train_policy(tmp_path / "whole", log, MODEL, log_every=1)
    assert int(expected.policy.state.step[0]) == STEPS + 4
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "killed")]
    here = Path(__file__).parent
    paths = [str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def call(*arguments):
        return subprocess.run(
            [*command, *arguments], cwd=here, capture_output=True, text=True, check=False,
            env=environment,
        )  # fmt: skip

    killed = call("kill")
    assert killed.returncode == 128 + signal.SIGTERM, killed.stderr
    assert "stopped after gradient step 6; --resume goes on" in killed.stderr
    resumed = call("resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after gradient step 6" in resumed.stderr
    found = load_policy(tmp_path / "killed", mopo, lane=None)
    chex.assert_trees_all_equal(*map(unwrap_keys, (found.state, expected.policy.state)))
    whole, rows = ((tmp_path / x / "metrics.csv").read_text() for x in ("whole", "killed"))
    assert whole == rows
