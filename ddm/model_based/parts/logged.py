"""The log as members learn it: standardised, partly held out, in an order of each member's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.errors import InputError
from ddm.types import Batch, PRNGKey


class Rows(struct.PyTreeNode):
    """N transitions as a model sees them."""

    observations: jax.Array  # (N, O)
    actions: jax.Array  # (N, A)
    targets: jax.Array  # (N, 1 + O): the reward, and the change of the observation
    terminations: jax.Array  # (N,) bool


class Scales(struct.PyTreeNode):
    """Means and standard deviations of inputs and targets."""

    observation_mean: jax.Array  # (O,)
    observation_std: jax.Array  # (O,)
    action_mean: jax.Array  # (A,)
    action_std: jax.Array  # (A,)
    target_mean: jax.Array  # (1 + O,)
    target_std: jax.Array  # (1 + O,)


def rows_of(batch: Batch) -> Rows:
    """Transitions of a batch."""
    change = batch.next_observations - batch.observations
    targets = jnp.concatenate([batch.rewards[:, None], change], axis=-1)
    return Rows(batch.observations, batch.actions, targets, batch.terminations)


def no_scales(observation_size: int, action_size: int) -> Scales:
    """Scales that change nothing."""
    sizes = (observation_size, action_size, 1 + observation_size)
    pairs = [(jnp.zeros(size, jnp.float32), jnp.ones(size, jnp.float32)) for size in sizes]
    return Scales(*(array for pair in pairs for array in pair))


def scales_of(rows: Rows) -> Scales:
    """The scales of rows; 1 for a dimension that does not vary."""

    def moments(values: jax.Array) -> tuple[jax.Array, jax.Array]:
        std = jnp.std(values, axis=0)
        return jnp.mean(values, axis=0), jnp.where(std > 1e-6, std, jnp.ones_like(std))

    fields = (rows.observations, rows.actions, rows.targets)
    return Scales(*(array for values in fields for array in moments(values)))


def standardized(rows: Rows, scales: Scales) -> jax.Array:
    """Targets (N, 1 + O) of mean 0 and standard deviation 1."""
    return (rows.targets - scales.target_mean[None]) / scales.target_std[None]


def split(config: Any, key: PRNGKey, rows: Rows) -> tuple[jax.Array, jax.Array]:
    """Row numbers that are held out, and those that are learned; the same for the same key."""
    count = rows.terminations.shape[0]
    held_out = max(1, min(int(config.holdout_share * count), config.max_holdout))
    if held_out >= count:
        raise InputError(f"dynamics: a log of {count} transitions leaves none to learn from")
    order = jax.random.permutation(jax.random.fold_in(key, 0), count).astype(jnp.int32)
    return order[:held_out], order[held_out:]


def draw_order(
    config: Any, split_key: PRNGKey, key: PRNGKey, learned: jax.Array, steps: int
) -> jax.Array:
    """(E, K, B) row numbers of each member's K gradient steps in one epoch.

    A member's rows are drawn once from those to learn, with replacement (a bootstrap), and pass in
    another order in each epoch.
    """
    count = len(learned)
    if steps < 1:
        raise InputError(
            "dynamics: steps_per_epoch is not set; ddm.prepare(dynamics, config, dataset) sets it"
        )
    places = np.arange(steps * config.model_batch_size) % count  # a short log passes several times

    def member(index: jax.Array) -> jax.Array:
        rows = learned
        if config.bootstrap:
            draw_key = jax.random.fold_in(split_key, index + 1)
            rows = learned[jax.random.randint(draw_key, (count,), 0, count, jnp.int32)]
        order = jax.random.permutation(jax.random.fold_in(key, index), count)
        return rows[order[places]].reshape(steps, config.model_batch_size)

    return jax.vmap(member)(jnp.arange(config.num_members, dtype=jnp.uint32))
