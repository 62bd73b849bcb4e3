"""Imagined episodes in models whose steps are written down."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ddm.data.buffer import Buffer
from ddm.model_based.parts import rollouts
from ddm.types import TRANSITION_FIELDS, Batch, BatchSpec

STARTS = jnp.array([[1.0], [3.0], [6.0], [90.0]])


def counting(observations, actions, key):
    """Adds the action; the reward is where it began; 8 ends the episode, 92 is the last number."""
    del key
    following = observations + actions
    rows = Batch(
        observations=observations,
        actions=actions,
        rewards=observations[:, 0],
        next_observations=jnp.where(following > 92.0, jnp.nan, following),
        terminations=following[:, 0] == 8.0,
        truncations=jnp.zeros(len(observations), bool),
    )
    return rows, {"twice": 2.0 * observations[:, 0]}


def one(observations, key):
    del key
    return jnp.ones_like(observations)


def _roll(starts=STARTS, horizon=4, step=counting):
    return rollouts.roll_out(step, one, starts, jax.random.key(0), horizon)


def test_episodes_end_where_the_model_says_and_before_what_is_not_finite():
    found = _roll()
    begins = np.asarray(found.rows.observations).reshape(4, 4).T  # one row an episode
    mask = np.asarray(found.mask).reshape(4, 4).T
    kept = [row[valid].tolist() for row, valid in zip(begins, mask, strict=True)]
    assert kept == [[1, 2, 3, 4], [3, 4, 5, 6], [6, 7], [90, 91]]
    # The step that ends is in, with its flag; what would follow is not.
    ended = np.asarray(found.rows.terminations).reshape(4, 4).T & mask
    assert ended.sum() == 1
    assert ended[2, 1]
    stored = [float(x) for row in kept for x in row]
    assert found.metrics["rollout_length"] == len(stored) / 4
    assert found.metrics["not_finite"] == 1.0
    np.testing.assert_allclose(found.metrics["imagined_reward"], np.mean(stored), rtol=1e-6)
    np.testing.assert_allclose(found.metrics["twice"], 2.0 * np.mean(stored), rtol=1e-6)
    np.testing.assert_allclose(found.metrics["imagined_termination"], 1 / 12, rtol=1e-6)


def test_a_reward_that_is_not_finite_cuts_too():
    def step(observations, actions, key):
        rows, reported = counting(observations, actions, key)
        return rows.replace(rewards=jnp.where(rows.rewards == 2.0, jnp.inf, rows.rewards)), reported

    found = _roll(STARTS[:1], 3, step)
    np.testing.assert_array_equal(found.mask, [True, False, False])
    assert found.metrics["not_finite"] == 1.0  # once, not at each step that was masked
    assert found.metrics["imagined_reward"] == 1.0


def test_one_number_of_an_observation_that_is_not_finite_cuts_the_episode():
    def step(observations, actions, key):
        del actions, key
        rows = counting(observations[:, :1], jnp.ones((1, 1)), None)[0]
        other = jnp.where(observations[:, :1] == 2.0, jnp.inf, 0.0)
        both = jnp.concatenate([rows.next_observations, other], axis=-1)
        return rows.replace(observations=observations, next_observations=both), {}

    found = rollouts.roll_out(step, one, jnp.array([[1.0, 0.0]]), jax.random.key(0), 3)
    np.testing.assert_array_equal(found.mask, [True, False, False])


def test_only_rows_that_were_imagined_are_ever_sampled():
    found = _roll()
    rows = found.rows.replace(  # what is masked is poison
        rewards=jnp.where(found.mask, found.rows.rewards, jnp.nan)
    )
    spec = BatchSpec(fields=TRANSITION_FIELDS)
    buffer = Buffer.for_rows(rows, 40, "imagined transitions")
    buffer = buffer.replace(rows=jax.tree.map(_poison, buffer.rows))
    expected = {1, 2, 3, 4, 5, 6, 7, 90, 91}
    for _ in range(5):  # from a buffer that is nearly empty to one that goes round
        buffer = buffer.insert(rows, found.mask)
        drawn = buffer.sample(jax.random.key(1), 500, spec)
        assert set(np.asarray(drawn.rewards).tolist()) == expected
        for values in jax.tree.leaves(drawn):
            assert np.isfinite(np.asarray(values, np.float32)).all()
    assert int(buffer.size) == 40


def _poison(values):
    return values if values.dtype == bool else jnp.full_like(values, jnp.nan)


def test_an_open_loop_plays_logged_actions():
    actions = jnp.array([[[1.0], [2.0]], [[10.0], [20.0]], [[100.0], [200.0]]])
    found = rollouts.open_loop(lambda s, a: 2.0 * s + a, jnp.array([[1.0], [0.0]]), actions)
    np.testing.assert_array_equal(found[..., 0], [[3, 2], [16, 24], [132, 248]])
