from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.ops import langevin

KEY = jax.random.key(0)
WIDE = {"low": -100.0, "high": 100.0}


def test_step_sizes_by_hand():
    sizes = langevin.polynomial_decay(1.0, 0.2, 5)
    # 0.2 + 0.8 (1 - i / 4)^2
    np.testing.assert_allclose(sizes, [1.0, 0.65, 0.4, 0.25, 0.2], rtol=1e-6)
    np.testing.assert_allclose(langevin.polynomial_decay(1.0, 0.2, 3, 1.0), [1.0, 0.6, 0.2])
    np.testing.assert_allclose(langevin.polynomial_decay(0.1, 1e-5, 1), [0.1])
    authors = langevin.polynomial_decay(0.1, 1e-5, 100)
    assert authors[0] == pytest.approx(0.1)
    assert authors[-1] == pytest.approx(1e-5)
    assert authors[50] == pytest.approx((0.1 - 1e-5) * (49 / 99) ** 2 + 1e-5)


def test_without_noise_a_quadratic_score_contracts_by_known_factors():
    # f = -a^2 / (2 v), so that a <- a (1 - eta / (2 v)).
    sizes = jnp.array([0.4, 0.2, 0.1])
    start = jnp.array([[1.0, -2.0]])
    end = langevin.chain(lambda a: -a / 0.5, KEY, start, sizes, noise_scale=0.0, **WIDE)
    np.testing.assert_allclose(end, start * 0.6 * 0.8 * 0.9, rtol=1e-6)


def test_constant_steps_reach_the_variance_of_an_autoregression():
    # a <- b a + eta z with b = 1 - eta / (2 v): variance eta^2 / (1 - b^2), which is near eta v.
    eta, variance = 0.2, 0.5
    sizes = jnp.full(100, eta)
    end = jax.jit(lambda start: langevin.chain(lambda a: -a / variance, KEY, start, sizes, **WIDE))(
        jnp.zeros((20_000, 1))
    )
    b = 1 - eta / (2 * variance)
    expected = eta**2 / (1 - b**2)
    assert expected == pytest.approx(0.111, abs=1e-3)
    # A variance of 20,000 draws has a relative standard error of 1 %.
    assert float(end.var()) == pytest.approx(expected, rel=0.04)
    assert float(end.mean()) == pytest.approx(0.0, abs=0.01)


def test_moves_and_box_are_bounded():
    push = lambda a: jnp.full_like(a, 1e6)  # noqa: E731
    start, sizes = jnp.array([[0.0], [0.95]]), jnp.ones(2)
    end = langevin.chain(push, KEY, start, sizes, low=-1.0, high=1.0, max_step=0.1)
    np.testing.assert_allclose(end, [[0.2], [1.0]], rtol=1e-6)


def test_no_gradient_flows_through_a_chain():
    def end(slope, start):
        return langevin.chain(lambda a: slope * a, KEY, start, jnp.ones(3), **WIDE).sum()

    slopes = jax.grad(end, argnums=(0, 1))(jnp.array(-0.5), jnp.ones((2, 1)))
    np.testing.assert_array_equal(slopes[0], 0.0)
    np.testing.assert_array_equal(slopes[1], 0.0)
