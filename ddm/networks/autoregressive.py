"""Policies over D tokens of K bins each, one after the other.

    p(b_1, ..., b_D | s) = prod_d p(b_d | s, b_1, ..., b_{d-1})

For known tokens a decoder gives all D factors in one call (teacher forcing). While tokens are
drawn, it gives one factor after the other (`start`, `step`). The place before the first token holds
the token K, and so does a token that is hidden from the decoder.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.errors import InputError
from ddm.networks.encoders import ObservationEncoder
from ddm.networks.mlp import MLP, Network, fan_in_uniform
from ddm.networks.transformer import Transformer, causal_mask

_small_normal = nn.initializers.normal(0.02)


def _learned(*shape: int) -> tuple[Any, ...]:
    """Initialiser, shape and dtype of learned vectors."""
    return _small_normal, shape, jnp.float32


class Decoder(Network):
    """What all decoders have; the carry's leaves have the leading axes of the features."""

    num_tokens: int  # D
    num_bins: int  # K

    def __call__(
        self, features: jax.Array, tokens: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Logits (..., D, K) of each token given the ones before it.

        Args:
          features: (..., F) what the tokens are conditioned on.
          tokens: (..., D) int32; the last one is not read.
          deterministic: no dropout.
        """
        raise NotImplementedError

    def start(self, features: jax.Array) -> Any:
        """The carry before the first step."""
        raise NotImplementedError

    def step(self, carry: Any, token: jax.Array, index: jax.Array) -> tuple[jax.Array, Any]:
        """Logits (..., K) of place `index` after `token` (...,), the one before it; the carry."""
        raise NotImplementedError

    def before(self, tokens: jax.Array) -> jax.Array:
        """The token before each place: (..., D), the first one K."""
        return jnp.concatenate(
            [jnp.full_like(tokens[..., :1], self.num_bins), tokens[..., :-1]], axis=-1
        )


class MLPDecoder(Decoder):
    """One perceptron for all places, of (features, place, the tokens before it as numbers).

    The first layer is linear in the tokens, so each token is added to it once: one batched call in
    training, and O(1) work per step for the prefix (as in NADE, Larochelle and Murray 2011).
    """

    hidden_sizes: tuple[int, ...]

    def setup(self) -> None:
        if not self.hidden_sizes:
            raise InputError("MLPDecoder: hidden_sizes is empty, expected at least one layer")
        first, *rest = self.hidden_sizes
        start = fan_in_uniform, (self.num_tokens, first), jnp.float32
        self.features = nn.Dense(first, kernel_init=fan_in_uniform)
        self.prefix = self.param("prefix", *start)  # row d: of the token before d
        self.place = self.param("place", *start)
        self.mlp = MLP(tuple(rest), self.num_bins)

    def __call__(
        self, features: jax.Array, tokens: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        del deterministic
        numbers = self._number(self.before(tokens))
        prefix, place = (
            jnp.broadcast_to(rows, (*tokens.shape, rows.shape[-1]))
            for rows in (self.prefix, self.place)
        )
        prefix = jnp.cumsum(numbers * prefix, axis=-2)
        return self._head(self.features(features)[..., None, :] + prefix + place)

    def start(self, features: jax.Array) -> jax.Array:
        return self.features(features)

    def step(
        self, carry: jax.Array, token: jax.Array, index: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        prefix = jnp.broadcast_to(self.prefix[index], carry.shape)
        carry = carry + self._number(token) * prefix
        return self._head(carry + jnp.broadcast_to(self.place[index], carry.shape)), carry

    def _number(self, tokens: jax.Array) -> jax.Array:
        """(..., 1): -1 .. 1 from the first bin to the last, 0 for no token."""
        numbers = (2.0 * tokens.astype(jnp.float32) + 1.0) / self.num_bins - 1.0
        return jnp.where(tokens < self.num_bins, numbers, 0.0)[..., None]

    def _head(self, hidden: jax.Array) -> jax.Array:
        return self.mlp(nn.relu(hidden))


class FactorisedDecoder(Decoder):
    """Independent tokens: a weaker model, which mixes the modes of different dimensions."""

    hidden_sizes: tuple[int, ...]

    def setup(self) -> None:
        self.mlp = MLP(self.hidden_sizes, self.num_tokens * self.num_bins)

    def __call__(
        self, features: jax.Array, tokens: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        del tokens, deterministic
        return self.start(features)

    def start(self, features: jax.Array) -> jax.Array:
        return self.mlp(features).reshape(*features.shape[:-1], self.num_tokens, self.num_bins)

    def step(
        self, carry: jax.Array, token: jax.Array, index: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del token
        return jax.lax.dynamic_index_in_dim(carry, index, axis=-2, keepdims=False), carry


class LSTMDecoder(Decoder):
    """An LSTM over the tokens, which starts from the features and sees them at each place.

    The features pass a perceptron first: without it the first token would depend on the features
    through a single step of a cell.
    """

    width: int
    hidden_sizes: tuple[int, ...] = ()

    def setup(self) -> None:
        self.embed = nn.Embed(self.num_bins + 1, self.width)
        self.place = self.param("place", *_learned(self.num_tokens, self.width))
        self.features = MLP(self.hidden_sizes, 3 * self.width)
        self.cell = nn.OptimizedLSTMCell(self.width)
        self.rnn = nn.RNN(self.cell)
        self.head = nn.Dense(self.num_bins)

    def __call__(
        self, features: jax.Array, tokens: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        del deterministic
        memory, seen = self.start(features)
        inputs = self.embed(self.before(tokens))
        inputs = inputs + jnp.broadcast_to(self.place, inputs.shape) + seen[..., None, :]
        return self.head(self.rnn(inputs, initial_carry=memory))

    def start(self, features: jax.Array) -> Any:
        memory, output, seen = jnp.split(self.features(features), 3, axis=-1)
        return (memory, jnp.tanh(output)), seen

    def step(self, carry: Any, token: jax.Array, index: jax.Array) -> tuple[jax.Array, Any]:
        memory, seen = carry
        place = jnp.broadcast_to(self.place[index], seen.shape)
        memory, hidden = self.cell(memory, self.embed(token) + place + seen)
        return self.head(hidden), (memory, seen)


class TransformerDecoder(Decoder):
    """A causal transformer over [features, b_1, ..., b_{D-1}], with learned places.

    With `cache`, a step costs one token. Without it, a step runs the whole sequence again, with the
    same result.
    """

    width: int
    num_layers: int
    num_heads: int
    dropout_rate: float = 0.0
    cache: bool = True

    def setup(self) -> None:
        self.embed = nn.Embed(self.num_bins + 1, self.width, embedding_init=_small_normal)
        self.place = self.param("place", *_learned(self.num_tokens, self.width))
        self.features = nn.Dense(self.width)
        self.transformer = Transformer(
            self.num_layers, self.width, self.num_heads, 4 * self.width, self.dropout_rate
        )
        self.dropout = nn.Dropout(self.dropout_rate)
        self.head = nn.Dense(self.num_bins)

    def __call__(
        self, features: jax.Array, tokens: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        inputs = self.embed(self.before(tokens))
        inputs = inputs + jnp.broadcast_to(self.place, inputs.shape)
        inputs = inputs.at[..., 0, :].add(self.features(features))
        inputs = self.dropout(inputs, deterministic=deterministic)
        mask = causal_mask(self.num_tokens)
        return self.head(self.transformer(inputs, mask, deterministic=deterministic))

    def start(self, features: jax.Array) -> Any:
        leading = features.shape[:-1]
        if self.cache:
            return self.features(features), self.transformer.empty_cache(leading, self.num_tokens)
        return features, jnp.full((*leading, self.num_tokens), self.num_bins, jnp.int32)

    def step(self, carry: Any, token: jax.Array, index: jax.Array) -> tuple[jax.Array, Any]:
        return (self._step_cached if self.cache else self._step_again)(carry, token, index)

    def _step_cached(self, carry: Any, token: jax.Array, index: jax.Array) -> tuple[jax.Array, Any]:
        seen, cache = carry
        place = jnp.broadcast_to(self.place[index], seen.shape)
        inputs = self.embed(token) + place + jnp.where(index == 0, seen, 0.0)
        hidden, cache = self.transformer.step(inputs, cache, index)
        return self.head(hidden), (seen, cache)

    def _step_again(self, carry: Any, token: jax.Array, index: jax.Array) -> tuple[jax.Array, Any]:
        features, tokens = carry
        # At the first place, index - 1 = -1 sets the last place instead, which is not read.
        tokens = tokens.at[..., index - 1].set(token)
        logits = self(features, tokens)
        return logits[..., index, :], (features, tokens)


class AutoregressivePolicy(Network):
    """A decoder on encoded frames (..., T, *O), which are concatenated."""

    encoder: str
    decoder: Decoder

    def setup(self) -> None:
        self.encode = ObservationEncoder(self.encoder)

    def __call__(
        self, frames: jax.Array, tokens: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Logits (..., D, K) of tokens (..., D), each given the ones before it."""
        return self.decoder(self._features(frames), tokens, deterministic=deterministic)

    def start(self, frames: jax.Array) -> tuple[Any, jax.Array]:
        """The carry before the first step, and the token K that comes before it."""
        features = self._features(frames)
        none = jnp.full(features.shape[:-1], self.decoder.num_bins, jnp.int32)
        return self.decoder.start(features), none

    def step(self, carry: Any, token: jax.Array, index: jax.Array) -> tuple[jax.Array, Any]:
        """Logits (..., K) of place `index` after `token` (...,), the one before it; the carry."""
        return self.decoder.step(carry, token, index)

    def _features(self, frames: jax.Array) -> jax.Array:
        encoded = self.encode(frames)
        return encoded.reshape(*encoded.shape[:-2], -1)
