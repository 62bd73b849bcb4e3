"""The mode-averaging table in small: two classes on two branches, and scores of known samples."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

from ddm.envs.fork import Fork

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "figures"


@pytest.fixture(scope="module")
def figure():
    """The figure's module, with flags at their defaults."""
    from absl import flags

    with scripts.imported(FOLDER / "mode_averaging.py") as module:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS(["test"])
        yield module


@pytest.fixture(scope="module")
def rows(figure):
    """Rows of MSE and mixture on the two-dimensional fork, and of the mixture on the bandit."""
    circle = Fork(num_branches=2, num_dimensions=2)
    runs = {
        ("MSE", 2): figure.fit("MSE", circle, 2, 300, 64),
        ("mixture", 2): figure.fit("mixture", circle, 2, 1_200, 64),
        ("mixture", 1): figure.fit("mixture", Fork(), 2, 1_200, 64),
    }
    return runs, {key: figure.measure(trained) for key, trained in runs.items()}


def test_a_squared_error_averages_and_a_mixture_does_not(rows):
    _, table = rows
    mse, mixture, bandit = table["MSE", 2], table["mixture", 2], table["mixture", 1]
    assert mse["valid"] < 0.05
    assert mse["deterministic_valid"] < 0.05
    assert mse["gap"] is None
    assert mixture["valid"] > 0.9
    assert mixture["deterministic_valid"] > 0.9
    assert mixture["balance"] > 0.9
    assert 0.0 < mixture["gap"] < 0.5
    assert mixture["gap_low"] <= mixture["gap"] <= mixture["gap_high"]
    assert mixture["valid_low"] < mixture["valid"] < mixture["valid_high"]
    assert mixture["corridor"] is None
    # Five decisions in a row, each right with about the same probability.
    assert bandit["corridor"] == pytest.approx(bandit["valid"] ** 5, abs=0.06)


def test_branch_balance_by_hand(figure):
    fork = Fork(num_branches=2, num_dimensions=2)
    positions = jnp.repeat(jnp.linspace(-1.0, 1.0, figure.POSITIONS), figure.SAMPLES)[:, None]
    centers = fork.centers(positions)
    one = centers[None, :, 0]
    half = jnp.where((jnp.arange(len(positions)) % 2)[:, None] == 0, *jnp.moveaxis(centers, 1, 0))
    right = np.ones((1, len(positions)), bool)
    assert figure.balance(fork, positions, one, right) == 0.0
    assert figure.balance(fork, positions, half[None], right) == pytest.approx(1.0)
    # A side for each position, different ones at different positions, is no balance.
    by_position = jnp.where(positions > 0.0, *jnp.moveaxis(centers, 1, 0))
    assert figure.balance(fork, positions, by_position[None], right) == 0.0
    assert figure.balance(fork, positions, one, ~right) is None
    assert figure.balance(Fork(num_branches=1), positions, one, right) is None


def test_the_demonstrators_own_samples_are_the_ceiling(figure):
    fork = Fork(num_branches=8, num_dimensions=2)
    positions = jnp.repeat(jnp.linspace(-1.0, 1.0, figure.POSITIONS), figure.SAMPLES)[:, None]
    actions = fork.demonstrate(jax.random.key(0), positions)[None]
    valid = np.asarray(fork.is_valid(positions, actions))
    assert valid.mean() == pytest.approx(1.0 - np.exp(-4.5), abs=0.008)
    # 100 dice of 8 sides lack about 7 / 200 nats of log 8.
    expected = 1.0 - 7.0 / 200.0 / np.log(8.0)
    assert figure.balance(fork, positions, actions, valid) == pytest.approx(expected, abs=0.01)


def test_the_picture_is_drawn(figure, rows, tmp_path):
    trained, _ = rows
    pictures = {key: figure.samples_at(trained[key], 0.5) for key in (("MSE", 2), ("mixture", 2))}
    assert {samples.shape for samples in pictures.values()} == {(figure.SAMPLES, 2)}
    figure.draw(pictures, tmp_path / "mode_averaging.png")
    assert (tmp_path / "mode_averaging.png").stat().st_size > 10_000
