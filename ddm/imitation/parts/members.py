"""Several learners as one policy, and the part of a batch that they learn from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddm.imitation.parts import gates
from ddm.types import Batch


def combined(actions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The members' common action, and their doubt ().

    Args:
      actions: (M, A), the action is the mean and the doubt the variance, averaged over
        dimensions; or (M,) indices, the most frequent one and the share of the others.
    """
    if jnp.issubdtype(actions.dtype, jnp.integer):
        votes = jnp.mean(actions[:, None] == actions[None], axis=0, dtype=jnp.float32)
        return actions[jnp.argmax(votes)], 1.0 - jnp.max(votes)
    return jnp.mean(actions, axis=0), jnp.mean(jnp.var(actions, axis=0))


def without_held_out(batch: Batch, share: Any) -> Batch:
    """A batch (B, ...) whose held-out rows are replaced by others of it, in turn."""
    held = gates.held_out(batch.observations, share)
    kept_first = jnp.argsort(held, stable=True)
    count = jnp.maximum(held.size - jnp.sum(held, dtype=jnp.int32), 1)
    rows = kept_first[jnp.arange(held.size) % count]
    return jax.tree.map(lambda x: x[rows], batch)
