"""Forward and reverse divergences of one Gaussian and two modes, against the published optima."""

from __future__ import annotations

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scripts

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "figures"


@pytest.fixture(scope="module")
def figure():
    """The figure's module."""
    with scripts.imported(FOLDER / "kl_objectives.py") as module:
        yield module


@pytest.mark.parametrize(
    ("weight", "std", "forward", "reverse"),
    [
        (0.5, 0.1, (0.0, 1.005, 1.614), (1.0, 0.1, 0.6931)),
        (0.5, 0.3, (0.0, 1.044, 0.555), (0.9985, 0.3024, 0.6918)),
        (0.5, 0.5, (0.0, 1.118, 0.172), (0.0, 1.0235, 0.2265)),
        (0.7, 0.1, (0.4, 0.922, 1.611), (1.0, 0.1, 0.3567)),
    ],
)
def test_exact_optima_are_the_published_ones(figure, weight, std, forward, reverse):
    expert = figure.Expert(weight, std)
    np.testing.assert_allclose(figure.forward_optimum(expert), forward, atol=1e-3)
    np.testing.assert_allclose(figure.reverse_optimum(expert), reverse, atol=2e-3)


def test_scores_of_known_policies(figure):
    expert = figure.Expert(0.5, 0.1)
    grid = jnp.asarray(figure.GRID)
    fits = np.stack([figure._log_normal(grid, m, s) for m, s in ((0.0, 1.005), (1.0, 0.1))])
    scores = figure.measure(expert, fits.astype(np.float64))
    np.testing.assert_allclose(scores["valid"], [0.290, 0.9973], atol=2e-3)
    np.testing.assert_allclose(scores["upper_mode"], [0.5, 1.0], atol=1e-3)
    np.testing.assert_allclose(scores["reverse_kl"], [18.2, np.log(2.0)], atol=0.06)
    assert scores["forward_kl"][0] == pytest.approx(1.6144, abs=1e-3)
    assert scores["forward_kl"][1] > 90.0  # what it leaves out: half of (2 / 0.1)^2 / 2


def test_fits_of_both_objectives_are_near_their_optima(figure, tmp_path):
    experts = figure.Expert(jnp.array([0.5]), jnp.array([0.1]))
    rows, densities = [], {}
    for name, exact in (("forward", 1.614), ("reverse, known", 0.6931)):
        log_probs = figure.fit(name, experts, jax.random.key(0), seeds=2, updates=1_500)
        log_probs = np.asarray(log_probs, np.float64)[0]
        row = figure.summarize(figure.Expert(0.5, 0.1), name, log_probs)
        assert row["exact_kl"] == pytest.approx(exact, abs=2e-3)
        found = row["forward_kl" if name == "forward" else "reverse_kl"]
        assert found == pytest.approx(exact, abs=0.05)
        chosen = row["seeds_up"] + row["seeds_down"]
        assert (chosen, row["seeds"]) == (0 if name == "forward" else 2, 2)
        rows.append(row)
        densities |= {(*expert, name): np.exp(log_probs) for expert in figure.EXPERTS}
    assert rows[1]["valid"] > 2.0 * rows[0]["valid"]
    figure.draw(densities, tmp_path / "kl_objectives.png")
    assert (tmp_path / "kl_objectives.png").stat().st_size > 10_000
