"""What chunked policies share: windows, play, and networks that stand in the train state."""

from __future__ import annotations

import dataclasses
import functools
import pickle

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddm import networks
from ddm.errors import InputError
from ddm.imitation import (
    act,
    alvinn,
    autoregressive,
    cvae,
    diffusion,
    flow_matching,
    implicit_bc,
)
from ddm.imitation.parts import chunks
from ddm.types import Batch, own_networks

CHUNKED = (diffusion, flow_matching, act, autoregressive)
METHODS = (*CHUNKED, alvinn, cvae, implicit_bc)
CONFIG = chunks.Config(observation_steps=2, chunk_size=3, execute_steps=2)


def _window(steps, **changes):
    batch = Batch(
        observations=jnp.arange(2 * steps * 3.0).reshape(2, steps, 3),
        actions=jnp.arange(2 * steps * 1.0).reshape(2, steps, 1),
        mask=jnp.arange(steps) < jnp.array([[steps], [2]]),
    )
    return dataclasses.replace(batch, **changes)


def test_a_window_is_frames_and_the_chunk_from_the_last_of_them_on():
    batch = _window(4)
    frames, chunk, mask = chunks.split(CONFIG, batch, "test")
    np.testing.assert_array_equal(frames, batch.observations[:, :2])
    np.testing.assert_array_equal(chunk[0, :, 0], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(mask, [[True, True, True], [True, False, False]])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (_window(5), r"batch.observations has shape \(2, 5, 3\), expected windows of 4 steps"),
        (_window(4, mask=jnp.ones((2, 3), bool)), r"batch.mask has shape \(2, 3\), expected wind"),
        (_window(4, actions=jnp.ones((2, 4))), r"actions has shape \(2, 4\) and .* \(B, T, A\)"),
    ],
)
def test_windows_of_another_shape_are_refused(batch, message):
    with pytest.raises(InputError, match=message):
        chunks.split(CONFIG, batch, "test")


def _chunk(config, state, frames, scale):
    """A chunk by hand: each action is the newest frame, times its place and a number."""
    del state
    places = jnp.arange(1.0, config.chunk_size + 1.0)
    return scale * places[:, None] * frames[-1]


def test_a_plan_is_played_in_order_and_then_made_anew():
    state = chunks.State(
        policy=networks.trainable(None, ()),
        observation=jnp.zeros(2),
        action=jnp.zeros(2),
        step=jnp.int32(0),
        key=jax.random.key(0),
    )
    memory, actions = (), []
    for time in range(1, 4):
        observation = jnp.array([1.0, 10.0]) * time
        action, memory = chunks.play(CONFIG, state, observation, memory, _chunk, 0.5 * time)
        actions.append(action[0])
    # Twice from the first chunk, then the first of a chunk that sees the third frame.
    np.testing.assert_allclose(actions, [0.5, 1.0, 4.5])
    np.testing.assert_array_equal(memory.frames.observations[:, 0], [2.0, 3.0])
    assert memory.frames.valid.all()


def _small(algorithm, **options):
    """A small configuration whose programs compile fast, an example, and the abstract state."""
    config = contract.small_config(algorithm, **options)
    batch = contract.make_batch(algorithm, config, rows=2)
    return config, batch, jax.eval_shape(functools.partial(algorithm.init, config), KEY, batch)


KEY = jax.random.key(0)


@pytest.mark.parametrize("algorithm", [*CHUNKED, alvinn, implicit_bc])
def test_without_a_policy_state_an_episode_begins(algorithm):
    config, batch, state = _small(algorithm)
    observation = contract.first_observation(algorithm, config, batch)

    def act(state):
        return algorithm.act(config, state, observation, KEY)

    def begin(state):
        memory = algorithm.initial_policy_state(config, state)
        return algorithm.act(config, state, observation, KEY, memory)

    # The same program: nothing is missing, and nothing else is drawn.
    assert str(jax.make_jaxpr(act)(state)) == str(jax.make_jaxpr(begin)(state))


def _cases():
    for algorithm in METHODS:
        name = contract.short_name(algorithm)
        for options in [{}, *contract.contract_of(algorithm).variants]:
            label = "-".join([name, *(str(value) for value in options.values())])
            yield pytest.param(algorithm, options, id=label)


@pytest.mark.parametrize(("algorithm", "options"), list(_cases()))
def test_networks_of_one_configuration_are_equal_and_can_be_stored(algorithm, options):
    (_, _, one), (_, _, two) = (_small(algorithm, **options) for _ in range(2))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert hash(one.policy.network) == hash(two.policy.network)
    assert pickle.loads(pickle.dumps(one.policy)).network == one.policy.network
    assert pickle.loads(pickle.dumps(one.policy)).optimizer is one.policy.optimizer


@pytest.mark.parametrize("algorithm", METHODS)
def test_a_network_of_the_users_own_is_trained_and_acts(algorithm):
    config, _, ours = _small(algorithm)
    [field] = own_networks(config)
    smaller = {name: 4 for name in ("width",) if hasattr(config, name)} or {"hidden_sizes": (4,)}

    def own(config, action_size):
        assert action_size == 2
        return getattr(algorithm, field)(config.replace(**smaller, **{field: None}), action_size)

    if algorithm in (autoregressive, diffusion, flow_matching):
        smaller = {"hidden_sizes": (4,)}
    config, batch, state = _small(algorithm, **{field: own})
    expected = getattr(algorithm, field)(config.replace(**smaller), 2)
    assert state.policy.network == expected != ours.policy.network
    after, _ = jax.eval_shape(functools.partial(algorithm.update, config), state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    observation = contract.first_observation(algorithm, config, batch)
    action, _ = jax.eval_shape(functools.partial(algorithm.act, config), state, observation, KEY)
    assert action.shape == (2,)


class Pixels(networks.Network):
    """A score of images (B, T, H, W, C) and actions (B, M, A), by one number of each."""

    @nn.compact
    def __call__(self, frames, actions):
        brightness = nn.Dense(1)(jnp.mean(frames, axis=(1, 2, 3)) / 255.0)
        return brightness - jnp.sum(jnp.square(actions), axis=-1)


def test_images_need_an_encoder_or_a_network_of_the_users_own():
    config = contract.small_config(implicit_bc)
    batch = Batch(observations=jnp.zeros((2, 2, 8, 8, 1), jnp.uint8), actions=jnp.zeros((2, 2, 3)))
    with pytest.raises(InputError, match=r"implicit_bc: .* need an encoder: use encoder=conv"):
        implicit_bc.init(config, KEY, batch)
    config = config.replace(policy_network=lambda config, action_size: Pixels())
    state = implicit_bc.init(config, KEY, batch)
    _, metrics = jax.eval_shape(functools.partial(implicit_bc.update, config), state, batch)
    assert metrics["loss"].shape == ()
