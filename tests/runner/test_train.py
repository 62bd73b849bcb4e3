from __future__ import annotations

import csv
import json
import logging

import jax
import linear_regression
import numpy as np
import pytest
import tiny

from ddm.errors import DivergenceError, InputError


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
    for metric in ("loss", "evaluation/return"):
        expected = values(tmp_path, metric, seed=4)
        assert values(folder, metric, seed=4, learning_rate=0.5) == expected
        assert [step for step, _ in expected] == [4, 8, 12]


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
        run(tmp_path, sweep=("explode_at=-1,6",), seeds=2)
    assert str(error.value) == (
        "loss of seed 0 explode_at=6 is not finite at gradient step 7; "
        "the last checkpoint is of step 4"
    )
    assert (tmp_path / "checkpoints" / "4").is_dir()
    assert not (tmp_path / "checkpoints" / "8").exists()
    assert {int(row["step"]) for row in read_rows(tmp_path)} == {4}


def test_a_folder_with_a_run_is_not_overwritten(run, swept):
    folder, _ = swept
    with pytest.raises(InputError, match="already holds a run: add --resume"):
        run(folder)


def test_the_dataset_is_an_argument_of_the_program(dataset):
    from ddm.runner.program import init_lanes, make_interval
    from ddm.runner.sweep import expand

    configs, lanes = expand(linear_regression.Config())
    spec = linear_regression.batch_spec(configs)
    state, keys = init_lanes(linear_regression, configs, lanes, dataset, 8)
    one = jax.tree.map(lambda x: x[0], (configs, state, keys))
    interval = make_interval(linear_regression, spec, 8, 2)
    program = jax.make_jaxpr(interval)(*one, dataset)
    assert max((np.size(constant) for constant in program.consts), default=0) <= 1
