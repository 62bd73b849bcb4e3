"""Parameter arithmetic that every update shares."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def polyak(target: Any, online: Any, rate: jax.Array | float) -> Any:
    """Moving average (1 - rate) * target + rate * online of two trees of the same structure."""
    return jax.tree.map(lambda old, new: old + rate * (new - old), target, online)


def follow(
    target: Any,
    online: Any,
    step: jax.Array | int,
    rate: jax.Array | float,
    period: jax.Array | int,
) -> Any:
    """Target parameters after update number `step`, counted from 1.

    With a `period` of 0 they are a moving average of `rate`; with any other they are a copy, taken
    at every `period`-th update. Both may be traced.
    """
    is_time = jnp.mod(step, jnp.maximum(period, 1)) == 0
    rate = jnp.where(period > 0, jnp.where(is_time, 1.0, 0.0), rate)
    return polyak(target, online, rate)


def cosine_decay(
    learning_rate: jax.Array | float, step: jax.Array | int, decay_steps: jax.Array | int | None
) -> jax.Array:
    """Learning rate at `step` of a cosine from `learning_rate` to 0 over `decay_steps`.

    A `decay_steps` of 0, or None, keeps the rate constant. Unlike an optax schedule the length may
    be traced, so that it can be swept by `vmap`.
    """
    if decay_steps is None:
        return jnp.asarray(learning_rate, jnp.float32)
    fraction = share_done(step, decay_steps)
    factor = jnp.where(decay_steps > 0, 0.5 * (1.0 + jnp.cos(jnp.pi * fraction)), 1.0)
    return learning_rate * factor


def linear_decay(
    learning_rate: jax.Array | float, step: jax.Array | int, decay_steps: jax.Array | int | None
) -> jax.Array:
    """Learning rate at `step` of a line from `learning_rate` to 0 over `decay_steps`.

    A `decay_steps` of 0, or None, keeps the rate constant; it may be traced.
    """
    if decay_steps is None:
        return jnp.asarray(learning_rate, jnp.float32)
    left = 1.0 - share_done(step, decay_steps)
    return learning_rate * jnp.where(decay_steps > 0, left, 1.0)


def share_done(step: jax.Array | int, steps: jax.Array | int) -> jax.Array:
    """The share of `steps` that is done at `step`, float32 from 0 to 1; 1 if there are none."""
    step, steps = jnp.asarray(step, jnp.float32), jnp.asarray(steps, jnp.float32)
    return jnp.where(steps > 0.0, jnp.clip(step / jnp.maximum(steps, 1.0), 0.0, 1.0), 1.0)
