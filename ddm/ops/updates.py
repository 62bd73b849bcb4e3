"""Parameter arithmetic that every update shares."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def polyak(target: Any, online: Any, rate: jax.Array | float) -> Any:
    """Moving average (1 - rate) * target + rate * online of two trees of the same structure."""
    return jax.tree.map(lambda old, new: old + rate * (new - old), target, online)


def cosine_decay(
    learning_rate: jax.Array | float, step: jax.Array | int, decay_steps: jax.Array | int
) -> jax.Array:
    """Learning rate at `step` of a cosine from `learning_rate` to 0 over `decay_steps`.

    A `decay_steps` of 0 keeps the rate constant. Unlike an optax schedule the length may be
    traced, so that it can be swept by `vmap`.
    """
    fraction = jnp.clip(step / jnp.maximum(decay_steps, 1), 0.0, 1.0)
    factor = jnp.where(decay_steps > 0, 0.5 * (1.0 + jnp.cos(jnp.pi * fraction)), 1.0)
    return learning_rate * factor
