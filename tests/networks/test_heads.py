"""The table of heads: networks from plain sizes, and what comes out of them."""

from __future__ import annotations

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import networks
from ddm.networks import heads

KEY = jax.random.key(0)
OBSERVATIONS = jnp.eye(4)


def pairs(observations):
    """Features (..., 3, 12) of each observation and each of three actions."""
    blocks = observations[..., None, None, :] * jnp.eye(3)[..., None]
    return blocks.reshape(*observations.shape[:-1], 3, -1)


def _sizes(head, **sizes):
    features = pairs if head == "linear_softmax" else None
    return heads.Sizes(3, (4,), features=features, num_components=2)._replace(**sizes)


@pytest.mark.parametrize("name", heads.HEADS)
def test_each_head_builds_a_network_from_plain_sizes_and_acts(name):
    head = heads.HEADS[name]
    network = head.network(_sizes(name))
    twin = head.network(_sizes(name))
    assert (network, hash(network)) == (twin, hash(twin))  # it is a part of a jit key
    assert pickle.loads(pickle.dumps(network)) == network
    bounds = (-5.0, 2.0) if head.bounded else ()

    @jax.jit
    def play(key):
        outputs = network.apply(network.init(KEY, OBSERVATIONS, *bounds), OBSERVATIONS, *bounds)
        return (
            head.mode(outputs),
            head.act(outputs, key, deterministic=False),
            head.act(outputs, key, deterministic=True),
        )

    mode, drawn, quiet = play(KEY)
    other = play(jax.random.key(1))
    assert mode.shape == drawn.shape == quiet.shape == ((4,) if head.discrete else (4, 3))
    assert jnp.issubdtype(mode.dtype, jnp.integer) == head.discrete
    if name != "mixture":  # which draws one of its modes
        np.testing.assert_array_equal(quiet, mode)
        np.testing.assert_array_equal(other[2], mode)
    assert (np.asarray(other[1]) != drawn).any() == head.density


GAUSSIANS = [name for name, head in heads.HEADS.items() if head.bounded]


@pytest.mark.parametrize("name", GAUSSIANS)
def test_a_gaussian_begins_where_it_is_told_to(name):
    network: Any = heads.HEADS[name].network(_sizes(name, hidden_sizes=()))
    mean, nothing = jnp.array([0.3, -0.2, 0.0]), jnp.zeros((1, 4))
    start: Any = networks.Start(mean, jnp.log(0.1))
    params = network.init(KEY, nothing, -5.0, 2.0, start=start)
    policy = network.apply(params, nothing, -5.0, 2.0)
    spread = {"tanh_gaussian": "_base", "mixture": "_components"}.get(name)
    spread = policy if spread is None else getattr(policy, spread)
    np.testing.assert_allclose(spread.stddev(), jnp.full_like(spread.stddev(), 0.1), rtol=1e-5)
    if name == "mixture":  # it spreads its means itself
        plain = network.init(KEY, nothing, -5.0, 2.0)["params"]
        np.testing.assert_array_equal(params["params"]["offsets"], plain["offsets"])
    else:
        np.testing.assert_allclose(policy.mode()[0], mean, atol=1e-6)


def test_a_gaussian_of_one_width_begins_there_too():
    network, nothing = networks.GaussianPolicy((), 2), jnp.zeros(4)
    start: Any = networks.Start(0.5, jnp.log(0.1))
    params = network.init(KEY, nothing, -5.0, 2.0, start=start)
    policy = network.apply(params, nothing, -5.0, 2.0)
    np.testing.assert_allclose(policy.mode(), 0.5, atol=1e-6)
    np.testing.assert_allclose(policy.stddev(), 0.1, rtol=1e-5)


def test_networks_read_discrete_actions_as_one_hot_rows():
    np.testing.assert_array_equal(heads.as_vectors(jnp.array([2, 0]), 3), [[0, 0, 1], [1, 0, 0]])
    real = jnp.array([[0.5]])
    assert heads.as_vectors(real, 3) is real
