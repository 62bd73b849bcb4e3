"""Absorbing states on batches: where terminations lead, and how often the state is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.imitation.parts import absorbing
from ddm.types import Batch

extend = jax.jit(absorbing.extend, static_argnames=("num_actions", "random_actions"))


def _batch(terminations, actions=None):
    rows = len(terminations)
    observations = jnp.arange(1.0, 2 * rows + 1).reshape(rows, 2)
    return Batch(
        observations=observations,
        actions=jnp.full((rows, 1), 0.5) if actions is None else actions,
        rewards=jnp.ones(rows),
        next_observations=observations + 2.0,
        terminations=jnp.asarray(terminations),
    )


def test_the_indicator_is_a_column_and_the_absorbing_state_has_nothing_else():
    observations = jnp.ones((2, 3))
    np.testing.assert_array_equal(absorbing.observe(observations), [[1, 1, 1, 0]] * 2)
    both = absorbing.observe(observations, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(both, [[0, 0, 0, 1], [1, 1, 1, 0]])


def test_without_terminations_nothing_but_the_column_is_new():
    batch = _batch([False] * 4)
    extended = extend(batch, jax.random.key(0))
    np.testing.assert_array_equal(extended.observations[:, :2], batch.observations)
    np.testing.assert_array_equal(extended.next_observations[:, :2], batch.next_observations)
    np.testing.assert_array_equal(extended.observations[:, 2], 0)
    np.testing.assert_array_equal(extended.actions, batch.actions)


def test_a_termination_leads_to_the_absorbing_state_and_values_go_on():
    extended = extend(_batch([False, True]), jax.random.key(0), 0.0)
    np.testing.assert_array_equal(extended.next_observations, [[3, 4, 0], [0, 0, 1]])
    np.testing.assert_array_equal(extended.observations, [[1, 2, 0], [3, 4, 0]])
    assert not extended.terminations.any()


@pytest.mark.parametrize("copies", [1.0, 10.0])
def test_absorbing_transitions_are_as_frequent_as_in_a_log_that_holds_them(copies):
    # 2,000 rows with 100 terminations: a log with them has 2,000 + 100 copies rows.
    batch = _batch([i % 20 == 19 for i in range(2000)])
    draws = [extend(batch, jax.random.key(seed), copies) for seed in range(20)]
    shares = [float(jnp.mean(each.observations[:, -1])) for each in draws]
    expected = 100 * copies / (2000 + 100 * copies)
    assert np.mean(shares) == pytest.approx(expected, abs=4 * np.sqrt(expected / 40_000))
    rows = draws[0].observations[:, -1] == 1
    np.testing.assert_array_equal(draws[0].observations[rows], [[0, 0, 1]] * int(rows.sum()))
    np.testing.assert_array_equal(draws[0].next_observations[rows], [[0, 0, 1]] * int(rows.sum()))
    np.testing.assert_array_equal(draws[0].actions[rows], 0)
    np.testing.assert_array_equal(draws[0].rewards[rows], 0)
    # The others, terminations among them, are thinned alike.
    ends = float(jnp.mean(draws[0].next_observations[~rows][:, -1]))
    assert ends == pytest.approx(0.05, abs=0.025)


def test_own_absorbing_actions_may_be_random():
    ends = [True] * 1000
    vectors = extend(_batch(ends), jax.random.key(0), random_actions=True)
    drawn = np.asarray(vectors.actions)[np.asarray(vectors.observations[:, -1] == 1)]
    assert np.abs(drawn).max() <= 1.0
    assert drawn.std() == pytest.approx(3**-0.5, abs=0.05)
    discrete = _batch(ends, jnp.full(1000, 1, jnp.int32))
    indices = extend(discrete, jax.random.key(0), num_actions=4, random_actions=True)
    drawn = np.asarray(indices.actions)[np.asarray(indices.observations[:, -1] == 1)]
    assert set(drawn) == {0, 1, 2, 3}
    assert indices.actions.dtype == jnp.int32
