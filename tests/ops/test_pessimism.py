"""Penalised rewards and HALT by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddm import ops

REWARDS = jnp.array([1.0, -2.0, 0.5])


def test_a_penalty_by_hand():
    found = ops.penalized_rewards(REWARDS, jnp.array([0.0, 0.5, 2.0]), 3.0)
    np.testing.assert_allclose(found, [1.0, -3.5, -5.5], rtol=1e-6)


def test_without_weight_every_bit_is_kept():
    rewards = jnp.array([0.1, -1e-30, 3e30], jnp.float32)
    found = ops.penalized_rewards(rewards, jnp.array([1e30, 1.0, 0.3]), 0.0)
    np.testing.assert_array_equal(found, rewards)


def test_a_pair_is_unknown_above_the_threshold_and_where_its_uncertainty_is_no_number():
    uncertainties = jnp.array([[0.5, 1.0], [1.5, jnp.nan]])
    np.testing.assert_array_equal(ops.is_unknown(uncertainties, 1.0), [[False, False], [True] * 2])


@pytest.mark.parametrize("kind", [bool, jnp.float32])
def test_an_unknown_pair_earns_the_halt_reward_and_ends(kind):
    ends, unknown = jnp.array([False, True, False], kind), jnp.array([False, True, True])
    rewards, terminations = ops.halted(REWARDS, ends, unknown, -7.0)
    np.testing.assert_array_equal(rewards, [1.0, -7.0, -7.0])
    np.testing.assert_array_equal(terminations, [False, True, True])
    assert (rewards.dtype, terminations.dtype) == (jnp.float32, kind)
    # What is left of a bootstrap: the known pair only.
    targets = ops.td_target(rewards, 0.9, terminations.astype(bool), jnp.full(3, 100.0))
    np.testing.assert_allclose(targets, [91.0, -7.0, -7.0])


def test_known_pairs_keep_the_probability_that_they_end():
    ends = jnp.array([[0.25, 0.5]])
    _, terminations = ops.halted(jnp.zeros((1, 2)), ends, jnp.array([[False, True]]), 0.0)
    np.testing.assert_array_equal(terminations, [[0.25, 1.0]])


def test_shapes_that_would_broadcast_are_refused():
    column = jnp.zeros((3, 1))
    with pytest.raises(AssertionError):
        ops.penalized_rewards(REWARDS, column, 1.0)
    with pytest.raises(AssertionError):
        ops.penalized_rewards(REWARDS, REWARDS, jnp.ones(3))
    with pytest.raises(AssertionError):
        ops.halted(REWARDS, jnp.zeros(3, bool), column.astype(bool), 0.0)
    with pytest.raises(AssertionError):
        ops.halted(REWARDS, jnp.zeros(3, bool), jnp.zeros(3), 0.0)
