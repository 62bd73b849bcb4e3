"""The numbers of the report against their definitions, and what they say of a small ensemble."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ddm
from ddm import data
from ddm.errors import InputError
from ddm.model_based import dynamics
from ddm.model_based.parts import calibration, members
from ddm.model_based.parts.report import report
from ddm.model_based.parts.uncertainty import UNCERTAINTIES

RANDOM = np.random.default_rng(0)


# On arrays.


def test_errors_and_explained_variance_by_hand():
    targets = np.array([[0.0, 1.0, 5.0], [2.0, 3.0, 5.0]])
    errors = np.array([[1.0, 0.0, 0.0], [-1.0, 2.0, 3.0]])
    found = calibration.root_mean_square(errors)
    np.testing.assert_allclose(found, [1.0, 2.0**0.5, 4.5**0.5])
    found = calibration.explained_variance(errors, targets)
    np.testing.assert_allclose(found, [0.0, -1.0, 0.0])  # the last target does not vary
    found = calibration.explained_variance(0.0 * errors, targets)
    np.testing.assert_allclose(found, [1.0, 1.0, 0.0])


def test_intervals_of_gaussians_hold_what_they_promise():
    means, stds = RANDOM.normal(size=(2, 4_000, 3)), RANDOM.uniform(0.5, 2.0, (2, 4_000, 3))
    targets = means[0] + stds[0] * RANDOM.normal(size=(4_000, 3))
    right, wrong = calibration.quantiles_of(means, stds, targets)
    np.testing.assert_allclose(calibration.coverage(right), calibration.LEVELS, atol=0.01)
    assert calibration.coverage(wrong)[2] < 0.8
    for level, share in zip(calibration.LEVELS, calibration.coverage(right), strict=True):
        low, high = stats.norm.interval(level, means[0], stds[0])
        assert share == pytest.approx(np.mean((low <= targets) & (targets <= high)), abs=1e-9)
    narrow = calibration.quantiles_of(means[:1], 0.5 * stds[:1], targets)
    expected = stats.norm.cdf(0.5 * stats.norm.ppf(0.95)) * 2 - 1
    assert calibration.coverage(narrow)[2] == pytest.approx(expected, abs=0.01)


def test_the_mixture_has_intervals_of_its_own():
    means = np.array([-5.0, 5.0])[:, None, None] * np.ones((1, 2_000, 1))
    side = RANDOM.choice([-5.0, 5.0], (2_000, 1))
    quantiles = calibration.quantiles_of(
        means, np.ones_like(means), side + RANDOM.normal(size=side.shape)
    )
    np.testing.assert_allclose(calibration.coverage(quantiles.mean(axis=0)), calibration.LEVELS,
                               atol=0.03)  # fmt: skip
    assert (calibration.coverage(quantiles) < 0.5).all()  # each member misses half


def test_ranks_against_loops():
    inside, outside = RANDOM.integers(0, 6, 30), RANDOM.integers(2, 9, 20)
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(outside, inside)]
    assert calibration.auroc(inside, outside) == pytest.approx(np.mean(pairs))
    assert calibration.auroc(np.zeros(3), np.ones(5)) == 1.0
    assert calibration.auroc(np.ones(3), np.zeros(5)) == 0.0
    values, errors = RANDOM.integers(0, 6, 40), RANDOM.normal(size=40)
    expected = stats.spearmanr(values, errors)[0]
    assert calibration.rank_correlation(values, errors) == pytest.approx(expected)
    assert calibration.rank_correlation(errors, np.exp(errors)) == pytest.approx(1.0)
    assert calibration.rank_correlation(np.ones(40), errors) == 0.0


def test_chunks_change_nothing():
    values = jnp.arange(14.0).reshape(7, 2)
    double = lambda x: {"twice": 2.0 * x, "sum": x.sum(axis=-1)}  # noqa: E731
    for size in (1, 3, 7, 100):
        found = calibration.in_chunks(double, size, values)
        np.testing.assert_array_equal(found["twice"], 2.0 * values)
        np.testing.assert_array_equal(found["sum"], values.sum(axis=-1))


# Of a model.


def _log(lengths=(3, 6, 2), std=1.0):
    """Positions that move by the action; the observation is scaled by `std` in the log's units."""
    episodes = []
    for number, steps in enumerate(lengths):
        actions = np.full((steps, 1), 0.5 + 0.1 * number, np.float32)
        observations = np.concatenate([[0.0], np.cumsum(actions)])[:, None] + 100.0 * number
        episodes.append(
            {
                "observations": observations.astype(np.float32), "actions": actions,
                "rewards": np.arange(steps, dtype=np.float32),
                "terminations": np.zeros(steps, bool), "truncations": np.arange(steps) == steps - 1,
            }
        )  # fmt: skip
    return data.from_episodes(episodes, action_space=(-np.ones(1), np.ones(1)))


def test_windows_stay_in_one_episode():
    log = _log()
    observations, actions = calibration.windows(log, 3, 100)
    assert observations.shape == (5, 4, 1)  # one of the first episode, four of the second
    np.testing.assert_allclose(np.diff(observations, axis=1), actions, rtol=1e-4, atol=1e-4)
    assert (np.ptp(observations[..., 0], axis=1) < 50.0).all()
    observations, _ = calibration.windows(log, 1, 4, seed=1)
    assert observations.shape == (4, 2, 1)
    for horizon in (0, 7):
        with pytest.raises(InputError, match=f"horizon is {horizon}, expected at least 1 and at m"):
            calibration.windows(log, horizon, 10)


@pytest.fixture(scope="module")
def mover():
    """A model of three members, whose means are those of linear layers that we choose."""
    log = _log((12, 12))
    config = dynamics.Config(
        model_hidden_sizes=(4,), model_weight_decay=(0.0,), num_members=3, num_elites=2,
        termination="never", observation_mean=(1.0,), observation_std=(2.0,), reward_unit=4.0,
    )  # fmt: skip
    batch = data.sample(log, jax.random.key(0), 4, dynamics.batch_spec(config))
    state = dynamics.init(config, jax.random.key(0), batch)
    params = jax.tree.map(jnp.zeros_like, state.params)
    bias = params["params"]["perceptron"]["output"]["bias"]  # reward and change of each member
    bias = bias.at[:, :2].set(jnp.array([[8.0, 1.0], [16.0, 3.0], [90.0, 90.0]]))
    params["params"]["perceptron"]["output"]["bias"] = bias
    return config, state.replace(params=params, holdout_errors=jnp.array([0.1, 0.2, 0.9]))


def test_predictions_are_in_the_environments_units(mover):
    config, state = mover
    observations, actions = np.array([[0.0], [5.0], [7.0]], np.float32), np.zeros((3, 1))
    for chunk in (2, 100):
        found = calibration.predict(config, state, observations, actions, chunk)
        # Rewards over four; observations in the log move by 1 or 3, which is 2 or 6.
        np.testing.assert_allclose(found.means[:, 0], [[2.0, 3.0], [4.0, 7.0]], rtol=1e-5)
        np.testing.assert_allclose(found.mean[:, 1], [5.0, 15.0, 19.0], rtol=1e-5)
        np.testing.assert_allclose(found.uncertainties["max_disagreement"], [178.0] * 3, rtol=1e-5)
        ratio = found.stds[..., 1:] / found.stds[..., :1]
        np.testing.assert_allclose(ratio, np.full((2, 3, 1), 8.0), rtol=1e-4)
    targets = calibration.targets_of(config, np.array([8.0]), np.array([[2.0]]))
    np.testing.assert_allclose(targets, [[2.0, 5.0]])


def test_the_open_loop_by_hand(mover):
    config, state = mover
    observations = np.zeros((3, 3, 1), np.float32)
    observations[1] = 2.0  # nothing moves in the log, in the model all do by 2: 4 a step
    for chunk in (2, 100):
        found = calibration.open_loop_errors(
            config, state, observations, np.zeros((3, 2, 1)), chunk
        )
        np.testing.assert_allclose(found, [[4.0], [8.0]], rtol=1e-5)


@pytest.fixture(scope="module")
def sanity():
    """Noise that is the same everywhere, and data in one half of the square."""
    random, count = np.random.default_rng(0), 5_000

    def draw(low, high, rows):
        states, actions = random.uniform(-1, 1, (rows, 2)), random.uniform(-0.5, 0.5, (rows, 2))
        states[:, 0] = random.uniform(low, high, rows)
        return states.astype(np.float32), actions.astype(np.float32)

    states, actions = draw(-1.0, 0.0, count)
    true = states + 0.1 * actions + 0.05 * np.sin(3.0 * states[:, ::-1])
    following = (true + 0.01 * random.normal(size=true.shape)).astype(np.float32)
    flags = np.ones(count, bool)
    log = data.from_arrays(
        states, actions, -np.linalg.norm(following - 0.5, axis=-1), ~flags, flags, following,
        action_space=(-np.ones(2), np.ones(2)),
    )  # fmt: skip
    log, held = data.hold_out(data.normalize(log), 0.1)
    config = dynamics.Config(
        model_hidden_sizes=(64, 64, 64), model_weight_decay=(1e-5,), num_members=4, num_elites=3
    )
    config = ddm.prepare(dynamics, config, log)
    state, _ = jax.jit(
        lambda key, log: ddm.fit(dynamics, config, log, key, 60 * config.steps_per_epoch)
    )(jax.random.key(0), log)
    far, acted = draw(0.3, 1.0, 500)
    seen = np.asarray(log.normalization.normalize_observations(far))
    return config, state, held, (seen, acted)


def test_the_largest_deviation_does_not_know_where_data_are_missing(sanity):
    config, state, held, outside = sanity
    found = report(config, state, held, horizon=5, outside=outside)
    ranks = found["uncertainties"]
    assert ranks["max_std"]["auroc"] < 0.4
    for name in ("max_disagreement", "max_deviation", "std_of_means"):
        assert ranks[name]["auroc"] > 0.95
    assert min(found["explained"]) > 0.8
    assert len(found["open_loop"]) == 1  # the log's episodes have one step
    assert found["open_loop"][0] < 0.1 < found["no_change"][0]
    assert set(ranks) == set(UNCERTAINTIES)
    for share, level in zip(found["coverage"]["mixture"], found["levels"], strict=True):
        assert abs(share - level) < 0.15
    errors = dynamics.metrics(config, state)
    assert found["holdout_error"] == pytest.approx(float(errors["holdout_error"]))


def test_a_report_on_some_rows_of_regressions(sanity):
    config, state, held, _ = sanity
    found = report(config.replace(probabilistic=False), state, held, count=50, seed=3)
    assert found["coverage"] is None
    assert found["transitions"] == 50
    assert found["uncertainties"]["max_std"] == {"spearman": 0.0, "auroc": 0.5}
    rmse = report(config, state, held, count=10_000)["rmse"]
    rows = np.arange(held.num_transitions)
    batch = data.sample(held, jax.random.key(0), 1, dynamics.batch_spec(config))
    prediction = dynamics.predict(config, state, batch.observations, batch.actions)
    elites = members.elites(config, state.holdout_errors)
    mean = np.asarray(prediction.means)[np.asarray(elites)].mean(axis=0)
    std = np.asarray(held.normalization.observation_std)
    expected = np.sqrt(np.mean(((mean[:, 1:] - batch.next_observations) * std) ** 2, axis=0))
    assert len(rows) == len(mean)
    np.testing.assert_allclose(rmse[1:], expected, rtol=1e-3)
