"""Summaries of the past: from the inputs of a window of steps to a feature vector at each step.

The summary of a step depends on that step and the ones before it, if they are valid. A *trunk* maps
inputs (..., T, D) and a mask (..., T) to features (..., T, F); `alone` (...,) bool marks windows in
which every step sees only itself. All trunks give the same features for a step whose past is
invalid as for one whose past is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.networks.encoders import ObservationEncoder
from ddm.networks.mlp import Network
from ddm.networks.transformer import Transformer, add_positions, causal_mask


class FrameStack(Network):
    """The last n inputs side by side, oldest first, and which of the n - 1 past ones are real.

    Places before the first valid step repeat it: without the flags, the start of an episode would
    look like waiting. Features (..., T, n D + n - 1); no parameters.
    """

    num_frames: int

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        mask: jax.Array,
        alone: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        del deterministic
        steps = jnp.broadcast_to(jnp.arange(inputs.shape[-2], dtype=jnp.int32), mask.shape)
        oldest = jnp.argmax(mask, axis=-1).astype(jnp.int32)
        oldest = jnp.broadcast_to(oldest[..., None], mask.shape)
        if alone is not None:
            oldest = jnp.where(alone[..., None], steps, oldest)
        ages = jnp.broadcast_to(
            jnp.arange(self.num_frames, dtype=jnp.int32)[::-1], (*mask.shape, self.num_frames)
        )
        wanted = steps[..., None] - ages  # (..., T, n)
        taken = jnp.maximum(wanted, oldest[..., None])  # (..., T, n)
        flat = taken.reshape(*mask.shape[:-1], -1, 1)
        frames = jnp.take_along_axis(inputs, flat, axis=-2).reshape(*mask.shape, -1)
        seen = (wanted == taken)[..., :-1].astype(frames.dtype)
        return jnp.concatenate([frames, seen], axis=-1)


class Recurrent(Network):
    """Layers of recurrent cells; the state starts at zero at the first valid step.

    Features (..., T, F) are the last layer's outputs. Invalid steps leave the state alone, so a
    step may lie before the episode's start or after its end.
    """

    cell: Callable[[int], Any]  # width -> a flax recurrent cell
    width: int
    num_layers: int = 1

    def setup(self) -> None:
        self.cells = [self.cell(self.width) for _ in range(self.num_layers)]

    def __call__(
        self,
        inputs: jax.Array,
        mask: jax.Array,
        alone: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        del deterministic
        start = self.initial_carry(inputs[..., 0, :])

        def step(module: Recurrent, carry: Any, place: tuple[jax.Array, jax.Array]) -> Any:
            inputs, valid = place
            before = carry if alone is None else _where(alone, start, carry)
            after, features = module.step(before, inputs)
            return _where(valid, after, carry), features

        places = (jnp.moveaxis(inputs, -2, 0), jnp.moveaxis(mask, -1, 0))
        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        _, features = scan(self, start, places)
        return jnp.moveaxis(features, 0, -2)

    def initial_carry(self, inputs: jax.Array) -> Any:
        """The state before the first step, for inputs (..., D)."""
        # The start is zero: nothing is drawn, but a cell takes a key of its own.
        return tuple(cell.initialize_carry(jax.random.key(0), inputs.shape) for cell in self.cells)

    def step(self, carry: Any, inputs: jax.Array) -> tuple[Any, jax.Array]:
        """The state after one step with inputs (..., D), and its features (..., F)."""
        after = []
        for cell, before in zip(self.cells, carry, strict=True):
            state, inputs = cell(before, inputs)
            after.append(state)
        return tuple(after), inputs


class CausalTransformer(Network):
    """A transformer whose steps attend to themselves and the valid ones before; (..., T, width).

    Positions are counted from the window's first place, valid or not.
    """

    num_layers: int
    width: int
    num_heads: int
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(
        self,
        inputs: jax.Array,
        mask: jax.Array,
        alone: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        length = inputs.shape[-2]
        tokens = nn.Dense(self.width, name="embed")(inputs)
        tokens = add_positions(tokens)
        places = (*mask.shape, length)
        itself = jnp.broadcast_to(jnp.eye(length, dtype=bool), places)
        causal = jnp.broadcast_to(causal_mask(length), places)
        seen = (causal & mask[..., None, :]) | itself
        if alone is not None:
            seen = jnp.where(alone[..., None, None], itself, seen)
        transformer = Transformer(
            self.num_layers,
            self.width,
            self.num_heads,
            4 * self.width,
            self.dropout_rate,
            name="transformer",
        )
        return transformer(tokens, seen, deterministic=deterministic)


class HistoryEncoder(Network):
    """A trunk on encoded observations (..., T, *O) and, if given, previous actions (..., T, P)."""

    encoder: str
    trunk: nn.Module

    def setup(self) -> None:
        self.observation = ObservationEncoder(self.encoder)

    def __call__(
        self,
        observations: jax.Array,
        previous: jax.Array | None,
        mask: jax.Array,
        alone: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        inputs = self._inputs(observations, previous)
        return self.trunk(inputs, mask, alone, deterministic=deterministic)

    def initial_carry(self, observation: jax.Array, previous: jax.Array | None) -> Any:
        """The state of a :class:`Recurrent` trunk before the first step."""
        return self.trunk.initial_carry(self._inputs(observation, previous))

    def step(
        self, carry: Any, observation: jax.Array, previous: jax.Array | None
    ) -> tuple[Any, jax.Array]:
        """One step of a :class:`Recurrent` trunk: its new state, and features (..., F)."""
        return self.trunk.step(carry, self._inputs(observation, previous))

    def _inputs(self, observations: jax.Array, previous: jax.Array | None) -> jax.Array:
        encoded = self.observation(observations)
        return encoded if previous is None else jnp.concatenate([encoded, previous], axis=-1)


class HistoryPolicy(Network):
    """A policy on a summary of the past; its parameters are those of "trunk" and of "head"."""

    trunk: nn.Module  # as :class:`HistoryEncoder`
    head: nn.Module  # from features (..., F), and what else it takes, to the policy's outputs

    def features(self, *inputs: Any, **options: Any) -> jax.Array:
        """Features (..., T, F) at each step of a window."""
        return self.trunk(*inputs, **options)

    def outputs(self, features: jax.Array, *bounds: Any) -> Any:
        """The head's outputs at features (..., F)."""
        return self.head(features, *bounds)

    def initial_carry(self, observation: jax.Array, previous: jax.Array | None) -> Any:
        """The state of a recurrent trunk before the first step."""
        return self.trunk.initial_carry(observation, previous)

    def step(
        self, carry: Any, observation: jax.Array, previous: jax.Array | None
    ) -> tuple[Any, jax.Array]:
        """One step of a recurrent trunk: its new state, and features (..., F)."""
        return self.trunk.step(carry, observation, previous)


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    """`new` in the rows (...,) where the condition holds, for trees of leaves (..., *)."""

    def select(new: jax.Array, old: jax.Array) -> jax.Array:
        shape = condition.shape + (1,) * (new.ndim - condition.ndim)
        return jnp.where(condition.reshape(shape), new, old)

    return jax.tree.map(select, new, old)
