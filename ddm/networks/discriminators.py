"""Discriminators: one logit, above 0 for what was demonstrated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.networks.encoders import ObservationEncoder
from ddm.networks.mlp import MLP, Network
from ddm.networks.spectral_dense import SpectralDense


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


class OccupancyDiscriminator(Network):
    """Logits (B,) of observations (B, *O) with actions (B, A), next observations (B, *O), or both.

    What is None is left out. Layers are tanh, as in GAIL's and DAC's code.
    """

    hidden_sizes: tuple[int, ...]
    encoder: str = "none"
    spectral_norm: bool = False  # each layer has a largest singular value of 1

    @nn.compact
    def __call__(
        self,
        observations: jax.Array,
        actions: jax.Array | None = None,
        next_observations: jax.Array | None = None,
    ) -> jax.Array:
        encode = ObservationEncoder(self.encoder, name="encoder")
        parts = [encode(observations)]
        if actions is not None:
            parts.append(actions)
        if next_observations is not None:
            parts.append(encode(next_observations))
        dense = SpectralDense if self.spectral_norm else nn.Dense
        start = nn.initializers.orthogonal()  # keeps the variance through a tanh near 0
        mlp = MLP(self.hidden_sizes, 1, jnp.tanh, kernel_init=start, dense=dense, name="mlp")
        return mlp(jnp.concatenate(parts, axis=-1))[..., 0]
