"""Parameter arithmetic against hand-worked numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import ops
from ddm.ops import updates


def test_polyak_moves_by_the_rate():
    moved = ops.polyak({"w": jnp.array([0.0, 1.0])}, {"w": jnp.array([1.0, 3.0])}, 0.25)
    np.testing.assert_allclose(moved["w"], [0.25, 1.5])


def test_targets_follow_by_an_average_or_by_copies():
    def target(rate, period, steps=7):
        follow = jnp.float32(0.0)
        for step in range(1, steps + 1):
            follow = updates.follow(follow, jnp.float32(step), step, rate, period)
        return float(follow)

    # With no period, 7 steps of the average towards 1 .. 7.
    expected = sum(0.25 * 0.75 ** (7 - step) * step for step in range(1, 8))
    assert target(0.25, 0) == pytest.approx(expected, rel=1e-5)
    # With one, the last copy, whatever the rate.
    periods = jnp.array([1, 3, 4, 8])
    copies = jax.vmap(lambda period: updates.follow(2.0, 5.0, 12, 0.25, period))(periods)
    np.testing.assert_allclose(copies, [5.0, 5.0, 5.0, 2.0])
    assert target(0.25, 3) == 6.0


def test_cosine_decay_at_its_landmarks():
    steps = jnp.array([0, 50, 100, 1000])
    rates = jax.vmap(lambda step: ops.cosine_decay(0.4, step, 100))(steps)
    np.testing.assert_allclose(rates, [0.4, 0.2, 0.0, 0.0], atol=1e-7)


def test_zero_decay_steps_keep_the_rate():
    assert ops.cosine_decay(0.4, jnp.array(10**6), 0) == pytest.approx(0.4)


def test_decay_steps_may_be_swept():
    rates = jax.vmap(lambda length: ops.cosine_decay(1.0, 5, length))(jnp.array([0, 10]))
    np.testing.assert_allclose(rates, [1.0, 0.5], atol=1e-6)


def test_a_schedule_without_a_length_is_constant():
    assert float(updates.cosine_decay(0.3, 10**6, None)) == pytest.approx(0.3)


def test_linear_decay_at_its_landmarks():
    steps = jnp.array([0, 25, 100, 300])
    rates = jax.vmap(lambda step: ops.linear_decay(0.4, step, 100))(steps)
    np.testing.assert_allclose(rates, [0.4, 0.3, 0.0, 0.0], rtol=1e-6)
    assert float(ops.linear_decay(0.4, jnp.array(10**6), 0)) == pytest.approx(0.4)
    assert float(ops.linear_decay(0.4, 10**6, None)) == pytest.approx(0.4)
    assert float(ops.linear_decay(0.4, 25, jnp.array(50))) == pytest.approx(0.2)
