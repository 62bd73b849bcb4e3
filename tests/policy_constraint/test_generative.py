"""The shared pieces of methods with a generative behaviour model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddm import networks
from ddm.errors import InputError
from ddm.policy_constraint import bcq
from ddm.policy_constraint.parts import generative
from ddm.types import Batch

KEY = jax.random.key(0)
CONFIG = generative.Config(hidden_sizes=(), vae_hidden_sizes=(8,), minimum_weight=0.75)
OBSERVATIONS = jax.random.normal(KEY, (4, 3))
BATCH = Batch(observations=OBSERVATIONS, actions=jnp.tanh(OBSERVATIONS[:, :2]))
PROPOSALS = jnp.tanh(jax.random.normal(jax.random.key(1), (4, 6, 2)))


@pytest.fixture(scope="module")
def critic():
    return jax.jit(generative.init_critic)(CONFIG, KEY, BATCH)


def test_the_best_value_mixes_the_critics_first_and_takes_the_maximum_then(critic):
    values = np.asarray(critic(OBSERVATIONS, PROPOSALS))
    assert values.shape == (2, 4, 6)
    expected = (0.75 * values.min(axis=0) + 0.25 * values.max(axis=0)).max(axis=1)
    np.testing.assert_allclose(generative.best_value(CONFIG, values), expected, rtol=1e-5)


def test_the_first_critic_chooses(critic):
    first = critic(OBSERVATIONS, PROPOSALS)[0]
    chosen = generative.choose(critic, OBSERVATIONS[2], PROPOSALS[2])
    np.testing.assert_array_equal(chosen, PROPOSALS[2, int(jnp.argmax(first[2]))])


def test_without_latents_all_proposals_at_a_state_are_one():
    vae = jax.jit(generative.init_vae)(CONFIG, KEY, BATCH)
    repeated = generative.repeated_features(vae, OBSERVATIONS[:1], 6)
    clipped = generative.propose(CONFIG.replace(latent_clip=0.0), vae, repeated, KEY)
    np.testing.assert_allclose(clipped, jnp.broadcast_to(clipped[:, :1], (1, 6, 2)), rtol=1e-6)
    free = generative.propose(CONFIG, vae, repeated, KEY)
    assert np.std(free, axis=1).min() > 1e-4


class Flattened(networks.Network):
    """A network of images (B, H, W) as if they were vectors."""

    network: networks.Network

    @nn.compact
    def __call__(self, images, *others):
        return self.network(images.reshape(*images.shape[:-2], -1), *others)


class FlattenedVAE(networks.ActionVAE):
    def embed(self, observations):
        return observations.reshape(*observations.shape[:-2], -1)


def test_own_networks_read_images():
    config = bcq.Config(hidden_sizes=(8,), vae_hidden_sizes=(8,), num_eval_samples=3)
    own = config.replace(
        vae_network=lambda config, size: FlattenedVAE((8,), 2 * size, size, bounded=False),
        critic_network=lambda config, size: Flattened(generative.critic_network(config, size)),
        actor_network=lambda config, size: Flattened(bcq.actor_network(config, size)),
    )
    images = jax.random.normal(KEY, (4, 2, 3))
    batch = BATCH.replace(
        observations=images, next_observations=images + 1.0, rewards=jnp.ones(4),
        terminations=jnp.zeros(4, bool),
    )  # fmt: skip
    state = jax.eval_shape(bcq.init, own, KEY, batch)
    after, _ = jax.eval_shape(bcq.update, own, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    action, _ = jax.eval_shape(lambda state: bcq.act(own, state, images[0], KEY), after)
    assert action.shape == (2,)
    with pytest.raises(InputError, match="unless you give critic_network, vae_network, actor_net"):
        bcq.init(config, KEY, batch)


def test_only_a_model_that_still_learns_is_reported():
    assert generative.diagnose({"vae_progress": 0.01}) == []
    [sentence] = generative.diagnose({"vae_progress": 0.3})
    assert "fell by 30%" in sentence
