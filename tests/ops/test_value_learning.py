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


def _returns(decay, terminations=(0, 0, 0), ends=(0, 0, 0)):
    """Of rewards 1, 2, 3 with next values 10, 20, 30 and a discount of 0.5."""
    row = lambda values, kind=float: jnp.array([values], kind)  # noqa: E731
    return ops.lambda_returns(
        row([1, 2, 3]), 0.5, decay, row(terminations, bool), row([10, 20, 30]), row(ends, bool)
    )[0]


def test_lambda_returns_bootstrap_at_the_windows_end():
    # Backward: 3 + 15 = 18; then 2 + 0.5 G, 1 + 0.5 G with G = 18, 11 where lambda is 1.
    np.testing.assert_allclose(_returns(1.0), [6.5, 11.0, 18.0], rtol=1e-6)
    np.testing.assert_allclose(_returns(0.0), [6.0, 12.0, 18.0], rtol=1e-6)  # one-step targets
    # Half: 2 + 0.5 (10 + 9) = 11.5; 1 + 0.5 (5 + 5.75) = 6.375.
    np.testing.assert_allclose(_returns(0.5), [6.375, 11.5, 18.0], rtol=1e-6)


def test_lambda_returns_stop_at_terminations_and_bootstrap_at_truncations():
    for decay in (0.0, 0.5, 1.0):
        ended = _returns(decay, terminations=(0, 1, 0))
        assert ended[1] == 2.0
        # A truncation, or a window's last valid step: nothing of the third column is in it.
        cut = _returns(decay, ends=(0, 1, 0))
        assert cut[1] == 12.0
    np.testing.assert_allclose(_returns(1.0, terminations=(0, 1, 0))[0], 2.0)
    np.testing.assert_allclose(_returns(1.0, ends=(0, 1, 0))[0], 7.0)
    # Both at once is a termination.
    np.testing.assert_allclose(_returns(1.0, (0, 1, 0), (0, 1, 0))[1], 2.0)
    np.testing.assert_allclose(_returns(0.5, (0, 0, 1))[2], 3.0)


def test_lambda_returns_carry_no_gradient_and_refuse_vectors():
    falses = jnp.zeros((1, 2), bool)
    gradient = jax.grad(
        lambda v: ops.lambda_returns(jnp.ones((1, 2)), 0.9, 0.5, falses, v, falses).sum()
    )(jnp.ones((1, 2)))
    np.testing.assert_array_equal(gradient, [[0.0, 0.0]])
    with pytest.raises(AssertionError):
        ops.lambda_returns(jnp.ones(2), 0.9, 0.5, falses[0], jnp.ones(2), falses[0])


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


def test_the_largest_reward_is_the_largest_in_size():
    assert float(ops.largest_reward(jnp.array([-3.0, 0.0, 2.0]))) == 3.0


@pytest.mark.parametrize(("value", "loud"), [(40.0, True), (-40.0, True), (39.0, False)])
def test_values_are_held_against_the_sum_of_the_largest_rewards(value, loud):
    metrics = {"q_value": value, "reward_max": 3.0}
    bound = 3.95 / 0.1  # 3 of the log and 0.95 of the method's own, at every step
    assert (abs(value) > bound) == loud
    found = ops.values_beyond_rewards(0.9, metrics, bonus=-0.95)
    assert len(found) == loud
