"""Targets and losses against numbers worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import ops


def test_td_target_stops_the_bootstrap_at_terminations_only():
    target = ops.td_target(
        rewards=jnp.array([1.0, 2.0]),
        discount=0.9,
        terminations=jnp.array([False, True]),
        next_values=jnp.array([10.0, 10.0]),
    )
    np.testing.assert_allclose(target, [10.0, 2.0], rtol=1e-6)


def test_td_target_carries_no_gradient_and_survives_infinite_values_at_the_end():
    def total(next_values):
        terminations = jnp.array([False, True])
        return ops.td_target(jnp.ones(2), 0.9, terminations, next_values).sum()

    assert total(jnp.array([0.0, jnp.inf])) == 2.0
    np.testing.assert_array_equal(jax.grad(total)(jnp.ones(2)), [0.0, 0.0])


def test_td_target_refuses_a_column_of_values():
    with pytest.raises(AssertionError):
        ops.td_target(jnp.ones(3), 0.9, jnp.zeros(3, bool), jnp.ones((3, 1)))


def test_squared_td_error_sums_members_and_averages_rows():
    values = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    # Member means: (0 + 1) / 2 and (4 + 9) / 2.
    assert ops.squared_td_error(values, jnp.array([1.0, 1.0])) == pytest.approx(7.0)


def test_squared_td_error_refuses_targets_of_another_length():
    with pytest.raises(AssertionError):
        ops.squared_td_error(jnp.ones((2, 3)), jnp.ones(4))


def test_expectile_loss_weighs_the_two_signs():
    losses = ops.expectile_loss(jnp.array([2.0, -2.0]), 0.7)
    np.testing.assert_allclose(losses, [2.8, 1.2], rtol=1e-6)


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_expectile_of_a_fair_coin_is_the_expectile_itself(expectile):
    # tau (1 - v) = (1 - tau) v has the root v = tau.
    gradient = jax.grad(lambda v: ops.expectile_loss(jnp.array([0.0, 1.0]) - v, expectile).mean())
    assert gradient(expectile) == pytest.approx(0.0, abs=1e-6)
    assert gradient(expectile - 0.1) < 0.0 < gradient(expectile + 0.1)


def test_mixing_an_ensemble_lies_between_its_minimum_and_maximum():
    values = jnp.array([[1.0, 5.0], [3.0, 2.0], [2.0, 4.0]])
    np.testing.assert_allclose(ops.mix_ensemble(values, 1.0), [1.0, 2.0])
    np.testing.assert_allclose(ops.mix_ensemble(values, 0.75), [1.5, 2.75])
    np.testing.assert_allclose(ops.mix_ensemble(values, 0.0), [3.0, 5.0])


def test_losses_are_differentiable_at_the_extremes():
    values = jnp.array([0.0, 1e6, -1e6])
    chex.assert_tree_all_finite(jax.grad(lambda v: ops.expectile_loss(v, 0.9).sum())(values))
