"""Heads: ranges of their outputs and the bounds they promise."""

import jax
import numpy as np

from ddm import networks

OBSERVATIONS = 10.0 * jax.random.normal(jax.random.key(1), (16, 3))


def test_deterministic_actions_lie_in_the_box():
    network = networks.DeterministicPolicy((8,), 2)
    params = network.init(jax.random.key(0), OBSERVATIONS)
    actions = network.apply(params, 100.0 * OBSERVATIONS)
    assert actions.shape == (16, 2)
    assert np.abs(actions).max() <= 1.0


def test_gaussian_std_is_one_vector_unless_state_dependent():
    for state_dependent, distinct in ((False, 1), (True, 16)):
        network = networks.GaussianPolicy((8,), 2, state_dependent_std=state_dependent)
        params = network.init(jax.random.key(0), OBSERVATIONS, -5.0, 2.0)
        std = network.apply(params, 0.1 * OBSERVATIONS, -50.0, 50.0).stddev()
        assert len(np.unique(np.broadcast_to(std, (16, 2))[:, 0])) == distinct


def test_log_std_bounds_hold():
    network = networks.GaussianPolicy((8,), 2, state_dependent_std=True)
    params = network.init(jax.random.key(0), OBSERVATIONS, -5.0, 2.0)
    std = network.apply(params, 1e4 * OBSERVATIONS, -1.0, 0.5).stddev()
    assert std.min() >= np.exp(-1.0) - 1e-6
    assert std.max() <= np.exp(0.5) + 1e-5


def test_tanh_gaussian_mode_is_tanh_of_the_mean():
    network = networks.TanhGaussianPolicy((8,), 2)
    params = network.init(jax.random.key(0), OBSERVATIONS, -5.0, 2.0)
    policy = network.apply(params, OBSERVATIONS, -5.0, -5.0)
    samples = policy.sample(seed=jax.random.key(2), sample_shape=(200,))
    np.testing.assert_allclose(samples.mean(0), policy.mode(), atol=5e-3)


def test_dropout_is_off_when_deterministic():
    network = networks.GaussianPolicy((64,), 1, dropout_rate=0.5)
    params = network.init(jax.random.key(0), OBSERVATIONS, -5.0, 2.0)

    def mean(seed, deterministic):
        return network.apply(
            params, OBSERVATIONS, -5.0, 2.0,
            deterministic=deterministic, rngs={"dropout": jax.random.key(seed)},
        ).mean()  # fmt: skip

    np.testing.assert_array_equal(mean(0, True), mean(1, True))
    assert not np.allclose(mean(0, False), mean(1, False))


def test_logits_are_those_of_the_distribution_up_to_its_normalisation():
    network = networks.CategoricalPolicy((8,), 3)
    params = network.init(jax.random.key(0), OBSERVATIONS)
    logits = network.apply(params, OBSERVATIONS, method="logits")
    policy = network.apply(params, OBSERVATIONS)
    np.testing.assert_allclose(policy.probs, jax.nn.softmax(logits), atol=1e-6)
    assert np.abs(jax.nn.logsumexp(logits, axis=-1)).min() > 1e-3
