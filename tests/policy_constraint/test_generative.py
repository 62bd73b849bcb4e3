"""The shared pieces of methods with a generative behaviour model."""

import jax
import jax.numpy as jnp
import numpy as np

from ddm.policy_constraint import generative
from ddm.types import Batch

KEY = jax.random.key(0)
CONFIG = generative.Config(hidden_sizes=(), vae_hidden_sizes=(8,), minimum_weight=0.75)
OBSERVATIONS = jax.random.normal(KEY, (4, 3))
BATCH = Batch(observations=OBSERVATIONS, actions=jnp.tanh(OBSERVATIONS[:, :2]))
PROPOSALS = jnp.tanh(jax.random.normal(jax.random.key(1), (4, 6, 2)))


def test_the_best_value_mixes_the_critics_first_and_takes_the_maximum_then():
    critic = generative.init_critic(CONFIG, KEY, BATCH)
    values = np.asarray(
        generative.critic_network(CONFIG).apply(critic.params, OBSERVATIONS, PROPOSALS)
    )
    assert values.shape == (2, 4, 6)
    expected = (0.75 * values.min(axis=0) + 0.25 * values.max(axis=0)).max(axis=1)
    found = generative.best_values(CONFIG, critic.params, OBSERVATIONS, PROPOSALS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_first_critic_chooses():
    critic = generative.init_critic(CONFIG, KEY, BATCH)
    network = generative.critic_network(CONFIG)
    first = network.apply(critic.params, OBSERVATIONS, PROPOSALS)[0]
    np.testing.assert_allclose(
        generative.first_value(CONFIG, critic.params, OBSERVATIONS, PROPOSALS), first, rtol=1e-5
    )
    chosen = generative.choose(CONFIG, critic.params, OBSERVATIONS[2], PROPOSALS[2])
    np.testing.assert_array_equal(chosen, PROPOSALS[2, int(jnp.argmax(first[2]))])


def test_without_latents_all_proposals_at_a_state_are_one():
    vae = generative.init_vae(CONFIG, KEY, BATCH, "test")
    repeated = jnp.broadcast_to(OBSERVATIONS[:1], (6, 3))
    clipped = generative.propose(CONFIG.replace(latent_clip=0.0), vae.params, repeated, KEY)
    np.testing.assert_allclose(clipped, jnp.broadcast_to(clipped[:1], (6, 2)), rtol=1e-6)
    free = generative.propose(CONFIG, vae.params, repeated, KEY)
    assert np.std(free, axis=0).min() > 1e-4
    assert np.abs(free).max() < 1.0


def test_only_a_model_that_still_learns_is_reported():
    assert generative.diagnose({"vae_progress": 0.01}) == []
    [sentence] = generative.diagnose({"vae_progress": 0.3})
    assert "fell by 30%" in sentence
