"""A variational autoencoder of chunks of actions: the network of ACT (Zhao et al. 2023)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.networks.encoders import ObservationEncoder
from ddm.networks.mlp import Network
from ddm.networks.transformer import Transformer, add_positions
from ddm.ops import latent as latents

_normal = nn.initializers.normal(1.0)


class ChunkVAE(Network):
    """Maps frames (..., To, *O), a chunk (..., T, A) and its mask (..., T) to the decoded chunk.

    Returns (..., T, A) actions, and the mean and log-variance (..., Z) of the latent.
    """

    action_size: int
    chunk_size: int
    latent_dim: int
    width: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int
    dropout_rate: float
    encoder: str

    def setup(self) -> None:
        """The encoder of the latent, and the policy."""
        sizes = (self.width, self.num_heads, 4 * self.width, self.dropout_rate)
        self.observation_encoder = ObservationEncoder(self.encoder)
        self.class_token = self.param("class_token", _normal, (1, self.width), jnp.float32)
        self.observation_in, self.action_in = nn.Dense(self.width), nn.Dense(self.width)
        self.posterior = Transformer(self.num_layers, *sizes)
        self.posterior_out = nn.Dense(2 * self.latent_dim)
        self.latent_in, self.frame_in = nn.Dense(self.width), nn.Dense(self.width)
        self.policy_encoder = Transformer(self.num_layers, *sizes)
        self.queries = self.param("queries", _normal, (self.chunk_size, self.width), jnp.float32)
        self.policy_decoder = Transformer(self.num_decoder_layers, *sizes, cross=True)
        self.output = nn.Dense(self.action_size)

    def __call__(
        self,
        frames: jax.Array,
        chunk: jax.Array,
        valid: jax.Array,
        key: jax.Array,
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Encodes, draws a latent and decodes it."""
        features = self.observation_encoder(frames)
        mean, log_var = self.encode(features[..., -1, :], chunk, valid, deterministic)
        latent = latents.reparameterize(key, mean, log_var)
        return self._decode(features, latent, deterministic), mean, log_var

    def encode(
        self, features: jax.Array, chunk: jax.Array, valid: jax.Array, deterministic: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance (..., Z) of z given features (..., F) and a chunk."""
        actions = self.action_in(chunk)
        first = jnp.broadcast_to(self.class_token, (*actions.shape[:-2], 1, self.width))
        observation = self.observation_in(features)[..., None, :]
        tokens = jnp.concatenate([first, observation, actions], axis=-2)
        tokens = add_positions(tokens)
        real = jnp.ones((*valid.shape[:-1], 2), bool)
        mask = jnp.concatenate([real, valid], axis=-1)[..., None, :]
        hidden = self.posterior(tokens, mask, deterministic=deterministic)
        mean, log_var = jnp.split(self.posterior_out(hidden[..., 0, :]), 2, axis=-1)
        return mean, log_var

    def decode(self, frames: jax.Array, latent: jax.Array) -> jax.Array:
        """Actions (..., T, A) for frames (..., To, *O) and a latent (..., Z), without dropout."""
        return self._decode(self.observation_encoder(frames), latent, True)

    def _decode(self, features: jax.Array, latent: jax.Array, deterministic: bool) -> jax.Array:
        latent_token = self.latent_in(latent)[..., None, :]
        tokens = jnp.concatenate([latent_token, self.frame_in(features)], axis=-2)
        tokens = add_positions(tokens)
        memory = self.policy_encoder(tokens, deterministic=deterministic)
        queries = jnp.broadcast_to(self.queries, (*memory.shape[:-2], *self.queries.shape))
        hidden = self.policy_decoder(queries, memory=memory, deterministic=deterministic)
        return self.output(hidden)
