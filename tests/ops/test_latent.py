"""Divergences of Gaussian latents against closed forms and against many samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ddm.networks import GaussianMixture
from ddm.ops import latent

MEAN, LOG_VAR = jnp.array([0.7, -1.2, 0.1]), jnp.array([-0.5, 0.8, 0.0])
OTHER_MEAN, OTHER_LOG_VAR = jnp.array([-0.3, 0.4, 1.0]), jnp.array([0.2, -0.6, 0.5])


def _samples(count=100_000):
    shape = (count, 3)
    mean, log_var = jnp.broadcast_to(MEAN, shape), jnp.broadcast_to(LOG_VAR, shape)
    return latent.reparameterize(jax.random.key(0), mean, log_var)


def test_samples_have_the_given_mean_and_variance():
    samples = _samples()
    np.testing.assert_allclose(samples.mean(axis=0), MEAN, atol=0.02)
    np.testing.assert_allclose(samples.var(axis=0), np.exp(LOG_VAR), rtol=0.02)


def test_log_prob_is_scipys():
    values = _samples(50)
    expected = scipy.stats.multivariate_normal(MEAN, np.diag(np.exp(LOG_VAR))).logpdf(values)
    got = latent.gaussian_log_prob(values, MEAN[None], LOG_VAR[None])
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_kl_to_the_standard_normal_by_hand():
    # mu = 1, sigma = 1: 1/2. mu = 0, sigma^2 = 4: (4 - 1 - log 4) / 2. The prior itself: 0.
    mean, log_var = jnp.array([[1.0], [0.0], [0.0]]), jnp.log(jnp.array([[1.0], [4.0], [1.0]]))
    expected = [0.5, 0.5 * (3.0 - np.log(4.0)), 0.0]
    np.testing.assert_allclose(latent.kl_to_standard_normal(mean, log_var), expected, atol=1e-6)


def test_the_standard_normal_is_one_of_the_gaussians():
    zeros = jnp.zeros(3)
    got = latent.kl_between_gaussians(MEAN, LOG_VAR, zeros, zeros)
    assert got == pytest.approx(float(latent.kl_to_standard_normal(MEAN, LOG_VAR)), rel=1e-6)
    assert latent.kl_between_gaussians(MEAN, LOG_VAR, MEAN, LOG_VAR) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("other", [(jnp.zeros(3), jnp.zeros(3)), (OTHER_MEAN, OTHER_LOG_VAR)])
def test_closed_forms_are_the_means_of_many_samples(other):
    samples = _samples()
    prior_log_prob = latent.gaussian_log_prob(samples, other[0][None], other[1][None])
    estimates = latent.sampled_kl(samples, MEAN[None], LOG_VAR[None], prior_log_prob)
    exact = latent.kl_between_gaussians(MEAN, LOG_VAR, *other)
    assert float(estimates.mean()) == pytest.approx(float(exact), rel=0.02)


def test_kl_to_a_mixture_against_its_integral():
    # q = N(0.5, 0.6^2); p = 0.3 N(-1, 0.5^2) + 0.7 N(1, 0.8^2), on a grid.
    grid = np.linspace(-6.0, 6.0, 20_001)
    q = scipy.stats.norm(0.5, 0.6).pdf(grid)
    p = 0.3 * scipy.stats.norm(-1, 0.5).pdf(grid) + 0.7 * scipy.stats.norm(1, 0.8).pdf(grid)
    exact = np.sum(q * np.log(q / p)) * (grid[1] - grid[0])
    mean, log_var = jnp.full((100_000, 1), 0.5), jnp.full((100_000, 1), 2 * np.log(0.6))
    samples = latent.reparameterize(jax.random.key(1), mean, log_var)
    mixture = GaussianMixture(
        jnp.log(jnp.array([0.3, 0.7])),
        jnp.array([[-1.0], [1.0]]),
        jnp.log(jnp.array([[0.5], [0.8]])),
    )
    estimates = latent.sampled_kl(samples, mean, log_var, mixture.log_prob(samples))
    assert float(estimates.mean()) == pytest.approx(exact, rel=0.02)


def test_free_bits_hold_the_gradient_below_the_floor():
    value = jax.value_and_grad(lambda scale, floor: latent.free_bits(scale * KL, floor))
    assert value(1.0, 1.0) == (1.0, 0.0)  # the mean of 0.5 is below the floor of 1
    assert value(4.0, 1.0) == (2.0, 0.5)
    assert value(-1.0, 0.0) == (-0.5, 0.5)  # no floor: an estimate may be negative


KL = jnp.array([0.25, 0.75])


def test_the_weight_warms_up_linearly():
    weights = [float(latent.warm_up(2.0, step, 4)) for step in range(6)]
    assert weights == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]
    assert latent.warm_up(2.0, 0, 0) == 2.0


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        latent.kl_to_standard_normal(jnp.zeros((4, 2)), jnp.zeros(2))
    with pytest.raises(AssertionError):
        latent.gaussian_log_prob(jnp.zeros((4, 2)), jnp.zeros(2), jnp.zeros(2))
    with pytest.raises(AssertionError):
        latent.sampled_kl(
            jnp.zeros((4, 2)), jnp.zeros((4, 2)), jnp.zeros((4, 2)), jnp.zeros((4, 1))
        )
