"""Perceptrons and ensembles against the same sums written in numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from ddm import networks


def _numpy_mlp(params, inputs):
    hidden = inputs
    for name in ("hidden_0", "hidden_1"):
        hidden = np.maximum(hidden @ params[name]["kernel"] + params[name]["bias"], 0.0)
    return hidden @ params["output"]["kernel"] + params["output"]["bias"]


def test_mlp_is_affine_maps_with_relus_between():
    network = networks.MLP((8, 4), 3)
    inputs = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    params = network.init(jax.random.key(0), inputs)
    np.testing.assert_allclose(
        network.apply(params, inputs), _numpy_mlp(params["params"], inputs), atol=1e-5
    )


def test_layer_norm_makes_hidden_features_blind_to_scale():
    network = networks.MLP((32,), 1, layer_norm=True)
    inputs = jnp.ones((1, 4))
    params = network.init(jax.random.key(0), inputs)
    np.testing.assert_allclose(
        network.apply(params, inputs), network.apply(params, 100.0 * inputs), atol=1e-2
    )


def test_orthogonal_init_keeps_lengths_times_its_scale():
    kernel = networks.orthogonal(jax.random.key(0), (16, 16))
    np.testing.assert_allclose(kernel @ kernel.T, 2.0 * np.eye(16), atol=1e-5)


def test_fan_in_uniform_stays_within_its_bound():
    kernel = networks.fan_in_uniform(jax.random.key(0), (100, 50))
    assert np.abs(kernel).max() <= 0.1
    assert np.abs(kernel).max() > 0.099


def test_ensemble_members_are_separate_networks_in_one_tree():
    network = networks.ActionValue((8, 4), num_members=3)
    observations, actions = jnp.ones((5, 6)), jnp.ones((5, 2))
    params = network.init(jax.random.key(0), observations, actions)
    values = network.apply(params, observations, actions)
    assert values.shape == (3, 5)
    inputs = np.ones((5, 8), np.float32)
    for member in range(3):
        single = jax.tree.map(lambda leaf, i=member: leaf[i], params["params"]["mlp"])
        np.testing.assert_allclose(values[member], _numpy_mlp(single, inputs)[:, 0], atol=1e-5)
    assert not np.allclose(values[0], values[1])


def test_many_actions_a_state_equal_one_at_a_time():
    network = networks.ActionValue((8,), num_members=2)
    observations = jax.random.normal(jax.random.key(1), (3, 4))
    actions = jax.random.normal(jax.random.key(2), (3, 5, 2))
    params = network.init(jax.random.key(0), observations, actions[:, 0])
    together = network.apply(params, observations, actions)
    assert together.shape == (2, 3, 5)
    for index in range(5):
        np.testing.assert_allclose(
            together[..., index], network.apply(params, observations, actions[:, index]), atol=1e-5
        )


def test_state_value_has_one_number_a_row():
    network = networks.StateValue((4,))
    params = network.init(jax.random.key(0), jnp.ones((1, 2)))
    assert network.apply(params, jnp.ones((6, 2))).shape == (6,)
