"""Weights of regression against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.ops import weights

ADVANTAGES = jnp.array([0.0, 1.0, 1e6, -1e6])


def test_exponential_weights_are_bounded_without_overflow():
    found = weights.exponential(ADVANTAGES, 3.0, 100.0)
    np.testing.assert_allclose(found, [1.0, np.exp(3.0), 100.0, 0.0], rtol=1e-5)


def test_binary_weights_keep_what_is_better_than_the_policy():
    np.testing.assert_array_equal(weights.binary(ADVANTAGES, 3.0, 100.0), [0.0, 1.0, 1.0, 0.0])


def test_softmax_weights_have_mean_one_and_ignore_a_constant():
    advantages = jnp.array([0.0, jnp.log(3.0)])
    np.testing.assert_allclose(weights.softmax(advantages, 1.0, 100.0), [0.5, 1.5], rtol=1e-6)
    np.testing.assert_allclose(weights.softmax(advantages + 7, 1.0, 100.0), [0.5, 1.5], rtol=1e-5)
    np.testing.assert_allclose(weights.softmax(advantages, 1.0, 1.2), [0.5, 1.2], rtol=1e-6)


def test_uniform_weights_are_cloning():
    np.testing.assert_array_equal(weights.uniform(ADVANTAGES, 3.0, 0.5), jnp.ones(4))


@pytest.mark.parametrize("name", weights.WEIGHTS)
def test_no_gradient_passes_and_a_column_is_refused(name):
    weight = weights.WEIGHTS[name]
    gradient = jax.grad(lambda rows: weight(rows, 2.0, 10.0).sum())(jnp.array([0.3, -0.2]))
    np.testing.assert_array_equal(gradient, [0.0, 0.0])
    with pytest.raises(AssertionError):
        weight(jnp.ones((3, 1)), 1.0, 10.0)


def test_effective_share_counts_equal_weights():
    assert weights.effective_share(jnp.full(5, 0.3)) == pytest.approx(1.0)
    assert weights.effective_share(jnp.array([0.0, 2.0, 0.0, 0.0])) == pytest.approx(0.25)
    assert weights.effective_share(jnp.array([1.0, 3.0])) == pytest.approx(16 / 20)
    assert weights.effective_share(jnp.zeros(3)) == 0.0
    assert weights.effective_share(jnp.full(2, 1e30)) == pytest.approx(1.0)
