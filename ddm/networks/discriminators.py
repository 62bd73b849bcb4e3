"""Discriminators: one logit for an observation and an action, above 0 for demonstrated ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.networks.encoders import ObservationEncoder
from ddm.networks.mlp import MLP, Network


class Discriminator(Network):
    """Logits (N, B) of actions (N, B, A) at observations (B, *O), in (-bound, bound).

    It is smooth in actions, because a policy learns from its gradient in them.
    """

    hidden_sizes: tuple[int, ...]
    encoder: str = "none"

    @nn.compact
    def __call__(
        self, observations: jax.Array, actions: jax.Array, bound: jax.Array | float
    ) -> jax.Array:
        encoded = ObservationEncoder(self.encoder, name="encoder")(observations)
        encoded = jnp.broadcast_to(encoded, (len(actions), *encoded.shape))
        inputs = jnp.concatenate([encoded, actions], axis=-1)
        logits = MLP(self.hidden_sizes, 1, nn.silu, name="mlp")(inputs)[..., 0]
        return bound * jnp.tanh(logits / bound)
