"""Layers whose largest singular value is 1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ddm import networks


def test_the_largest_singular_value_is_that_of_numpy():
    for seed, shape in enumerate([(5, 3), (3, 5), (40, 40), (4, 1)]):
        kernel = jax.random.normal(jax.random.key(seed), shape)
        exact = np.linalg.norm(np.asarray(kernel), ord=2)
        np.testing.assert_allclose(networks.largest_singular_value(kernel), exact, rtol=0.02)


def test_its_gradient_is_the_product_of_the_singular_vectors():
    kernel = jnp.array([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    gradient = jax.grad(networks.largest_singular_value)(kernel)
    np.testing.assert_allclose(gradient, [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], atol=1e-3)


def test_a_discriminator_of_such_layers_has_slopes_of_at_most_one():
    network = networks.OccupancyDiscriminator((16, 16), spectral_norm=True)
    observations = jax.random.normal(jax.random.key(0), (64, 3))
    params = network.init(jax.random.key(1), observations)
    params = jax.tree.map(lambda x: 30.0 * x, params)  # without the norm: steep
    slopes = jax.vmap(jax.grad(lambda row: network.apply(params, row[None])[0]))(observations)
    steepness = jnp.linalg.norm(slopes, axis=-1)
    assert 0.05 < float(steepness.max()) < 1.05
    plain = networks.OccupancyDiscriminator((16, 16))
    slopes = jax.vmap(jax.grad(lambda row: plain.apply(params, row[None])[0]))(observations)
    assert float(jnp.linalg.norm(slopes, axis=-1).max()) > 5.0
