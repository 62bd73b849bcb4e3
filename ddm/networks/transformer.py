"""Transformers: pre-norm blocks with self- and cross-attention, whole sequences or token by token.

Vaswani et al. 2017, with the layer norm inside the residual branch (Xiong et al. 2020).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ddm.errors import InputError
from ddm.networks.mlp import Network


class Cache(struct.PyTreeNode):
    """Keys and values of the tokens so far, one array per layer.

    As separate arrays they are updated in place inside a scan. Heads come before places, so that
    attention reads memory in order.
    """

    keys: tuple[jax.Array, ...]  # (..., H, T, W / H)
    values: tuple[jax.Array, ...]  # (..., H, T, W / H)


class Attention(Network):
    """Multi-head attention: queries (..., T, W) over keys and values (..., S, H, W / H)."""

    width: int
    num_heads: int
    dropout_rate: float = 0.0

    def setup(self) -> None:
        if self.width % self.num_heads:
            raise InputError(
                f"Transformer: a width of {self.width} does not divide into {self.num_heads} heads"
            )
        heads = (self.num_heads, self.width // self.num_heads)
        self.query, self.value = nn.DenseGeneral(heads), nn.DenseGeneral(heads)
        # A bias of the keys adds the same to all scores of a query: the softmax ignores it, and
        # Adam would turn the rounding noise of its gradient into steps.
        self.key = nn.DenseGeneral(heads, use_bias=False)
        self.out = nn.DenseGeneral(self.width, axis=(-2, -1))

    def keys_values(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values (..., S, H, W / H) of tokens (..., S, W)."""
        return self.key(tokens), self.value(tokens)

    def __call__(
        self,
        tokens: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        mask: jax.Array | None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        # The mask (..., T, S) gains the axis of the heads.
        mixed = nn.dot_product_attention(
            self.query(tokens),
            keys,
            values,
            mask=None if mask is None else mask[..., None, :, :],
            dropout_rng=None if deterministic else self.make_rng("dropout"),
            dropout_rate=self.dropout_rate,
            deterministic=deterministic,
        )
        return self.out(mixed)

    def step(
        self, token: jax.Array, keys: jax.Array, values: jax.Array, index: jax.Array | int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Self-attention of one token (..., W) at place `index`; see :meth:`Transformer.step`."""
        insert = jax.lax.dynamic_update_index_in_dim
        keys = insert(keys, self.key(token), index, axis=-2)
        values = insert(values, self.value(token), index, axis=-2)
        query = self.query(token) / (self.width // self.num_heads) ** 0.5
        scores = jnp.sum(query[..., None, :] * keys, axis=-1)
        seen = jnp.arange(keys.shape[-2], dtype=jnp.int32) <= index
        weights = jax.nn.softmax(scores, where=seen)
        mixed = jnp.sum(weights[..., None] * values, axis=-2)
        return self.out(mixed), keys, values


class TransformerBlock(Network):
    """Self-attention, cross-attention if there is a memory, and a two-layer perceptron."""

    width: int
    num_heads: int
    hidden_size: int
    dropout_rate: float = 0.0
    cross: bool = False  # attends to a memory

    def setup(self) -> None:
        attention = (self.width, self.num_heads, self.dropout_rate)
        self.attention_norm, self.attention = nn.LayerNorm(), Attention(*attention)
        if self.cross:
            self.memory_norm, self.memory_attention = nn.LayerNorm(), Attention(*attention)
        self.mlp_norm = nn.LayerNorm()
        self.expand, self.contract = nn.Dense(self.hidden_size), nn.Dense(self.width)
        self.dropout = nn.Dropout(self.dropout_rate)

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        memory: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        normed = self.attention_norm(tokens)
        keys, values = self.attention.keys_values(normed)
        mixed = self.attention(normed, keys, values, mask, deterministic=deterministic)
        tokens = tokens + self.dropout(mixed, deterministic=deterministic)
        if self.cross:
            if memory is None:
                raise InputError("Transformer: blocks with cross-attention need a memory")
            normed = self.memory_norm(tokens)
            keys, values = self.memory_attention.keys_values(memory)
            mixed = self.memory_attention(
                normed, keys, values, memory_mask, deterministic=deterministic
            )
            tokens = tokens + self.dropout(mixed, deterministic=deterministic)
        return tokens + self.perceptron(tokens, deterministic=deterministic)

    def perceptron(self, tokens: jax.Array, *, deterministic: bool) -> jax.Array:
        """The block's last residual branch."""
        hidden = self.contract(nn.gelu(self.expand(self.mlp_norm(tokens))))
        return self.dropout(hidden, deterministic=deterministic)

    def step(
        self, token: jax.Array, keys: jax.Array, values: jax.Array, index: jax.Array | int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One token (..., W) at place `index`, given keys and values of the ones before it."""
        mixed, keys, values = self.attention.step(self.attention_norm(token), keys, values, index)
        token = token + mixed
        return token + self.perceptron(token, deterministic=True), keys, values


class Transformer(Network):
    """A stack of blocks and a last layer norm: tokens (..., T, W) to (..., T, W).

    Masks are True where attention is allowed: (T, T) or (..., T, T) among the tokens, (..., T, S)
    to a memory (..., S, W). Tokens carry their positions already.
    """

    num_layers: int
    width: int
    num_heads: int
    hidden_size: int
    dropout_rate: float = 0.0
    cross: bool = False

    def setup(self) -> None:
        self.blocks = [
            TransformerBlock(
                self.width, self.num_heads, self.hidden_size, self.dropout_rate, self.cross
            )
            for _ in range(self.num_layers)
        ]
        self.norm = nn.LayerNorm()

    def __call__(
        self,
        tokens: jax.Array,
        mask: jax.Array | None = None,
        memory: jax.Array | None = None,
        memory_mask: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        for block in self.blocks:
            tokens = block(tokens, mask, memory, memory_mask, deterministic=deterministic)
        return self.norm(tokens)

    def empty_cache(self, batch_shape: tuple[int, ...], length: int) -> Cache:
        """A cache for sequences of `length` tokens."""
        shape = (*batch_shape, self.num_heads, length, self.width // self.num_heads)
        keys, values = (
            tuple(jnp.zeros(shape, jnp.float32) for _ in range(self.num_layers)) for _ in range(2)
        )
        return Cache(keys, values)

    def step(
        self, token: jax.Array, cache: Cache, index: jax.Array | int
    ) -> tuple[jax.Array, Cache]:
        """Output (..., W) of one token (..., W) at place `index`, and the cache with it.

        If tokens are fed in order, the outputs equal those of a call with :func:`causal_mask`. Each
        token costs one token's work. Dropout is not applied.

        Raises:
          InputError: the blocks attend to a memory.
        """
        if self.cross:
            raise InputError("Transformer: steps are for stacks without cross-attention")
        layers = []
        for block, keys, values in zip(self.blocks, cache.keys, cache.values, strict=True):
            token, keys, values = block.step(token, keys, values, index)
            layers.append((keys, values))
        keys, values = zip(*layers, strict=True)
        return self.norm(token), Cache(keys, values)


def causal_mask(length: int) -> jax.Array:
    """Mask (T, T): each token sees itself and the ones before it."""
    return jnp.tril(jnp.ones((length, length), bool))


def sinusoids(positions: jax.Array, width: int, max_period: float = 10_000.0) -> jax.Array:
    """Sines and cosines (..., W) of positions (...,): half of `width` (even) of each.

    Wavelengths run from 2 pi to 2 pi `max_period` (Vaswani et al. 2017, section 3.5).
    """
    if width % 2:
        raise InputError(f"sinusoids: width is {width}, expected an even number")
    half = width // 2
    shares = jnp.arange(half, dtype=jnp.float32) / max(half - 1, 1)
    frequencies = jnp.exp(-jnp.log(max_period) * shares)
    positions = jnp.asarray(positions, jnp.float32)
    angles = positions[..., None] * jnp.broadcast_to(frequencies, (*positions.shape, half))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def add_positions(tokens: jax.Array) -> jax.Array:
    """Tokens (..., T, W) plus the sinusoids of their places."""
    length, width = tokens.shape[-2:]
    waves = sinusoids(jnp.arange(length, dtype=jnp.int32), width)
    return tokens + jnp.broadcast_to(waves, tokens.shape)
