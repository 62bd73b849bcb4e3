"""What a run does between two rows and at an evaluation, against the same loop written out."""

from __future__ import annotations

import dataclasses
import functools
import types

import chex
import jax
import jax.numpy as jnp
import linear_regression
import numpy as np
import pytest
import tiny

from ddm import data, evaluation
from ddm.runner import load_policy, report, train
from ddm.runner.failures import Failures
from ddm.runner.metrics import read_metrics
from ddm.runner.program import STATE, init_lanes, make_interval
from ddm.runner.sources import Shared
from ddm.runner.sweep import Lane, expand
from ddm.training import Learner

CONFIG = linear_regression.Config()
SPEC = linear_regression.batch_spec(CONFIG)
START = 5  # gradient steps done


@pytest.fixture(scope="module")
def middle(dataset):
    """The state, keys and rows of a run's next four updates, one by one."""
    key = jax.random.key(7)
    state = linear_regression.State(jnp.ones((2, 1)), jnp.int32(START), jax.random.key(3))
    update = jax.jit(linear_regression.update)
    sample = jax.jit(data.sample, static_argnums=(2, 3))
    states, rows, batches = [state], [], []
    for step in range(START, START + 4):
        batches.append(sample(dataset, jax.random.fold_in(key, step), 8, SPEC))
        state, metrics = update(CONFIG, state, batches[-1])
        states.append(state)
        rows.append(metrics)
    assert not np.array_equal(batches[0].observations, batches[1].observations)
    return key, states, rows


def _run(dataset, middle, config=CONFIG, alive=True, **options):
    key, states, _ = middle
    interval = jax.jit(make_interval(linear_regression, 8, 4, **options))
    carried = Learner(states[0]), alive
    (learner, alive), (means, firsts) = interval(config, carried, key, Shared(dataset, None, 0.5))
    return learner.state, alive, means, {name: int(first) for name, first in firsts.items()}


@pytest.mark.parametrize("freeze", [False, True])
def test_an_interval_is_a_loop_over_fresh_batches(dataset, middle, freeze):
    state, alive, means, firsts = _run(dataset, middle, freeze=freeze)
    _, states, rows = middle
    np.testing.assert_allclose(state.weights, states[-1].weights, rtol=1e-5)
    assert state.step == START + 4
    for name, mean in means.items():
        values = [row[name] for row in rows]
        np.testing.assert_allclose(mean, np.mean(values), rtol=1e-5)
        assert np.ptp(values) > 1e-4
    assert firsts == {"loss": 4, "weight_norm": 4, STATE: 4}
    assert alive


def test_a_lane_that_diverges_keeps_its_last_good_state(dataset, middle):
    _, states, _ = middle
    config = dataclasses.replace(CONFIG, explode_at=START + 2)
    state, alive, _, firsts = _run(dataset, middle, config, freeze=True)
    np.testing.assert_allclose(state.weights, states[2].weights, rtol=1e-5)
    assert state.step == START + 2
    assert not alive
    assert firsts == {"loss": 2, "weight_norm": 4, STATE: 4}
    config = dataclasses.replace(CONFIG, spoil_at=START + 1)
    state, alive, _, firsts = _run(dataset, middle, config, freeze=True)
    np.testing.assert_allclose(state.weights, states[1].weights, rtol=1e-5)
    assert not alive
    assert firsts[STATE] == 1
    state, alive, *_ = _run(dataset, middle, alive=False, freeze=True)
    np.testing.assert_array_equal(state.weights, states[0].weights)  # it had failed before
    assert not alive


def test_lanes_begin_from_their_own_seeds_and_three_keys(dataset):
    configs, lanes = expand(CONFIG, seeds=2, seed=4)
    shared = Shared(dataset, None, 0.5)
    learners, sampling_keys = init_lanes(linear_regression, configs, lanes, shared, 8)
    for i, seed in enumerate((4, 5)):
        init_key, sampling_key, example_key = jax.random.split(jax.random.key(seed), 3)
        batch = data.sample(dataset, example_key, 8, SPEC)
        expected = linear_regression.init(CONFIG, init_key, batch)
        np.testing.assert_allclose(learners.state.weights[i], expected.weights, rtol=1e-6)
        found = jax.random.key_data(sampling_keys)[i]
        np.testing.assert_array_equal(found, jax.random.key_data(sampling_key))


def test_the_step_of_a_failure_counts_mini_batches():
    lanes = [Lane(0), Lane(1), Lane(2)]
    failures = Failures(lanes)
    new = failures.add_updates(
        {"loss": np.array([4, 2, 1]), STATE: np.array([4, 2, 0])}, 4, step=20, minibatches=3
    )
    assert new == [2, 1]
    assert failures.sentence(1) == "loss of seed 1 is not finite at gradient step 29"
    assert failures.sentence(2) == "state of seed 2 is not finite at gradient step 23"
    np.testing.assert_array_equal(failures.alive, [True, False, False])
    assert failures.add_updates({"loss": np.array([4, 0, 0])}, 4, 32, 3) == []


# Evaluations.


def _act(config, state, observation, key, policy_state=(), *, deterministic=False):
    action = observation @ state.weights
    return action if deterministic else action + jax.random.normal(key, action.shape), policy_state


# The tiny algorithm with a policy that samples.
SAMPLING = types.SimpleNamespace(**{**vars(linear_regression), "act": _act, "__name__": "sampling"})


@pytest.mark.parametrize("deterministic", [True, False])
def test_every_evaluation_meets_new_episodes_and_acts_as_asked(dataset, tmp_path, deterministic):
    # Nothing is learned: what differs between evaluations is their seed.
    config = linear_regression.Config(learning_rate=0.0, noise=0.0)
    dataset = data.normalize(dataset, observations="standardize")
    options = tiny.make_options(
        tmp_path, num_updates=8, seeds=2, eval_seed=100, deterministic_eval=deterministic
    )
    result = train(SAMPLING, config, dataset, tiny.Target(), options)
    saved = load_policy(tmp_path, SAMPLING, lane=None)
    for policy in (result.policy, saved):
        chex.assert_trees_all_equal(policy.normalization, dataset.normalization)
    history = read_metrics(tmp_path / "metrics.csv", [Lane(0), Lane(1)])
    evaluate = functools.partial(
        evaluation.evaluate, result.policy, tiny.Target(), num_episodes=3,
        deterministic=deterministic,
    )  # fmt: skip
    assert sorted(history[report.RETURN]) == [0, 4, 8]
    for step, found in history[report.RETURN].items():
        expected = evaluate(seed=100 + step).returns.mean(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.ptp([values[0] for values in history[report.RETURN].values()]) > 1e-3


def test_scores_are_means_over_episodes_and_the_best_has_its_step():
    result = evaluation.EvaluationResult(
        returns=np.array([[1.0, 3.0, 8.0], [0.0, 0.0, 6.0]]),
        lengths=np.array([[1, 2, 6], [5, 5, 5]]),
        successes=np.array([[True, False, False], [True, True, False]]),
    )
    metrics = report.score_metrics(result, (2.0, 10.0))
    np.testing.assert_allclose(metrics[report.RETURN], [4.0, 2.0])
    np.testing.assert_allclose(metrics["evaluation/return_std"], [np.std([1, 3, 8]), np.sqrt(8.0)])
    np.testing.assert_allclose(metrics["evaluation/length"], [3.0, 5.0])
    np.testing.assert_allclose(metrics[report.NORMALIZED], [25.0, 0.0])
    np.testing.assert_allclose(metrics[report.SUCCESS], [1 / 3, 2 / 3])
    curve = {2: [1.0, 9.0], 5: [8.0, 3.0], 6: [4.0, 5.0], 10: [6.0, 4.0]}
    history = {report.RETURN: {step: np.array(values) for step, values in curve.items()}}
    history[report.SUCCESS] = {2: np.zeros(2), 10: np.array([0.25, 0.75])}
    summary = report.summarize_scores(history, [Lane(0), Lane(1)])
    first, second = summary["lanes"]
    assert (first["last"], first["best"], first["best_step"]) == (6.0, 8.0, 5)
    assert (second["last"], second["best"], second["best_step"]) == (4.0, 9.0, 2)
    assert first["second_half"] == pytest.approx(6.0)  # steps 5, 6 and 10
    assert second["success_rate"] == 0.75
    assert summary["points"][0]["mean"] == 5.0
    assert summary["last_step"] == 10
