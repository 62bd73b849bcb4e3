"""NoiseBC against ridge regression: noise on inputs is a penalty on slopes."""

import chex
import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.errors import InputError
from ddm.imitation import bc, noise_bc
from ddm.types import Batch

CONTRACT = contract.Contract(
    variants=[{"head": "mse"}],
    other={
        "head": "tanh_gaussian",
        "features": lambda observations: 2.0 * contract.pair_features(observations),
        "label_smoothing": 0.3,
    },
    context={
        "features": {
            "head": "linear_softmax",
            "num_actions": contract.NUM_ACTIONS,
            "features": contract.pair_features,
        },
        "label_smoothing": {"head": "categorical", "num_actions": contract.NUM_ACTIONS},
    },
)


def _log(rows=512):
    random = np.random.default_rng(0)
    observations = random.normal(size=(rows, 2))
    actions = observations @ [[0.5], [-0.3]] + 0.1
    return Batch(
        observations=jnp.asarray(observations, jnp.float32),
        actions=jnp.asarray(actions, jnp.float32),
    )


def test_a_linear_policy_becomes_the_ridge_regression_of_the_noise():
    """E_x |a - W (s + x)|^2 = |a - W s|^2 + noise^2 |W|^2, on average over the rows."""
    batch, noise = _log(), 0.5
    config = noise_bc.Config(
        head="linear_gaussian", noise=noise, learning_rate=0.03, decay_steps=3000
    )

    @jax.jit
    def train(key):
        state = noise_bc.init(config, key, batch)
        return jax.lax.scan(
            lambda state, _: noise_bc.update(config, state, batch), state, length=3000
        )[0]

    state = train(jax.random.key(0))
    policy = jax.vmap(lambda s: bc.act(config, state, s, jax.random.key(0), deterministic=True)[0])
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], np.float32)
    origin, *others = np.asarray(policy(points))[:, 0]
    s, a = np.asarray(batch.observations), np.asarray(batch.actions)
    centred = s - s.mean(0)
    gram = centred.T @ centred / len(s) + noise**2 * np.eye(2)
    expected = np.linalg.solve(gram, centred.T @ (a - a.mean()) / len(s))[:, 0]
    np.testing.assert_allclose(np.array(others) - origin, expected, atol=0.015)
    assert np.abs(expected - [0.5, -0.3]).max() > 0.09  # the noise is not a detail


def test_without_noise_it_is_bc_and_with_noise_each_step_draws_anew():
    batch = contract.make_batch(noise_bc, noise_bc.Config())
    config = contract.small_config(noise_bc, noise=0.0)
    state = contract.jitted_init(noise_bc)(config, jax.random.key(0), batch)
    ours, metrics = contract.jitted_update(noise_bc)(config, state, batch)
    theirs, expected = contract.jitted_update(bc)(contract.small_config(bc), state, batch)
    chex.assert_trees_all_close((ours.policy, metrics), (theirs.policy, expected))
    still = config.replace(noise=1.0, learning_rate=0.0)
    state, first = contract.jitted_update(noise_bc)(still, state, batch)
    _, second = contract.jitted_update(noise_bc)(still, state, batch)
    assert first["loss"] != second["loss"]


def test_images_are_refused():
    config = noise_bc.Config(encoder="conv")
    batch = contract.make_batch(noise_bc, config)
    with pytest.raises(InputError, match=r"noise_bc: batch.observations has shape \(8, 8, 8, 1\)"):
        noise_bc.init(config, jax.random.key(0), batch)
