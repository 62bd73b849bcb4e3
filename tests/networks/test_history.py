from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddm import networks

KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.key(1), (2, 5, 3))
# The second window begins two steps before its episode.
MASK = jnp.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], bool)


class ShiftRegister(nn.Module):
    """A recurrent cell that remembers its last inputs, and how many there were."""

    num_frames: int

    @nn.compact
    def __call__(self, carry, inputs):
        frames, count = carry
        moved = jnp.concatenate([frames[..., 1:, :], inputs[..., None, :]], axis=-2)
        everywhere = jnp.broadcast_to(inputs[..., None, :], moved.shape)
        frames = jnp.where(count[..., None, None] > 0, moved, everywhere)
        count = count + 1
        ages = jnp.arange(self.num_frames)[::-1][:-1]
        seen = (ages < count[..., None]).astype(inputs.dtype)
        flat = frames.reshape(*frames.shape[:-2], -1)
        return (frames, count), jnp.concatenate([flat, seen], axis=-1)

    @nn.nowrap
    def initialize_carry(self, key, shape):
        frames = jnp.zeros((*shape[:-1], self.num_frames, shape[-1]))
        return frames, jnp.zeros(shape[:-1], jnp.int32)


TRUNKS = {
    "stack": networks.FrameStack(3),
    "recurrent": networks.Recurrent(nn.GRUCell, 4, 2),
    "transformer": networks.CausalTransformer(1, 8, 2),
}
every_trunk = pytest.mark.parametrize("trunk", TRUNKS.values(), ids=TRUNKS)


def test_a_frame_stack_by_hand():
    inputs = jnp.array([[[1.0], [2.0], [3.0], [4.0]]])
    features = TRUNKS["stack"].apply({}, inputs, jnp.array([[0, 1, 1, 1]], bool))
    # Three frames, oldest first, then whether the two past ones are real.
    np.testing.assert_array_equal(
        features[0, 1:], [[2, 2, 2, 0, 0], [2, 2, 3, 0, 1], [2, 3, 4, 1, 1]]
    )


def test_a_recurrent_shift_register_is_a_frame_stack():
    shift = networks.Recurrent(ShiftRegister, 3)
    for alone in (None, jnp.array([True, False])):
        got = shift.apply({}, INPUTS, MASK, alone)
        want = TRUNKS["stack"].apply({}, INPUTS, MASK, alone)
        valid = np.asarray(MASK)
        np.testing.assert_array_equal(got[valid], want[valid])


@every_trunk
def test_features_depend_on_the_valid_past_only(trunk):
    params = trunk.init(KEY, INPUTS, MASK)
    apply = jax.jit(functools.partial(trunk.apply, params))
    features = apply(INPUTS, MASK)
    later = apply(INPUTS.at[:, 3:].add(1.0), MASK)
    np.testing.assert_allclose(later[:, :3], features[:, :3], atol=1e-6)
    padding = apply(INPUTS.at[1, :2].add(1.0), MASK)
    np.testing.assert_allclose(padding[1, 2:], features[1, 2:], atol=1e-6)
    past = apply(INPUTS.at[:, 2].add(1.0), MASK)
    assert np.abs(past[:, 3:] - features[:, 3:]).max(axis=-1).min() > 1e-3


@every_trunk
def test_alone_means_that_every_step_is_the_first(trunk):
    params = trunk.init(KEY, INPUTS, MASK)
    apply = jax.jit(functools.partial(trunk.apply, params))
    alone = apply(INPUTS, MASK, jnp.array([True, False]))
    np.testing.assert_allclose(alone[1], apply(INPUTS, MASK)[1], atol=1e-6)
    for step in range(5):
        first = apply(INPUTS, jnp.arange(5) >= jnp.full((2, 1), step))
        np.testing.assert_allclose(alone[0, step], first[0, step], atol=1e-6)


def test_stepping_a_recurrent_trunk_equals_the_scan():
    trunk = networks.HistoryEncoder("none", TRUNKS["recurrent"])
    previous = jnp.ones((2, 5, 1)) * jnp.arange(5)[:, None]
    everything = jnp.ones((2, 5), bool)
    params = trunk.init(KEY, INPUTS, previous, everything)
    features = trunk.apply(params, INPUTS, previous, everything)
    carry = trunk.apply(params, INPUTS[:, 0], previous[:, 0], method="initial_carry")
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(carry))
    step = jax.jit(functools.partial(trunk.apply, params, method="step"))
    for time in range(5):
        carry, out = step(carry, INPUTS[:, time], previous[:, time])
        np.testing.assert_allclose(out, features[:, time], atol=1e-6)
