"""The concave duals of divergences against conjugates by numerical maximisation."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from ddm.ops import matching

# The generators f(u) of the table, as IQ-Learn's appendix has them.
GENERATORS = {
    "hellinger": lambda u: (np.sqrt(u) - 1) ** 2,
    "kl": lambda u: u * np.log(u),
    "js": lambda u: -(u + 1) * np.log((1 + u) / 2) + u * np.log(u),
    "chi2": lambda u: (u - 1) ** 2,
}


def _conjugate(f, t):
    """sup_u t u - f(u) over u > 0, on a logarithm's scale."""
    found = scipy.optimize.minimize_scalar(
        lambda x: f(np.exp(x)) - t * np.exp(x), bounds=(-20, 8), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    return -found.fun


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("reward", [-0.4, 0.3, 1.2])
def test_slopes_are_those_of_the_conjugate(name, reward):
    """phi(r) = -f*(-r), so phi'(r) = f*'(-r)."""
    f, step = GENERATORS[name], 1e-4
    slope = (_conjugate(f, -reward + step) - _conjugate(f, -reward - step)) / (2 * step)
    found = float(matching.SLOPES[name](jnp.float32(reward)))
    if name == "chi2":  # its quadratic term is a loss of its own
        found -= reward / 2
    assert found == pytest.approx(slope, rel=1e-3)


def test_the_slopes_of_the_table_at_half():
    found = {name: float(slope(jnp.float32(0.5))) for name, slope in matching.SLOPES.items()}
    expected = {"chi2": 1.0, "hellinger": 0.4444, "kl": 0.2231, "kl_fix": 0.6065, "js": 0.4353}
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["hellinger", "kl", "kl_fix", "js"])
def test_slopes_end_at_a_bound_and_never_turn_back(name):
    rewards = jnp.linspace(-30.0, 3.0, 200)
    slopes = np.asarray(matching.SLOPES[name](rewards))
    assert slopes[0] == pytest.approx(matching.MAX_SLOPE, rel=1e-3)
    assert np.all(np.diff(slopes) <= 0)


def test_soft_maximum_is_between_the_best_and_the_best_plus_entropy():
    values = jnp.array([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]])
    found = np.asarray(matching.soft_maximum(values, 0.5))
    expected = 0.5 * np.log(np.exp(np.asarray(values) / 0.5).sum(axis=1))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert float(matching.soft_maximum(values, 1e-3)[0]) == pytest.approx(4.0)
