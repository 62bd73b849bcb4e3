from __future__ import annotations

import csv
import dataclasses
import json
import logging
import sys
import types
import warnings

import chex
import jax
import linear_regression
import numpy as np
import pytest
import tiny

import ddm
from ddm.errors import DivergenceError, EvaluationError, InputError, MissingDependencyError
from ddm.runner import load_policy, train
from ddm.types import Box


def read_rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def values(folder, metric, **where):
    """[(step, value)] of the rows with these labels."""
    return [
        (int(row["step"]), float(row["value"]))
        for row in read_rows(folder)
        if row["metric"] == metric and all(row[key] == str(value) for key, value in where.items())
    ]


@pytest.fixture(scope="module")
def swept(run, tmp_path_factory):
    """Two learning rates times two seeds, with evaluation and plots."""
    folder = tmp_path_factory.mktemp("swept")
    options = {"sweep": ("learning_rate=0.1,0.5",), "seeds": 2, "seed": 3, "plots": True}
    return folder, run(folder, environment=tiny.Target(), **options)


def test_the_logged_policy_is_found(run, tmp_path):
    config = linear_regression.Config(learning_rate=0.5, noise=0.0)
    result = run(tmp_path, config=config, num_updates=200, log_every=100, eval_every=0)
    np.testing.assert_allclose(result.policy.state.weights[0], tiny.WEIGHTS, atol=1e-3)
    assert result.policy.state.step.tolist() == [200]


def test_a_lane_equals_a_run_of_its_own(run, swept, tmp_path):
    folder, result = swept
    config = linear_regression.Config(learning_rate=0.5)
    alone = run(tmp_path, config=config, environment=tiny.Target(), seed=4)
    np.testing.assert_array_equal(alone.policy.state.weights[0], result.policy.state.weights[3])
    for metric, steps in (("loss", [4, 8, 12]), ("evaluation/return", [0, 4, 8, 12])):
        expected = values(tmp_path, metric, seed=4)
        assert values(folder, metric, seed=4, learning_rate=0.5) == expected
        assert [step for step, _ in expected] == steps


def test_metrics_are_means_over_the_interval(dataset, run, tmp_path):
    result = run(tmp_path / "each", log_every=1, num_updates=4, checkpoint_every=0)
    run(tmp_path / "four", num_updates=4)
    each = [value for _, value in values(tmp_path / "each", "loss")]
    assert len(each) == 4
    assert values(tmp_path / "four", "loss") == [(4, pytest.approx(np.mean(each), rel=1e-6))]
    assert result.summary["gradient_steps"] == 4


def test_vmapped_lanes_equal_sequential_ones(run, swept, tmp_path):
    _, result = swept
    options = {"sweep": ("learning_rate=0.1,0.5",), "seeds": 2, "seed": 3, "lanes": "vmap"}
    vmapped = run(tmp_path, **options)
    np.testing.assert_allclose(
        vmapped.policy.state.weights, result.policy.state.weights, rtol=1e-5, atol=1e-6
    )


def test_one_compilation_over_three_intervals(run, tmp_path, caplog):
    with caplog.at_level(logging.DEBUG, logger="jax"), jax.log_compiles():
        run(tmp_path, seeds=2, batch_size=9)
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]
    assert sum("train_lanes" in message for message in compiled) == 1, compiled


def test_an_update_of_several_minibatches_counts_its_gradient_steps(run, tmp_path):
    config = linear_regression.Config(minibatches=2)
    result = run(tmp_path, config=config)
    assert result.policy.state.step.tolist() == [12]
    assert [step for step, _ in values(tmp_path, "loss")] == [4, 8, 12]


def test_summary(swept):
    folder, result = swept
    summary = json.loads((folder / "summary.json").read_text())
    assert summary == json.loads(json.dumps(result.summary))
    assert summary["config"]["learning_rate"] == 0.1
    assert summary["options"]["sweep"] == ["learning_rate=0.1,0.5"]
    assert summary["environment"] == "Target"
    assert summary["versions"]["jax"] == jax.__version__
    assert summary["updates_per_second"] > 0
    assert summary["compile_seconds"] >= 0
    score = summary["score"]
    assert (score["metric"], score["headline"], score["last_step"]) == (
        "normalized_score",
        "last",
        12,
    )
    assert [point["learning_rate"] for point in score["points"]] == [0.1, 0.5]
    last = [score["lanes"][i]["last"] for i in (2, 3)]
    assert score["points"][1]["mean"] == pytest.approx(np.mean(last))
    low, high = score["points"][1]["mean_interval"]
    assert min(last) <= low <= np.mean(last) <= high <= max(last)
    for i, lane in enumerate(score["lanes"]):
        label = {"seed": lane["seed"], "learning_rate": lane["learning_rate"]}
        curve = values(folder, "evaluation/normalized_score", **label)
        assert lane["last"] == pytest.approx(curve[-1][1], rel=1e-6), i
        assert lane["best"] == pytest.approx(max(value for _, value in curve), rel=1e-6)
        late = [value for step, value in curve if step >= 6]
        assert 0 < len(late) < len(curve)
        assert lane["second_half"] == pytest.approx(np.mean(late), rel=1e-6)


def test_the_score_is_a_percentage_of_the_references(swept):
    folder, _ = swept
    returns = values(folder, "evaluation/return", seed=3, learning_rate=0.1)
    scores = values(folder, "evaluation/normalized_score", seed=3, learning_rate=0.1)
    assert [score for _, score in scores] == pytest.approx([10 * value for _, value in returns])


def test_plots_are_pictures(swept):
    folder, _ = swept
    content = (folder / "curves.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000


def test_without_an_environment_there_is_no_score(run, tmp_path, capsys):
    result = run(tmp_path, progress="plain")
    assert result.summary["score"] is None
    assert json.loads((tmp_path / "summary.json").read_text())["score"] is None
    assert "no environment: this run has no score" in capsys.readouterr().err
    assert {row["metric"] for row in read_rows(tmp_path)} == {"loss", "weight_norm"}


def test_what_the_algorithm_says_is_amiss_is_shown_and_kept(run, tmp_path, capsys):
    options = {"sweep": ("learning_rate=0,0.5",), "progress": "plain"}
    result = run(tmp_path, **options)
    [(lane, [sentence])] = result.summary["warnings"].items()
    assert lane == "seed 0 learning_rate=0"
    assert sentence.startswith("learning_rate is 0 and the loss stays at ")
    shown = capsys.readouterr()
    assert f"warning at gradient step 12, {lane}: {sentence}" in shown.out + shown.err
    assert json.loads((tmp_path / "summary.json").read_text())["warnings"] == {lane: [sentence]}


def test_divergence_names_lane_metric_and_step(run, tmp_path):
    with pytest.raises(DivergenceError) as error:
        run(tmp_path, config=linear_regression.Config(explode_at=6))
    assert str(error.value) == (
        "loss of seed 0 is not finite at gradient step 7; the last checkpoint is of step 4"
    )
    assert (tmp_path / "checkpoints" / "4").is_dir()
    assert not (tmp_path / "checkpoints" / "8").exists()
    assert {int(row["step"]) for row in read_rows(tmp_path)} == {4}


@pytest.mark.parametrize("lanes", ["vmap", "sequential"])
def test_a_lane_that_diverges_does_not_end_the_others(run, tmp_path, lanes):
    alone = run(tmp_path / "alone", environment=tiny.Target(), seeds=1, lanes=lanes)
    both = run(
        tmp_path / "both", environment=tiny.Target(), sweep=("explode_at=6,-1",), lanes=lanes
    )
    sentence = "loss of seed 0 explode_at=6 is not finite at gradient step 7"
    assert both.summary["failed"] == {"seed 0 explode_at=6": sentence}
    assert both.exit_code == 3
    assert alone.exit_code == 0
    # The good lane is the run of its own; the bad one stands where it was before its step 7.
    np.testing.assert_allclose(
        both.policy.state.weights[1], alone.policy.state.weights[0], rtol=1e-5
    )
    assert both.policy.state.step.tolist() == [6, 12]
    assert np.isfinite(both.policy.state.weights).all()
    bad, good = both.summary["score"]["lanes"]
    assert bad == {"seed": 0, "explode_at": 6, "failed": True}
    assert good["last"] == pytest.approx(alone.summary["score"]["lanes"][0]["last"], rel=1e-5)
    steps = [int(row["step"]) for row in read_rows(tmp_path / "both") if row["explode_at"] == "6"]
    assert max(steps) == 4
    json.loads((tmp_path / "both" / "summary.json").read_text())


def test_a_state_that_spoils_before_a_metric_shows_it_is_a_divergence(run, tmp_path):
    # The second update leaves NaN behind its finite metrics.
    message = "state of seed 0 is not finite at gradient step 4; there is no checkpoint yet"
    with pytest.raises(DivergenceError, match=message):
        run(tmp_path / "one", config=linear_regression.Config(spoil_at=3))
    result = run(tmp_path / "two", sweep=("spoil_at=1,-1",))
    sentence = "state of seed 0 spoil_at=1 is not finite at gradient step 2"
    assert result.summary["failed"] == {"seed 0 spoil_at=1": sentence}
    assert result.policy.state.step.tolist() == [1, 12]
    assert np.isfinite(result.policy.state.weights).all()
    with pytest.warns(UserWarning, match=f"{sentence}; its policy is the last one before that"):
        load_policy(tmp_path / "two", linear_regression, lane=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_policy(tmp_path / "two", linear_regression, lane=1)


class _Scores:
    """An evaluator whose score of the first lane is not finite from gradient step 8 on."""

    def __init__(self, inner):
        self._inner = inner
        self.check, self.close = inner.check, inner.close

    def __call__(self, policy, seed):
        result = self._inner(policy, seed)
        if seed >= 1008:
            result.returns[0] = np.nan
        return result


def test_a_score_that_is_not_finite_stops_its_lane(run, tmp_path, monkeypatch):
    from ddm import evaluation

    make = evaluation.make_evaluator
    broken = lambda *args, **more: _Scores(make(*args, **more))  # noqa: E731
    monkeypatch.setattr(evaluation, "make_evaluator", broken)
    result = run(tmp_path / "two", seeds=2, environment=tiny.Target(), plots=True)
    sentence = "evaluation/return of seed 0 is not finite at gradient step 8"
    assert result.summary["failed"] == {"seed 0": sentence}
    assert result.policy.state.step.tolist() == [8, 12]
    assert values(tmp_path / "two", "evaluation/return", seed=0)[-1][0] == 4
    text = (tmp_path / "two" / "summary.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
    with pytest.raises(DivergenceError, match="is not finite at gradient step 8; the last check"):
        run(tmp_path / "one", environment=tiny.Target())


@pytest.mark.parametrize("metric", ["explode_at=6,-1", "spoil_at=5,-1"])
def test_a_diverged_lane_stays_so_after_a_resume(run, tmp_path, metric):
    options = {"sweep": (metric,), "environment": tiny.Target()}
    whole = run(tmp_path / "whole", **options)
    run(tmp_path / "parts", num_updates=8, **options)
    parts = run(tmp_path / "parts", resume=True, **options)
    assert parts.summary["failed"] == whole.summary["failed"]
    chex.assert_trees_all_equal(parts.policy.state.weights, whole.policy.state.weights)
    assert read_rows(tmp_path / "parts") == read_rows(tmp_path / "whole")


def test_what_cannot_be_evaluated_is_found_before_the_first_update(run, tmp_path):
    class Wide(tiny.Target):
        def action_space(self, params):
            return Box((1,), (-2.0,), (2.0,))

    with pytest.raises(InputError, match=r"-2, 2.*-1, 1|-1, 1.*-2, 2"):
        run(tmp_path / "run", environment=Wide())
    assert not (tmp_path / "run").exists()


class _Failing:
    """An evaluator that fails at the evaluations of these seeds."""

    def __init__(self, inner, seeds):
        self._inner, self._seeds = inner, seeds
        self.check, self.close = inner.check, inner.close

    def __call__(self, policy, seed):
        if seed in self._seeds:
            raise EvaluationError("Target failed in step 3: no more memory")
        return self._inner(policy, seed)


def test_a_failed_evaluation_loses_nothing(run, tmp_path, monkeypatch):
    from ddm import evaluation

    make = evaluation.make_evaluator
    options = {"environment": tiny.Target()}
    run(tmp_path / "whole", **options)
    broken = lambda *args, **more: _Failing(make(*args, **more), {1008})  # noqa: E731
    monkeypatch.setattr(evaluation, "make_evaluator", broken)
    with pytest.raises(EvaluationError, match="checkpoint of step 8 is written, --resume goes on"):
        run(tmp_path / "stop", **options)
    going_on = run(tmp_path / "on", on_evaluation_error="continue", **options)
    assert going_on.summary["failed_evaluations"] == {
        "8": "Target failed in step 3: no more memory"
    }
    assert going_on.summary["gradient_steps"] == 12
    monkeypatch.setattr(evaluation, "make_evaluator", make)
    run(tmp_path / "stop", resume=True, **options)
    assert read_rows(tmp_path / "stop") == read_rows(tmp_path / "whole")


def test_a_run_may_go_on_without_its_environment(dataset, run, tmp_path):
    run(tmp_path, environment=tiny.Target(), num_updates=8)
    options = tiny.make_options(tmp_path, resume=True, environment="none")
    config = linear_regression.Config()
    result = train(linear_regression, config, dataset, None, options)
    assert result.summary["gradient_steps"] == 12
    assert result.summary["score"]["last_step"] == 8


def test_a_run_says_where_its_scores_end_and_begin(run, tmp_path, capsys):
    run(tmp_path, num_updates=4)
    options = {"num_updates": 8, "resume": True, "max_episode_steps": 3, "progress": "plain"}
    run(tmp_path, environment=tiny.Target(), **options)
    said = "this run had no environment so far: its scores begin here, in Target"
    assert said in capsys.readouterr().err
    assert min(step for step, _ in values(tmp_path, "evaluation/return")) == 4
    run(tmp_path, resume=True, progress="plain")
    assert "was scored in Target so far: its scores end here" in capsys.readouterr().err
    run(tmp_path / "other", environment=tiny.Target(), num_updates=4)
    with pytest.raises(InputError, match="was run with environment=Target, not Other"):
        run(tmp_path / "other", environment=tiny.Target("Other"), resume=True)


def test_a_run_that_goes_on_keeps_its_first_start(run, tmp_path):
    first = run(tmp_path, num_updates=8).summary
    again = run(tmp_path, resume=True).summary
    assert "resumed" not in first
    assert again["started"] == first["started"]
    assert [set(start) for start in again["resumed"]] == [
        {"command", "host", "started", "versions", "commit", "numerics"}
    ]
    assert json.loads((tmp_path / "config.json").read_text())["resumed"] == again["resumed"]


def test_infinite_hyper_parameters_leave_valid_json(run, tmp_path):
    config = linear_regression.Config(noise=0.5, largest=float("inf"))
    run(tmp_path, config=config)
    for name in ("config.json", "summary.json"):
        record = json.loads((tmp_path / name).read_text(), parse_constant=pytest.fail)
        assert record["config"]["largest"] == "inf"
    assert load_policy(tmp_path, linear_regression).config.largest == np.inf


def test_other_arrays_of_the_same_name_and_size_are_not_gone_on_with(run, dataset, tmp_path):
    run(tmp_path)
    other = dataclasses.replace(dataset, rewards=dataset.rewards + 1)
    with pytest.raises(InputError, match="was run with dataset digest="):
        train(
            linear_regression, linear_regression.Config(), other, None,
            tiny.make_options(tmp_path, resume=True),
        )  # fmt: skip


def test_an_update_that_is_replaced_is_the_one_that_runs(run, tmp_path, monkeypatch):
    before = run(tmp_path / "before")
    update = linear_regression.update

    def stands_still(config, state, batch):
        after, metrics = update(config, state, batch)
        return after.replace(weights=state.weights), metrics

    monkeypatch.setattr(linear_regression, "update", stands_still)
    after = run(tmp_path / "after")
    assert np.abs(after.policy.state.weights - before.policy.state.weights).max() > 0.1


def test_an_algorithm_may_be_an_instance_without_a_hash(dataset, run, tmp_path):
    functions = {name: value for name, value in vars(linear_regression).items() if name[0] != "_"}
    algorithm = types.SimpleNamespace(**functions)
    options = tiny.make_options(tmp_path / "instance")
    result = train(algorithm, linear_regression.Config(), dataset, tiny.Target(), options)
    expected = run(tmp_path / "module", environment=tiny.Target())
    np.testing.assert_array_equal(result.policy.state.weights, expected.policy.state.weights)
    assert result.summary["algorithm"] == "SimpleNamespace"
    assert load_policy(tmp_path / "instance", algorithm).state.step == 12


def test_the_policy_of_one_seed_acts(run, tmp_path):
    observation, key = np.asarray([0.3, -0.2], np.float32), jax.random.key(0)
    policy = run(tmp_path).policy
    action, _ = policy(observation, key)
    np.testing.assert_array_equal(
        action, load_policy(tmp_path, linear_regression)(observation, key)[0]
    )


def test_schedules_end_with_the_run_that_they_began_with(dataset, tmp_path, capsys):
    def resolve(config, num_updates):
        return config.replace(noise=1.0 / num_updates) if config.noise == 0.0 else config

    algorithm = types.SimpleNamespace(**vars(linear_regression), resolve=resolve)
    config = linear_regression.Config(noise=0.0)

    def run(**options):
        options = tiny.make_options(tmp_path, progress="plain", **options)
        return train(algorithm, config, dataset, None, options)

    assert run(num_updates=8).policy.config.noise == np.float32(1 / 8)
    assert "schedules end" not in capsys.readouterr().err
    longer = run(resume=True)
    assert longer.summary["config"]["noise"] == 1 / 8
    assert longer.policy.config.noise == np.float32(1 / 8)
    assert "schedules end at gradient step 8, as the run began with" in capsys.readouterr().err
    assert load_policy(tmp_path, algorithm).config.noise == np.float32(1 / 8)
    assert load_policy(tmp_path, algorithm, config=config).config.noise == np.float32(1 / 8)


def test_a_log_without_rewards_is_imitated_and_scored(dataset, tmp_path, capsys):
    info = dataclasses.replace(dataset.info, has_rewards=False, notes=("the log has no rewards",))
    options = tiny.make_options(tmp_path, progress="plain")
    log = dataclasses.replace(dataset, info=info)
    result = train(linear_regression, linear_regression.Config(), log, tiny.Target(), options)
    assert result.summary["score"]["metric"] == "normalized_score"
    assert result.summary["dataset"]["notes"] == ["the log has no rewards"]
    assert capsys.readouterr().err.count("the log has no rewards\n") == 1


def test_without_its_package_tensorboard_leaves_no_folder(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingDependencyError, match="--tensorboard needs tensorboardX"):
        run(tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_the_record_says_what_was_done_to_the_data(run, tmp_path):
    summary = run(tmp_path, environment=tiny.Target()).summary
    assert summary["dataset"]["action_space"]["type"] == "Box"
    assert summary["dataset"]["moved_actions"] == 0
    assert len(summary["dataset"]["digest"]) == 64
    assert summary["versions"]["ddm"] == ddm.__version__
    assert {"command", "host", "started", "commit"} <= set(summary)


def test_untrained_policies_are_evaluated_and_episodes_have_a_spread(run, tmp_path):
    run(tmp_path / "with", environment=tiny.Target())
    rows = {(int(row["step"]), row["metric"]) for row in read_rows(tmp_path / "with")}
    assert {(0, "evaluation/return"), (0, "evaluation/return_std")} <= rows
    run(tmp_path / "without", environment=tiny.Target(), eval_at_start=False)
    assert min(int(row["step"]) for row in read_rows(tmp_path / "without")) == 4


def test_a_folder_with_a_run_is_not_overwritten(run, swept):
    folder, _ = swept
    with pytest.raises(InputError, match="already holds a run: add --resume"):
        run(folder)


def test_the_dataset_is_an_argument_of_the_program(dataset):
    from ddm.runner.program import init_lanes, make_interval
    from ddm.runner.sources import Shared
    from ddm.runner.sweep import expand

    configs, lanes = expand(linear_regression.Config())
    shared = Shared(dataset, None, 0.5)
    learner, keys = init_lanes(linear_regression, configs, lanes, shared, 8)
    config, learner, key = jax.tree.map(lambda x: x[0], (configs, learner, keys))
    interval = make_interval(linear_regression, 8, 2)
    program = jax.make_jaxpr(interval)(config, (learner, True), key, shared)
    assert max((np.size(constant) for constant in program.consts), default=0) <= 1


def test_an_environment_that_is_registered_by_its_class_is_recorded(dataset):
    import gymnasium

    from ddm.envs.gym import GymnasiumFace
    from ddm.evaluation import make_environment
    from ddm.runner.records import describe_run
    from ddm.runner.sources import Shared

    gymnasium.register("ByClass-v0", GymnasiumFace, kwargs={"environment": tiny.Target()})
    try:
        environment = make_environment("ByClass-v0")
        options = tiny.make_options("unused")
        shared = Shared(dataset, None, 0.5)
        record = describe_run(
            linear_regression, linear_regression.Config(), shared, environment, options
        )
    finally:
        del gymnasium.registry["ByClass-v0"]
    assert "ByClass-v0" in record["environment_spec"]
