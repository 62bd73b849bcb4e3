"""The shared pieces of weighted regression, on linear networks whose numbers numpy repeats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.errors import InputError
from ddm.policy_constraint.parts import regression
from ddm.types import Batch

KEY = jax.random.key(0)
OBSERVATIONS = jax.random.normal(KEY, (5, 3))
DISCRETE = regression.Config(hidden_sizes=(), num_actions=4)
REAL = regression.Config(hidden_sizes=())
INDICES = Batch(observations=OBSERVATIONS, actions=jnp.array([0, 1, 2, 3, 0]))
VECTORS = Batch(observations=OBSERVATIONS, actions=jnp.full((5, 2), 0.25))


def test_expected_values_of_a_softmax_are_exact():
    actor = regression.init_actor(DISCRETE, KEY, INDICES, "test")
    critic = regression.init_critic(DISCRETE, KEY, INDICES)
    policy = regression.policy_at(DISCRETE, actor, OBSERVATIONS)
    values = np.asarray(critic(OBSERVATIONS))
    expected = np.sum(np.asarray(policy.probs) * values.min(axis=0), axis=1)
    found = regression.expected_values(DISCRETE, critic, policy, OBSERVATIONS, KEY)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    parts = regression.policy_values(DISCRETE, critic, policy, INDICES, KEY, 1)
    np.testing.assert_allclose(np.sum(parts.shares * parts.values, axis=1), expected, rtol=1e-5)
    np.testing.assert_allclose(parts.logged, values.min(axis=0)[range(5), INDICES.actions])


def test_samples_of_a_gaussian_share_the_weight_and_stay_in_the_box():
    actor = regression.init_actor(REAL, KEY, VECTORS, "test")
    critic = regression.init_critic(REAL, KEY, VECTORS)
    policy = regression.policy_at(REAL, actor, OBSERVATIONS)
    parts = regression.policy_values(REAL, critic, policy, VECTORS, KEY, 3)
    np.testing.assert_allclose(parts.shares, np.full((5, 3), 1.0 / 3.0))
    samples = jnp.moveaxis(policy.sample(seed=KEY, sample_shape=(3,)), 0, 1)
    assert np.abs(samples).max() > 1.0  # or nothing is clipped
    values = critic(OBSERVATIONS, jnp.clip(samples, -1.0, 1.0)).min(axis=0)
    np.testing.assert_allclose(parts.values, values, rtol=1e-5)
    action = regression.act(REAL, actor, OBSERVATIONS[0], KEY)
    assert np.abs(action).max() <= 1.0


@pytest.mark.parametrize(
    ("config", "batch", "message"),
    [(REAL, INDICES, "set num_actions"), (DISCRETE, VECTORS, "expected integers")],
)
def test_actions_of_the_other_kind_are_refused(config, batch, message):
    with pytest.raises(InputError, match=f"test: .*{message}"):
        regression.init_actor(config, KEY, batch, "test")
