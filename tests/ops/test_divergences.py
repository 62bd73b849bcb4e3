"""Divergences against hand-computed, closed and published numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from ddm.ops import divergences

GRID = np.linspace(-9.0, 9.0, 3_601)


def _log_normal(x, mean, std):
    return -0.5 * jnp.square((x - mean) / std) - jnp.log(std) - 0.5 * jnp.log(2.0 * jnp.pi)


def _log_mixture(x, weight, std):
    """Log-density of weight * N(1, std^2) + (1 - weight) * N(-1, std^2)."""
    return jnp.logaddexp(
        jnp.log(weight) + _log_normal(x, 1.0, std), jnp.log1p(-weight) + _log_normal(x, -1.0, std)
    )


@jax.jit
def _reverse(parameters, weight, std):
    """KL(N(mean, exp(log_std)^2) || mixture), by quadrature about the Gaussian itself."""
    mean, policy_std = parameters[0], jnp.exp(parameters[1])
    grid = mean + policy_std * jnp.linspace(-9.0, 9.0, 1_201)
    return divergences.kl_on_grid(
        _log_normal(grid, mean, policy_std), _log_mixture(grid, weight, std), grid
    )


def test_categoricals_by_hand(float64):
    p, q = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), jnp.array([[0.25, 0.75, 0.0]] * 2)
    expected = [0.5 * np.log(2.0) + 0.5 * np.log(2 / 3), np.log(4.0)]
    np.testing.assert_allclose(divergences.categorical_kl(p, q), expected, rtol=1e-12)
    assert divergences.categorical_kl(q, p)[1] == np.inf
    apart = divergences.categorical_js(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    assert apart == pytest.approx(np.log(2.0), rel=1e-12)
    np.testing.assert_allclose(
        divergences.categorical_js(p, q), divergences.categorical_js(q, p), rtol=1e-12
    )
    assert divergences.categorical_js(p, p)[0] == 0.0


def test_gaussians_by_hand_and_by_quadrature(float64):
    # log(2) + (1 + 9) / 8 - 1 / 2 in the first dimension, nothing in the second.
    found = divergences.gaussian_kl(
        jnp.array([1.0, 0.3]), jnp.array([1.0, 0.2]), jnp.array([-2.0, 0.3]), jnp.array([2.0, 0.2])
    )
    assert found == pytest.approx(np.log(2.0) + 10.0 / 8.0 - 0.5, rel=1e-12)
    log_p, log_q = _log_normal(GRID, 0.4, 0.5), _log_normal(GRID, -0.2, 0.9)
    closed = divergences.gaussian_kl(*(jnp.array([x]) for x in (0.4, 0.5, -0.2, 0.9)))
    assert divergences.kl_on_grid(log_p, log_q, GRID) == pytest.approx(float(closed), abs=1e-10)


def test_quadrature_of_densities_with_holes(float64):
    grid = jnp.linspace(0.0, 2.0, 2_001)
    everywhere = jnp.full(2_001, -jnp.log(2.0))
    half = jnp.where(grid <= 1.0, 0.0, -jnp.inf)
    assert divergences.kl_on_grid(half, everywhere, grid) == pytest.approx(np.log(2.0), abs=1e-3)
    assert divergences.kl_on_grid(everywhere, half, grid) == np.inf
    slope = jax.grad(lambda c: divergences.kl_on_grid(half, everywhere + c, grid))(0.0)
    assert slope == pytest.approx(-1.0, abs=1e-3)


def test_samples_agree_with_the_closed_form_within_their_error():
    samples = 0.4 + 0.5 * jax.random.normal(jax.random.key(0), (20, 5_000))
    estimate = divergences.kl_from_samples(
        _log_normal(samples, 0.4, 0.5), _log_normal(samples, -0.2, 0.9)
    )
    closed = divergences.gaussian_kl(*(jnp.array([x]) for x in (0.4, 0.5, -0.2, 0.9)))
    scores = (estimate.value - closed) / estimate.standard_error
    assert np.abs(scores).max() < 4.0
    assert 0.6 < np.std(scores) < 1.5  # the error is the one it claims to be


# Exact optima for p = w N(1, s^2) + (1 - w) N(-1, s^2): (w, s) -> forward (mean, std, KL), and
# minima of the reverse divergence (mean, std, KL).
OPTIMA = {
    (0.5, 0.1): ((0.0, 1.005, 1.614), [(1.0, 0.1, 0.6931), (-1.0, 0.1, 0.6931)]),
    (0.5, 0.3): ((0.0, 1.044, 0.555), [(0.9985, 0.3024, 0.6918), (-0.9985, 0.3024, 0.6918)]),
    (0.5, 0.5): ((0.0, 1.118, 0.172), [(0.0, 1.0235, 0.2265)]),
    (0.5, 0.8): ((0.0, 1.281, 0.029), [(0.0, 1.2415, 0.033)]),
    (0.7, 0.1): ((0.4, 0.922, 1.611), [(1.0, 0.1, 0.3567), (-1.0, 0.1, 1.2040)]),
    (0.7, 0.3): ((0.4, 0.964, 0.558), [(0.999, 0.302, 0.3559), (-0.998, 0.304, 1.2019)]),
}
TOLERANCES = (6e-4, 6e-4, 6e-4)  # half a unit of the last printed digit


def _minimum(objective, start):
    found = optimize.minimize(
        lambda x: float(objective(x)), start, jac=lambda x: np.asarray(jax.grad(objective)(x))
    )
    return np.array([found.x[0], np.exp(found.x[1]), found.fun])


@pytest.mark.parametrize(("weight", "std"), OPTIMA)
def test_published_optima_of_both_divergences(weight, std, float64):
    forward_optimum, reverse_optima = OPTIMA[weight, std]
    grid = jnp.asarray(np.linspace(-1.0 - 12.0 * std, 1.0 + 12.0 * std, 2_001))
    log_p = _log_mixture(grid, weight, std)

    def forward(parameters):
        log_q = _log_normal(grid, parameters[0], jnp.exp(parameters[1]))
        return divergences.kl_on_grid(log_p, log_q, grid)

    def reverse(parameters):
        return _reverse(parameters, weight, std)

    found = _minimum(forward, np.array([0.1, 0.1]))
    np.testing.assert_array_less(np.abs(found - forward_optimum), TOLERANCES)
    # Moment matching is the forward optimum.
    moments = np.array([2 * weight - 1, np.sqrt(std**2 + 4 * weight * (1 - weight))])
    np.testing.assert_allclose(found[:2], moments, atol=1e-5)
    reached = [_minimum(reverse, np.array([mean, np.log(0.5)])) for mean in (0.9, 0.3, -0.3, -0.9)]
    for optimum in reverse_optima:
        distances = [np.abs(each - optimum).max() for each in reached]
        assert min(distances) < 6e-4
    for each in reached:  # and from these starts there are no others
        assert min(np.abs(each - optimum).max() for optimum in reverse_optima) < 6e-4


@pytest.mark.parametrize(("std", "width", "divergence"), [(0.1, 0.81, 16.27), (0.3, 0.895, 1.138)])
def test_between_the_modes_lies_a_poor_local_minimum(std, width, divergence, float64):
    # With a wide start and a mean that is held: what a symmetric start finds ...
    found = _minimum(lambda x: _reverse(x * jnp.array([0.0, 1.0]), 0.5, std), [0.0, np.log(0.9)])
    assert found[1] == pytest.approx(width, abs=6e-3)
    assert found[2] == pytest.approx(divergence, abs=6e-3)
    # ... and what holds it there also when the mean is free: no saddle. In the limit of narrow
    # modes the curvature along the mean is (1 - sqrt(2 / pi) / width) / std^2 > 0.
    curvature = jax.hessian(_reverse)(jnp.array([0.0, np.log(found[1])]), 0.5, std)
    assert np.linalg.eigvalsh(curvature)[0] > 0.3
    beside = _minimum(lambda x: _reverse(x, 0.5, std), [0.05, np.log(0.9)])
    np.testing.assert_allclose(beside[1:], found[1:], atol=1e-4)


def test_the_reverse_divergence_of_the_forward_optimum(float64):
    found = _reverse(jnp.array([0.0, 0.5 * np.log(1.01)]), 0.5, 0.1)
    assert found == pytest.approx(18.2, abs=0.06)


def test_the_dual_kl_bound_is_met_by_the_density_ratio_and_by_no_other_critic():
    # Between N(1, 1) and N(0, 1), KL = 1/2 and the ratio is exp(x - 1/2).
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def bound(critic):
        values, others = critic(nodes + 1.0), critic(nodes)
        return float(weights @ divergences.kl_lower_bound(jnp.array(values), jnp.array(others)))

    def inverse_softplus(ratio):
        return ratio + np.log(-np.expm1(-ratio))

    best = bound(lambda x: inverse_softplus(np.exp(x - 0.5)))
    assert best == pytest.approx(0.5, abs=1e-3)
    for slope in (0.0, 0.5, 1.5):
        assert bound(lambda x, slope=slope: inverse_softplus(np.exp(slope * (x - 0.5)))) < 0.47


def test_dual_bounds_by_hand():
    one, other = jnp.array([0.3, -2.0]), jnp.array([1.0, 0.5])
    softplus = lambda x: np.log1p(np.exp(np.asarray(x)))  # noqa: E731
    expected = 1.0 + np.log(softplus(one)) - softplus(other)
    np.testing.assert_allclose(divergences.kl_lower_bound(one, other), expected, rtol=1e-5)
    np.testing.assert_allclose(divergences.wasserstein_lower_bound(one, other), one - other)
    assert np.isfinite(divergences.kl_lower_bound(jnp.array(-200.0), jnp.array(0.0)))


def test_slopes_above_the_limit_are_penalised():
    inputs = jnp.array([[0.5, 1.0], [2.0, -1.0]])
    linear = lambda x: x @ jnp.array([3.0, 4.0])  # noqa: E731
    assert float(divergences.slope_penalty(linear, inputs)) == pytest.approx(16.0, rel=1e-4)
    assert float(divergences.slope_penalty(linear, inputs, 5.5)) == 0.0
    # The slopes of |x|^2 / 2 are |x|: 1.118 and 2.236.
    square = lambda x: 0.5 * jnp.sum(jnp.square(x), axis=-1)  # noqa: E731
    expected = np.mean(np.square(np.sqrt([1.25, 5.0]) - 1.0))
    assert float(divergences.slope_penalty(square, inputs)) == pytest.approx(expected, rel=1e-4)
    flat = jax.grad(lambda scale: divergences.slope_penalty(lambda x: scale * x[:, 0], inputs))
    assert np.isfinite(flat(0.0))


def test_the_error_of_two_samples_is_half_their_distance():
    estimate = divergences.kl_from_samples(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]))
    assert float(estimate.value) == pytest.approx(1.0)
    assert float(estimate.standard_error) == pytest.approx(1.0)  # the deviation is sqrt(2)
