"""The soft maximum over sampled actions against exact integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import ops


def test_gap_of_two_actions_by_hand():
    sampled = jnp.array([[[0.0, jnp.log(3.0)]]])  # one member, one state, two actions
    log_densities = jnp.log(jnp.array([[0.5, 0.5]]))
    # Mean of exp(Q) / density: (1 / 0.5 + 3 / 0.5) / 2 = 4.
    gap = ops.logsumexp_gap(sampled, log_densities, jnp.array([[0.25]]))
    np.testing.assert_allclose(gap, [[np.log(4.0) - 0.25]], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_grid_of_uniform_actions_gives_the_integral(temperature):
    actions = jnp.linspace(-1.0, 1.0, 20_001)[None]
    values = -2.0 * (actions - 0.3) ** 2
    grid = np.linspace(-1.0, 1.0, 20_001)
    expected = temperature * np.log(
        np.trapezoid(np.exp(-2.0 * (grid - 0.3) ** 2 / temperature), grid)
    )
    gap = ops.logsumexp_gap(
        values[None], jnp.full_like(actions, -jnp.log(2.0)), jnp.zeros((1, 1)), temperature
    )
    np.testing.assert_allclose(gap, [[expected]], atol=1e-4)
    if temperature == 1.0:
        assert expected == pytest.approx(0.1365, abs=1e-4)


def test_the_gap_does_not_depend_on_the_number_of_samples():
    gaps = [
        ops.logsumexp_gap(jnp.ones((1, 1, m)), jnp.zeros((1, m)), jnp.zeros((1, 1)))
        for m in (3, 30)
    ]
    np.testing.assert_allclose(gaps[0], gaps[1], rtol=1e-6)


def test_descent_lowers_sampled_values_and_raises_the_logged_one():
    by_sample, by_data = jax.grad(
        lambda sampled, data: ops.logsumexp_gap(sampled, jnp.zeros((1, 4)), data).sum(),
        argnums=(0, 1),
    )(jnp.arange(4.0).reshape(1, 1, 4), jnp.zeros((1, 1)))
    assert (by_sample > 0.0).all()
    np.testing.assert_allclose(by_sample.sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(by_data, [[-1.0]])


def test_misaligned_densities_are_refused():
    with pytest.raises(AssertionError):
        ops.logsumexp_gap(jnp.ones((2, 4, 3)), jnp.zeros((4, 1)), jnp.zeros((2, 4)))
