from __future__ import annotations

import numpy as np
import pytest

from ddm.errors import InputError
from ddm.evaluation import statistics


def test_interquartile_mean_drops_a_quarter_on_each_side():
    assert statistics.interquartile_mean([0.0, 0.0, 1.0, 1.0]) == 0.5
    # 0..7: the middle half is 2, 3, 4, 5; the outliers do not matter.
    scores = [[-100.0, 4.0], [1.0, 5.0], [2.0, 6.0], [3.0, 900.0]]
    assert statistics.interquartile_mean(scores) == 3.5
    # Five entries: one (5 / 4 rounded down) is dropped on each side.
    assert statistics.interquartile_mean([9.0, 0.0, 1.0, 2.0, 3.0]) == 2.0


def test_interquartile_mean_of_equal_columns_is_the_mean():
    columns = np.tile([[1.0, 2.0, 3.0]], (5, 1)).T
    assert statistics.interquartile_mean(np.full((4, 3), 0.7)) == pytest.approx(0.7)
    assert statistics.interquartile_mean(columns) == pytest.approx(statistics.mean(columns))


def test_interquartile_mean_agrees_with_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    for runs in (1, 2, 3, 5, 10):
        scores = np.random.default_rng(runs).normal(size=(runs, 3))
        expected = scipy_stats.trim_mean(scores, proportiontocut=0.25, axis=None)
        np.testing.assert_allclose(statistics.interquartile_mean(scores), expected)


def test_median_is_over_task_means():
    assert statistics.median([[0.0, 5.0, 7.0], [2.0, 5.0, 9.0]]) == 5.0  # of 1, 5, 8
    assert statistics.median([[0.0, 5.0], [2.0, 5.0]]) == 3.0


def test_optimality_gap_ignores_what_exceeds_the_target():
    assert statistics.optimality_gap([0.5, 1.5, 1.0, 0.0]) == pytest.approx(1.5 / 4)


def test_performance_profile_is_strict():
    profile = statistics.performance_profile([[0.0, 1.0], [2.0, 1.0]], [-1.0, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(profile, [1.0, 0.75, 0.25, 0.0])


def test_probability_of_improvement_counts_ties_half():
    assert statistics.probability_of_improvement([1.0, 3.0], [1.0, 2.0]) == (0.5 + 0 + 1 + 1) / 4
    # Task 1: always better; task 2: never.
    assert statistics.probability_of_improvement([[1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]) == 0.5
    with pytest.raises(InputError, match="tasks"):
        statistics.probability_of_improvement(np.zeros((2, 2)), np.zeros((2, 3)))


def test_statistics_keep_leading_axes():
    scores = np.random.default_rng(0).normal(size=(6, 5, 3))
    functions = (
        statistics.mean,
        statistics.median,
        statistics.interquartile_mean,
        statistics.optimality_gap,
        lambda x: statistics.performance_profile(x, [0.0, 1.0]),
        lambda x: statistics.probability_of_improvement(x, x[..., ::-1, :] + 0.1),
    )
    for function in functions:
        np.testing.assert_allclose(function(scores), [function(x) for x in scores])


def test_bootstrap_resamples_runs_within_tasks():
    # Each task is constant: resampling within tasks leaves the mean alone.
    low, high = statistics.bootstrap_interval(np.tile([0.0, 10.0], (4, 1)), statistics.mean)
    assert low == high == 5.0


def test_bootstrap_is_deterministic_and_depends_on_the_seed():
    scores = np.random.default_rng(0).normal(size=(10, 2))
    first = statistics.bootstrap_interval(scores, repetitions=200)
    assert first == statistics.bootstrap_interval(scores, repetitions=200)
    assert first != statistics.bootstrap_interval(scores, repetitions=200, seed=1)


def test_bootstrap_in_pieces_covers_all_repetitions(monkeypatch):
    sizes = []

    def statistic(scores):
        sizes.append(len(scores))
        return statistics.mean(scores)

    monkeypatch.setattr(statistics, "_MAX_RESAMPLED", 300)
    statistics.bootstrap_interval(np.arange(10.0), statistic, repetitions=70)
    assert sizes == [30, 30, 10]


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        scores = generator.normal(size=(20, 2))
        low, high = statistics.bootstrap_interval(scores, statistics.mean, repetitions=400)
        covered += low <= 0.0 <= high
    assert 0.88 <= covered / 200 <= 0.98  # few runs cover a little too little


def test_bootstrap_of_an_improvement_and_of_a_profile():
    generator = np.random.default_rng(0)
    better, worse = generator.normal(1.0, 1.0, (10, 1)), generator.normal(0.0, 1.0, (8, 1))
    improvement = statistics.probability_of_improvement
    low, high = statistics.bootstrap_interval(better, improvement, others=worse)
    assert 0.5 < low < improvement(better, worse) <= high <= 1.0

    def profile(scores):
        return statistics.performance_profile(scores, [0.0, 1.0, 2.0])

    low, high = statistics.bootstrap_interval(better, profile, repetitions=100)
    assert low.shape == high.shape == (3,)
    assert (low <= profile(better)).all()
    assert (profile(better) <= high).all()


@pytest.mark.parametrize("scores", [[], np.zeros((2, 2, 2)), np.zeros((0, 3))])
def test_bootstrap_refuses_other_shapes(scores):
    with pytest.raises(InputError, match="expected"):
        statistics.bootstrap_interval(scores)


def test_wilson_interval_known_numbers():
    # Newcombe (1998), Statistics in Medicine 17, table I: method 3.
    for successes, trials, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        np.testing.assert_allclose(
            statistics.wilson_interval(successes, trials), (low, high), atol=5e-5
        )


def test_wilson_interval_at_the_ends_and_of_arrays():
    low, high = statistics.wilson_interval([0, 10], [10, 10])
    assert low[0] == 0.0
    assert high[1] == 1.0
    np.testing.assert_allclose(high[0], 1.0 - low[1])
    with pytest.raises(InputError, match="trials"):
        statistics.wilson_interval(3, 2)
