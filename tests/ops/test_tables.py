"""Counts, means and empirical policies by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.errors import InputError
from ddm.ops import tables

STATES = jnp.array([0, 0, 0, 2, 2])
ACTIONS = jnp.array([1, 1, 0, 1, 1])


def test_states_are_the_first_largest_features():
    observations = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 7.5], [3.0, 3.0, 3.0]])
    states = tables.state_ids(observations)
    np.testing.assert_array_equal(states, [1, 2, 0])
    assert states.dtype == jnp.int32


@pytest.mark.parametrize(
    "rows",
    [
        [[0], [1], [2], [3]],  # integer states: one column would be one state
        [[1, 0], [0, 2], [1, 0], [0, 1]],
        [[1, 0], [0, 1], [0, 0], [0, 1]],
        [[1, 0], [1, 1], [1, 0], [0, 1]],
        [[1, -1], [-1, 1], [-1, 1], [1, -1]],  # standardised one-hot rows
    ],
)
def test_observations_that_name_no_state_are_refused(rows):
    observations, actions = jnp.array(rows, jnp.float32), jnp.zeros(4, jnp.int32)
    with pytest.raises(InputError, match=r"grid: observation \d is .* one-hot .*Discrete\(n\)"):
        tables.check_table_batch("grid", observations, actions, 2)
    tables.check_table_batch("linear", observations, actions, 2, one_hot=False)
    # Shapes alone are looked at where values are not known.
    jax.jit(lambda *batch: tables.check_table_batch("grid", *batch, 2))(observations, actions)


def test_actions_outside_the_table_are_refused():
    for action in (2, -1):
        actions = jnp.array([0, action, 1], jnp.int32)
        with pytest.raises(InputError, match=f"action {action}, and num_actions is 2: expected"):
            tables.check_table_batch("grid", jnp.eye(3), actions, 2)


def test_counts_by_hand():
    counts = tables.pair_counts(STATES, ACTIONS, 3, 2)
    np.testing.assert_array_equal(counts, [[1, 2], [0, 0], [0, 2]])
    assert counts.dtype == jnp.float32


def test_means_by_hand_with_the_default_where_there_is_no_row():
    default = jnp.array([[9.0, 9.0], [7.0, 6.0], [5.0, 9.0]])
    values = jnp.array([1.0, 4.0, 8.0, -3.0, 3.0])
    means = tables.pair_means(STATES, ACTIONS, values, default)
    np.testing.assert_array_equal(means, [[8.0, 2.5], [7.0, 6.0], [5.0, 0.0]])


def test_empirical_policies_by_hand():
    counts = tables.pair_counts(STATES, ACTIONS, 3, 2)
    np.testing.assert_allclose(
        tables.empirical_policy(counts), [[1 / 3, 2 / 3], [0.5, 0.5], [0, 1]], rtol=1e-6
    )
    np.testing.assert_allclose(
        tables.empirical_policy(counts, 1.0),
        [[2 / 5, 3 / 5], [0.5, 0.5], [1 / 4, 3 / 4]],
        rtol=1e-6,
    )


def test_choices_follow_the_table():
    policy = jnp.array([[0.0, 1.0, 0.0], [0.25, 0.0, 0.75]])
    observation = jnp.array([0.0, 1.0])
    keys = jax.random.split(jax.random.key(0), 2_000)
    actions = jax.vmap(lambda key: tables.choose(policy, observation, key, False))(keys)
    shares = np.bincount(actions, minlength=3) / len(keys)
    np.testing.assert_allclose(shares, policy[1], atol=4 * np.sqrt(0.25 * 0.75 / len(keys)))
    assert shares[1] == 0.0
    assert tables.choose(policy, observation, keys[0], True) == 2
    assert tables.choose(policy, 1.0 - observation, keys[0], False) == 1


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        tables.pair_means(STATES, ACTIONS, jnp.ones((5, 1)), jnp.zeros((3, 2)))
    with pytest.raises(AssertionError):
        tables.pair_counts(STATES, ACTIONS[:1], 3, 2)
    with pytest.raises(AssertionError):
        tables.state_ids(jnp.ones(3))
    with pytest.raises(AssertionError):
        tables.empirical_policy(jnp.ones(3))


@pytest.mark.parametrize(
    ("observations", "actions", "num_actions", "num_states", "message"),
    [
        (jnp.ones((4, 3)), jnp.ones((4, 2)), 2, None, "batch.actions are float32"),
        (
            jnp.ones((4, 3)),
            jnp.zeros((4, 2), jnp.int32),
            2,
            None,
            r"shape \(4, 2\), expected \(B,\)",
        ),
        (jnp.ones((4, 3)), jnp.zeros(4, jnp.int32), 0, None, "needs num_actions"),
        (jnp.ones((4, 3, 3)), jnp.zeros(4, jnp.int32), 2, None, r"shape \(4, 3, 3\), expected"),
        (jnp.ones((4, 3)), jnp.zeros(4, jnp.int32), 2, 5, r"shape \(4, 3\), expected \(B, 5\)"),
    ],
)
def test_batches_that_index_no_table_are_refused_by_name(
    observations, actions, num_actions, num_states, message
):
    with pytest.raises(InputError, match=f"some_name: .*{message}"):
        tables.check_table_batch("some_name", observations, actions, num_actions, num_states)
