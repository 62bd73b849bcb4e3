"""The parts of a variational autoencoder of actions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import networks

OBSERVATIONS = jax.random.normal(jax.random.key(1), (5, 3))
ACTIONS = jnp.tanh(jax.random.normal(jax.random.key(2), (5, 2)))
BOUNDS = (-8.0, 4.0)
KEY = jax.random.key(3)


def _vae(prior="standard_normal", **options):
    network = networks.ActionVAE((16,), 4, 2, prior_kind=prior, **{"num_components": 3, **options})
    init = jax.jit(network.init)
    return network, init(jax.random.key(0), OBSERVATIONS, ACTIONS, KEY, *BOUNDS)


@pytest.mark.parametrize("prior", networks.PRIORS)
def test_one_pass_is_encode_sample_decode(prior):
    network, params = _vae(prior)
    outputs = network.apply(params, OBSERVATIONS, ACTIONS, KEY, *BOUNDS)
    posterior = network.apply(params, OBSERVATIONS, ACTIONS, *BOUNDS, method="encode")
    law = network.apply(params, OBSERVATIONS, *BOUNDS, method="prior")
    latents = posterior.sample(seed=KEY)
    decoded = network.apply(params, OBSERVATIONS, latents, method="decode")
    assert latents.shape == (5, 4)
    np.testing.assert_allclose(outputs.means, decoded, rtol=1e-6)
    np.testing.assert_allclose(
        outputs.log_weight, law.log_prob(latents) - posterior.log_prob(latents), rtol=1e-5
    )
    assert outputs.kl.shape == outputs.log_weight.shape == (5,)


def test_the_divergence_is_closed_for_gaussians_and_the_sampled_one_for_mixtures():
    for prior, closed in (("standard_normal", True), ("learned", True), ("mixture", False)):
        network, params = _vae(prior)
        several = [
            network.apply(params, OBSERVATIONS, ACTIONS, jax.random.key(seed), *BOUNDS)
            for seed in (0, 1)
        ]
        assert np.allclose(several[0].kl, several[1].kl) == closed
        if not closed:
            np.testing.assert_array_equal(several[0].kl, -several[0].log_weight)


def test_the_standard_normal_prior_is_one():
    network, params = _vae()
    prior = network.apply(params, OBSERVATIONS, *BOUNDS, method="prior")
    np.testing.assert_allclose(prior.log_prob(jnp.zeros((5, 4))), -2.0 * np.log(2 * np.pi))
    np.testing.assert_array_equal(prior.sample_means(seed=KEY), np.zeros((5, 4)))
    assert "prior_network" not in params["params"]


def test_a_mixture_draws_components_that_differ():
    network, params = _vae("mixture")
    prior = network.apply(params, OBSERVATIONS[:1], *BOUNDS, method="prior")
    drawn = [np.asarray(prior.sample_means(seed=jax.random.key(seed))[0]) for seed in range(20)]
    assert {row.tobytes() for row in drawn} == {np.asarray(row).tobytes() for row in prior.means[0]}


def test_log_variances_are_clipped_and_bounded_actions_lie_in_the_box():
    network, params = _vae()
    posterior = network.apply(params, 1e3 * OBSERVATIONS, ACTIONS, *BOUNDS, method="encode")
    assert posterior.log_var.min() == -8.0
    assert posterior.log_var.max() == 4.0
    latents = 1e3 * jnp.ones((5, 4))
    for bounded in (True, False):
        network, params = _vae(bounded=bounded)
        actions = network.apply(params, OBSERVATIONS, latents, method="decode")
        assert (np.abs(actions).max() <= 1.0) == bounded


def test_several_latents_of_each_observation_decode_as_one_by_one():
    network, params = _vae()
    latents = jax.random.normal(KEY, (5, 7, 4))
    together = network.apply(params, OBSERVATIONS, latents, method="decode")
    assert together.shape == (5, 7, 2)
    alone = network.apply(params, OBSERVATIONS, latents[:, 3], method="decode")
    np.testing.assert_allclose(together[:, 3], alone, rtol=1e-5)


def test_images_are_encoded_once_for_all_parts():
    images = jax.random.randint(KEY, (5, 8, 8, 1), 0, 256).astype(jnp.uint8)
    network = networks.ActionVAE((16,), 4, 2, encoder="conv")
    params = network.init(jax.random.key(0), images, ACTIONS, KEY, *BOUNDS)
    features = network.apply(params, images, method="embed")
    latents = jnp.zeros((5, 4))
    np.testing.assert_allclose(
        network.apply(params, features, latents, method="decode"),
        network.apply(params, images, KEY, *BOUNDS, deterministic=True, method="generate"),
        rtol=1e-6,
    )
