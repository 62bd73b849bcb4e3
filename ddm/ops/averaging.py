"""Moving averages of parameters whose window grows with training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddm.ops.updates import polyak


def warmup_decay(
    step: jax.Array | int, power: jax.Array | float, max_decay: jax.Array | float
) -> jax.Array:
    """Decay 1 - (1 + n)^(-power), at most `max_decay`, of an average with warm-up; n = step - 1.

    The average then spans about the last n^power of the n updates so far; with a fixed decay near 1
    it would stay near the initial parameters for most of a short run. As in the code of Chi et al.
    2023 (power 0.75, ceiling 0.9999) the decay is 0 at the first two updates.

    Args:
      step: updates done before this one.
      power: 0.75 reaches a decay of 0.999 after 10,000 updates, 2/3 after 31,600.
      max_decay: ceiling.

    Returns:
      () share of the old average that is kept.
    """
    updates = jnp.maximum(jnp.asarray(step, jnp.float32) - 1.0, 0.0)
    return jnp.minimum(1.0 - (1.0 + updates) ** -power, max_decay)


def average(
    old: Any,
    params: Any,
    step: jax.Array | int,
    power: jax.Array | float,
    max_decay: jax.Array | float,
) -> Any:
    """The average after adding `params`, by :func:`warmup_decay`; both trees have one structure."""
    return polyak(old, params, 1.0 - warmup_decay(step, power, max_decay))
