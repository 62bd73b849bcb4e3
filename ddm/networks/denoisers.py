"""Networks of diffusion and flow policies: from a noisy chunk of actions to the noise in it.

All map noisy chunks (..., T, A), noise levels (...,) and frames of observation features
(..., To, F) to (..., T, A). Chi et al. 2023 introduced the convolutional network and the
transformer. Noise levels are numbers of about unit resolution (0 .. K - 1); sinusoids tell them
apart.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.networks.encoders import ObservationEncoder
from ddm.networks.mlp import MLP, Network, fan_in_uniform
from ddm.networks.transformer import Transformer, causal_mask, sinusoids

GROUPS = 8  # of the U-Net's group norms


class Denoiser(Network):
    """A denoising network on encoded observations (..., To, *O).

    `encode` and `denoise` are its halves: a sampler encodes once and denoises many times.
    """

    encoder: str
    network: nn.Module

    def setup(self) -> None:
        self.observation_encoder = ObservationEncoder(self.encoder)

    def __call__(
        self,
        noisy: jax.Array,
        levels: jax.Array,
        observations: jax.Array,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        features = self.encode(observations)
        return self.denoise(noisy, levels, features, deterministic=deterministic)

    def encode(self, observations: jax.Array) -> jax.Array:
        """Features (..., To, F) of observations (..., To, *O)."""
        return self.observation_encoder(observations)

    def denoise(
        self,
        noisy: jax.Array,
        levels: jax.Array,
        features: jax.Array,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """(..., T, A) of noisy chunks, levels (), or (...,), and features (..., To, F)."""
        levels = jnp.broadcast_to(levels, noisy.shape[:-2])
        return self.network(noisy, levels, features, deterministic=deterministic)


class LevelEmbedding(Network):
    """Noise levels (...,) to (..., width): sinusoids through a two-layer perceptron."""

    width: int

    @nn.compact
    def __call__(self, levels: jax.Array) -> jax.Array:
        waves = sinusoids(levels, self.width)
        hidden = jax.nn.mish(nn.Dense(4 * self.width, kernel_init=fan_in_uniform)(waves))
        return nn.Dense(self.width, kernel_init=fan_in_uniform)(hidden)


class MLPDenoiser(Network):
    """A perceptron on chunk, level and observations, all flat: for short chunks of few numbers.

    With `residual`, each hidden layer (all of one size) is a branch x + W2 mish(W1 norm(x)) of two
    layers, as in IDQL (Hansen-Estruch et al. 2023). Without `layer_norm` plain layers learn far
    more slowly where there are several modes: after 3,000 updates three layers of 64 units had 10 %
    of their samples on one of three branches, and 86 % with it. Without it a single smooth mode
    fits better.
    """

    hidden_sizes: tuple[int, ...]
    layer_norm: bool = False
    residual: bool = False
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self,
        noisy: jax.Array,
        levels: jax.Array,
        features: jax.Array,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        leading = noisy.shape[:-2]
        inputs = [noisy.reshape(*leading, -1), LevelEmbedding(16, name="level")(levels)]
        inputs = jnp.concatenate([*inputs, features.reshape(*leading, -1)], axis=-1)
        size = noisy.shape[-2] * noisy.shape[-1]
        network = self._residual if self.residual else self._plain
        return network(inputs, size, deterministic).reshape(noisy.shape)

    def _plain(self, inputs: jax.Array, size: int, deterministic: bool) -> jax.Array:
        return MLP(
            self.hidden_sizes,
            size,
            activation=jax.nn.mish,
            layer_norm=self.layer_norm,
            dropout_rate=self.dropout_rate,
            name="mlp",
        )(inputs, deterministic=deterministic)

    def _residual(self, inputs: jax.Array, size: int, deterministic: bool) -> jax.Array:
        width = self.hidden_sizes[0]
        hidden = nn.Dense(width, kernel_init=fan_in_uniform)(inputs)
        for _ in self.hidden_sizes:
            branch = nn.LayerNorm()(hidden) if self.layer_norm else hidden
            branch = nn.Dropout(self.dropout_rate, deterministic=deterministic)(branch)
            branch = jax.nn.mish(nn.Dense(4 * width, kernel_init=fan_in_uniform)(branch))
            hidden = hidden + nn.Dense(width, kernel_init=fan_in_uniform)(branch)
        return nn.Dense(size, kernel_init=fan_in_uniform)(jax.nn.mish(hidden))


class UNetDenoiser(Network):
    """A one-dimensional convolutional U-Net over the chunk's steps (Chi et al. 2023, figure 2).

    Each of L levels has two residual blocks and halves the number of steps, but for the last; two
    blocks follow in the middle, and the way back joins the levels' outputs. Level and observations
    enter every block by FiLM. T is a multiple of 2^(L - 1). As in the authors' code the first
    level's output is not joined; their code that joins local conditions is never reached, and is
    left out.
    """

    widths: tuple[int, ...]  # channels of each level, multiples of 8
    kernel_size: int = 5

    @nn.compact
    def __call__(
        self,
        noisy: jax.Array,
        levels: jax.Array,
        features: jax.Array,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        del deterministic  # it has no dropout
        condition = [LevelEmbedding(self.widths[0], name="level")(levels)]
        condition += [features.reshape(*noisy.shape[:-2], -1)]
        condition = jnp.concatenate(condition, axis=-1)

        def two_blocks(hidden: jax.Array, width: int) -> jax.Array:
            for _ in range(2):
                hidden = FiLMBlock(width, self.kernel_size)(hidden, condition)
            return hidden

        hidden, joined = noisy, []
        for index, width in enumerate(self.widths):
            hidden = two_blocks(hidden, width)
            joined.append(hidden)
            if index < len(self.widths) - 1:
                hidden = nn.Conv(width, (3,), (2,), 1, kernel_init=fan_in_uniform)(hidden)
        hidden = two_blocks(hidden, self.widths[-1])
        for index in reversed(range(1, len(self.widths))):
            width = self.widths[index - 1]
            hidden = two_blocks(jnp.concatenate([hidden, joined[index]], axis=-1), width)
            hidden = nn.ConvTranspose(width, (4,), (2,), kernel_init=fan_in_uniform)(hidden)
        hidden = ConvBlock(self.widths[0], self.kernel_size)(hidden)
        return nn.Conv(noisy.shape[-1], (1,), kernel_init=fan_in_uniform)(hidden)


class ConvBlock(Network):
    """Convolution over the steps, group norm, mish: (..., T, C) to (..., T, width)."""

    width: int
    kernel_size: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        hidden = nn.Conv(self.width, (self.kernel_size,), kernel_init=fan_in_uniform)(inputs)
        return jax.nn.mish(nn.GroupNorm(GROUPS, epsilon=1e-5, reduction_axes=(-2, -1))(hidden))


class FiLMBlock(Network):
    """Two convolution blocks and a skip; between them scale * x + bias from a condition (..., C).

    The scale is the network's output itself, not 1 plus it, as in the authors' code.
    """

    width: int
    kernel_size: int

    @nn.compact
    def __call__(self, inputs: jax.Array, condition: jax.Array) -> jax.Array:
        film = nn.Dense(2 * self.width, kernel_init=fan_in_uniform)(jax.nn.mish(condition))
        scale, bias = jnp.split(film[..., None, :], 2, axis=-1)
        hidden = scale * ConvBlock(self.width, self.kernel_size)(inputs) + bias
        hidden = ConvBlock(self.width, self.kernel_size)(hidden)
        if inputs.shape[-1] == self.width:
            return hidden + inputs
        return hidden + nn.Conv(self.width, (1,), kernel_init=fan_in_uniform)(inputs)


class TransformerDenoiser(Network):
    """A decoder over the noisy actions as tokens (Chi et al. 2023, section III-A).

    The tokens attend to each other, with `causal` each to itself and the ones before it, and to a
    memory of one token for the level and one for each frame. All frames lie at or before the
    chunk's first step, so that no action sees a later observation, and the memory needs no mask.

    The authors' is causal. Then an action's noise is predicted without the actions after it. This
    is not the score of the whole chunk: the actions of a sampled chunk may choose different modes.
    """

    num_layers: int
    width: int
    num_heads: int
    dropout_rate: float = 0.0
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        noisy: jax.Array,
        levels: jax.Array,
        features: jax.Array,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        length = noisy.shape[-2]
        frames = nn.Dense(self.width, name="frames")(features)
        level = sinusoids(levels, self.width)[..., None, :]
        memory = jnp.concatenate([level, frames], axis=-2)
        places = self._positions("memory_positions", memory.shape[-2])
        memory = memory + jnp.broadcast_to(places, memory.shape)
        memory = jax.nn.mish(nn.Dense(4 * self.width, name="memory_hidden")(memory))
        memory = nn.Dense(self.width, name="memory")(memory)

        tokens = nn.Dense(self.width, name="tokens")(noisy)
        places = self._positions("positions", length)
        tokens = tokens + jnp.broadcast_to(places, tokens.shape)
        tokens = nn.Dropout(self.dropout_rate, deterministic=deterministic)(tokens)
        hidden = Transformer(
            self.num_layers,
            self.width,
            self.num_heads,
            4 * self.width,
            self.dropout_rate,
            cross=True,
            name="transformer",
        )(
            tokens,
            causal_mask(length) if self.causal else None,
            memory,
            deterministic=deterministic,
        )
        return nn.Dense(noisy.shape[-1], name="actions")(hidden)

    def _positions(self, name: str, length: int) -> jax.Array:
        return self.param(name, nn.initializers.normal(0.02), (length, self.width), jnp.float32)
