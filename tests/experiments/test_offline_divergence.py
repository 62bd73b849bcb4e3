"""The figure of offline divergence: its exact example, and a small run of its machinery."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import pytest
import scripts

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "figures"


@pytest.fixture(scope="module")
def figure():
    """The figure's module."""
    with scripts.imported(FOLDER / "offline_divergence.py") as module:
        yield module


@pytest.mark.parametrize(("action", "after_50"), [(0.5, 6.8e12), (0.9, 1.17), (1.0, 0.0061)])
def test_the_exact_example_grows_by_the_published_factor(figure, action, after_50):
    weights = figure.linear_weights(action, 50, rows=1, constrained=False)
    np.testing.assert_allclose(weights[1:] / weights[:-1], 0.99 / action, rtol=1e-6)
    assert weights[-1] == pytest.approx(after_50, rel=0.02)


def test_more_rows_change_nothing_and_the_constraint_contracts(figure):
    few, many = (figure.linear_weights(0.5, 20, rows, constrained=False) for rows in (1, 1000))
    np.testing.assert_allclose(few, many, rtol=1e-9)
    constrained = figure.linear_weights(0.5, 20, 10, constrained=True)
    np.testing.assert_allclose(constrained[1:] / constrained[:-1], 0.99, rtol=1e-9)


def test_values_are_believed_that_are_not_earned(figure):
    episodes = figure.collect("expert", jax.random.key(0), 1000)
    dataset = figure.first_episodes(episodes, 0.5)
    assert dataset.num_transitions == 500
    found = figure.learn("TD3", dataset, 200, seeds=1)
    rows = figure.summarize("TD3", 0.5, 500, found, 200)
    assert [row["step"] for row in rows] == list(range(20, 201, 20))
    assert rows[-1]["transitions"] == 500
    # After so few steps the critic knows next to nothing of what the policy costs.
    assert rows[-1]["gap"] > 50.0
    assert rows[-1]["return"] < -60.0


def test_learners_that_there_are_not_are_refused(figure):
    assert figure.chosen_learners([]) == list(figure.LEARNERS)
    with pytest.raises(figure.InputError, match="--learners=PPO is unknown; choose among SAC"):
        figure.chosen_learners(["SAC", "PPO"])
