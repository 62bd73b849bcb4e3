"""Densities against closed forms, and their behaviour at the edge of the action box."""

import builtins

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import networks
from ddm.errors import MissingDependencyError


def test_diagonal_gaussian_log_density_by_hand():
    policy = networks.diagonal_gaussian(jnp.array([[0.0, 1.0]]), jnp.log(jnp.array([1.0, 2.0])))
    # -1/2 (1 + 1/4) - log 1 - log 2 - log 2 pi
    expected = -0.625 - np.log(2.0) - np.log(2.0 * np.pi)
    np.testing.assert_allclose(policy.log_prob(jnp.array([[1.0, 2.0]])), [expected], rtol=1e-6)


def test_tanh_gaussian_density_integrates_to_one():
    policy = networks.TanhGaussian(jnp.array([0.5]), jnp.array([-0.3]))
    grid = jnp.linspace(-0.99999, 0.99999, 200_001)[:, None]
    density = np.exp(policy.log_prob(grid))
    assert np.trapezoid(density, grid[:, 0]) == pytest.approx(1.0, abs=1e-3)


def test_tanh_gaussian_agrees_with_the_change_of_variables():
    mean, std, action = 0.2, 0.7, 0.6
    raw = np.arctanh(action)
    expected = (
        -0.5 * ((raw - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
        - np.log(1.0 - action**2)
    )  # fmt: skip
    policy = networks.TanhGaussian(jnp.array([mean]), jnp.log(jnp.array([std])))
    assert policy.log_prob(jnp.array([action])) == pytest.approx(expected, rel=1e-5)


def test_sampled_log_densities_agree_with_evaluated_ones():
    policy = networks.TanhGaussian(jnp.zeros((4, 2)), jnp.full((4, 2), -1.0))
    actions, log_probs = policy.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(3,))
    assert actions.shape == (3, 4, 2)
    np.testing.assert_allclose(policy.log_prob(actions), log_probs, atol=1e-3)


def test_raw_samples_are_those_of_the_gaussian_and_actions_their_tanh():
    policy = networks.TanhGaussian(jnp.full((2,), 3.0), jnp.full((2,), jnp.log(0.5)))
    raw = policy.sample_raw(seed=jax.random.key(0), sample_shape=(4000,))
    np.testing.assert_allclose(raw.mean(axis=0), 3.0, atol=0.05)
    np.testing.assert_allclose(raw.std(axis=0), 0.5, atol=0.03)
    actions = policy.sample(seed=jax.random.key(0), sample_shape=(4000,))
    np.testing.assert_allclose(actions, np.tanh(raw), rtol=1e-6)


def test_tanh_gaussian_is_finite_at_the_edge_with_finite_gradients():
    def log_prob(mean):
        policy = networks.TanhGaussian(mean, jnp.full((2,), -5.0))
        return policy.log_prob(jnp.array([1.0, -1.0]))

    chex.assert_tree_all_finite((log_prob(jnp.zeros(2)), jax.grad(log_prob)(jnp.zeros(2))))


def test_far_samples_have_finite_log_densities():
    policy = networks.TanhGaussian(jnp.array([50.0]), jnp.array([0.0]))
    chex.assert_tree_all_finite(policy.sample_and_log_prob(seed=jax.random.key(0)))


def test_categorical_is_a_softmax():
    policy = networks.categorical(jnp.log(jnp.array([1.0, 3.0])))
    np.testing.assert_allclose(jnp.exp(policy.log_prob(jnp.array([0, 1]))), [0.25, 0.75], rtol=1e-6)
    assert policy.mode() == 1


def test_a_missing_distrax_is_named(monkeypatch):
    real_import = builtins.__import__

    def without_distrax(name, *args, **kwargs):
        if name == "distrax":
            raise ImportError("No module named 'distrax'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_distrax)
    with pytest.raises(MissingDependencyError, match="pip install distrax"):
        networks.diagonal_gaussian(jnp.zeros(1), jnp.zeros(1))


def test_mixture_agrees_with_float64_sums():
    random = np.random.default_rng(0)
    logits, means = random.normal(size=(6, 3)), random.normal(size=(6, 3, 2))
    log_stds, actions = random.normal(size=(6, 3, 2)), random.normal(size=(6, 2))
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    scaled = (actions[:, None] - means) / np.exp(log_stds)
    densities = np.exp(-0.5 * scaled**2 - log_stds) / np.sqrt(2 * np.pi)
    expected = np.log((weights * densities.prod(-1)).sum(-1))
    mixture = networks.GaussianMixture(*map(jnp.float32, (logits, means, log_stds)))
    np.testing.assert_allclose(mixture.log_prob(jnp.float32(actions)), expected, rtol=1e-5)


def test_mixture_draws_components_by_weight_and_never_their_mean():
    logits = jnp.log(jnp.array([0.25, 0.75]))
    mixture = networks.GaussianMixture(
        jnp.broadcast_to(logits, (4000, 2)),
        jnp.broadcast_to(jnp.array([[-1.0], [1.0]]), (4000, 2, 1)),
        jnp.full((4000, 2, 1), jnp.log(0.1)),
    )
    noiseless = mixture.sample_means(seed=jax.random.key(0))
    assert set(np.unique(noiseless)) == {-1.0, 1.0}
    assert np.mean(noiseless > 0) == pytest.approx(0.75, abs=0.03)
    samples = mixture.sample(seed=jax.random.key(1))
    assert np.mean(samples > 0) == pytest.approx(0.75, abs=0.03)
    assert np.std(samples - np.sign(samples)) == pytest.approx(0.1, abs=0.01)
    np.testing.assert_array_equal(mixture.mode(), 1.0)
