"""Whether a model still learns: two moving averages of its loss, a fast and a slow one.

    progress = slow - fast

If the loss falls by g per update, progress goes to g (1/slow_rate - 1/fast_rate). If the loss does
not change, both averages go to the same value. With the default rates, progress is the fall of the
loss over about 900 updates, in the loss's unit (nats for a likelihood). Both averages are
bias-corrected: from the first loss on, they are weighted means of the losses so far.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

FAST_RATE = 0.01  # averages about the last 100 losses
SLOW_RATE = 0.001  # averages about the last 1000 losses


class Convergence(struct.PyTreeNode):
    """The averages of a loss; a part of an algorithm's state."""

    fast: jax.Array  # () float32
    slow: jax.Array  # () float32
    count: jax.Array  # () int32, losses seen


def start() -> Convergence:
    """A tracker that has seen no loss."""
    return Convergence(
        fast=jnp.zeros((), jnp.float32),
        slow=jnp.zeros((), jnp.float32),
        count=jnp.zeros((), jnp.int32),
    )


def observe(
    tracker: Convergence,
    loss: jax.Array,
    fast_rate: jax.Array | float = FAST_RATE,
    slow_rate: jax.Array | float = SLOW_RATE,
) -> Convergence:
    """The tracker after one more loss.

    Args:
      tracker: so far.
      loss: scalar.
      fast_rate: in (0, 1], the weight of a new loss in the fast average.
      slow_rate: in (0, fast_rate).

    Returns:
      The new tracker; its averages carry no gradient.
    """
    loss = jax.lax.stop_gradient(jnp.asarray(loss, jnp.float32))
    count = tracker.count + 1
    return Convergence(
        fast=_average(tracker.fast, loss, fast_rate, count),
        slow=_average(tracker.slow, loss, slow_rate, count),
        count=count,
    )


def progress(tracker: Convergence) -> jax.Array:
    """Slow minus fast average, (): above 0 while the loss falls, 0 before the second loss."""
    return tracker.slow - tracker.fast


def _average(
    average: jax.Array, loss: jax.Array, rate: jax.Array | float, count: jax.Array
) -> jax.Array:
    # The weight of the newest loss among weights (1 - rate)^age that sum to 1.
    seen = count.astype(jnp.float32)
    weight = rate / -jnp.expm1(seen * jnp.log1p(-jnp.asarray(rate, jnp.float32)))
    return average + weight * (loss - average)
