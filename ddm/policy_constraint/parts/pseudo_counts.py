"""Pseudo-counts N(s, a): how many logged rows are near a pair of state and action.

The counts come from one of

- ``grid``: rounded observations, `cell_size` apart, are hashed into a table of 2^`hash_bits` rows.
- ``one_hot``: one row for each feature of the observation; the largest feature gives the row. This
  is exact.
- a function from observations (B, O) to counts (B, K). :func:`neighbor_counts` makes the authors'
  function, which reads every logged state in each call.

The tables are counted from the batches during training: N(s, a) is `dataset_size` times the share
of this pair in the rows so far. It is exact if every batch is the whole log, and otherwise settles
after a few passes. Counting stops after 2^24 rows, because float32 counts exactly only up to there.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from ddm.errors import InputError
from ddm.ops import tables
from ddm.types import Batch, Configuration, choice, chosen, leaf, static

TableFn = Callable[[jax.Array], jax.Array]  # (B, K) of observations (B, O): counts, or a policy
ROWS_COUNTED = 2.0**24  # beyond it, adding 1 to a float32 does nothing


class Config(Configuration):
    """Hyper-parameters of the counts."""

    # side of a grid's cells, in the unit of the observations
    cell_size: float = leaf(0.5, "(0, inf)")
    # the table; or a function of observations (B, O) to counts (B, K)
    count: str | TableFn = choice(lambda: CELLS, "grid")
    # transitions in the log, by which the counted shares are multiplied
    dataset_size: int = static(0, "[0, inf)")
    hash_bits: int = static(16, "[1, 30]")  # the grid's table has 2 to this power rows


class Counts(struct.PyTreeNode):
    """Counts of the rows so far, by cell and action."""

    table: jax.Array  # (N, K) float32
    rows: jax.Array  # () float32


def init(config: Config, num_actions: int, batch: Batch, name: str) -> Counts | None:
    """An empty table; None where a function counts.

    Raises:
      InputError: naming the algorithm; a table needs `dataset_size`.
    """
    if callable(config.count):
        return None
    if config.dataset_size < 1:
        raise InputError(
            f"{name}: count={config.count} needs dataset_size, the number of logged transitions"
        )
    rows = 2**config.hash_bits if config.count == "grid" else batch.observations.shape[-1]
    return Counts(
        table=jnp.zeros((rows, num_actions), jnp.float32), rows=jnp.zeros((), jnp.float32)
    )


def count(config: Config, counts: Counts, batch: Batch) -> Counts:
    """The table with the rows of a batch."""
    cells = _cells(config, batch.observations)
    weight = jnp.where(counts.rows < ROWS_COUNTED, 1.0, 0.0)
    return Counts(
        table=counts.table.at[cells, batch.actions].add(weight),
        rows=counts.rows + weight * len(cells),
    )


def at(config: Config, counts: Counts | None, observations: jax.Array) -> jax.Array:
    """Pseudo-counts (B, K) of all actions at observations (B, O)."""
    if callable(config.count):
        return config.count(observations)
    assert counts is not None
    rows = counts.table[_cells(config, observations)]
    return config.dataset_size * rows / jnp.maximum(counts.rows, 1.0)


def neighbor_counts(
    observations: jax.Array, actions: jax.Array, num_actions: int, radius: float
) -> TableFn:
    """The authors' pseudo-counts: N(s, a) = sum over rows with a of max(0, 1 - |s - s_i| / radius).

    Args:
      observations: (N, O) of the whole log.
      actions: (N,) integers.
      num_actions: K.
      radius: distance at which a logged state no longer counts.

    Returns:
      A function for `Config.count`. Each call costs a matrix product of (B, O) and (O, N).
    """
    logged = jnp.asarray(observations, jnp.float32)
    taken = jax.nn.one_hot(actions, num_actions, dtype=jnp.float32)
    squares = jnp.sum(jnp.square(logged), axis=-1)

    def count(observations: jax.Array) -> jax.Array:
        own = jnp.sum(jnp.square(observations), axis=-1, keepdims=True)
        distances = jnp.sqrt(jnp.maximum(own + squares - 2.0 * observations @ logged.T, 0.0))
        return jnp.maximum(1.0 - distances / radius, 0.0) @ taken

    return count


# Which row of the table an observation belongs to.


def grid_cells(config: Config, observations: jax.Array) -> jax.Array:
    """Rows (B,) by multiply-shift hashing of the rounded observations."""
    limit = 2.0**30
    observations = observations.reshape(len(observations), -1)  # also of images
    rounded = jnp.clip(jnp.round(observations / config.cell_size), -limit, limit)
    # Multipliers are odd, random, and the same in every run.
    multipliers = jax.random.bits(jax.random.key(0), observations.shape[-1:], jnp.uint32) | 1
    whole = rounded.astype(jnp.int32).astype(jnp.uint32)
    sums = jnp.sum(whole * jnp.broadcast_to(multipliers, whole.shape), axis=-1, dtype=jnp.uint32)
    mixed = (sums ^ (sums >> 16)) * jnp.uint32(0x9E3779B1)  # 2^32 over the golden ratio, odd
    return (mixed >> (32 - config.hash_bits)).astype(jnp.int32)


def one_hot_cells(config: Config, observations: jax.Array) -> jax.Array:
    """Rows (B,): the largest feature of each observation."""
    del config
    return tables.state_ids(observations)


CELLS = {"grid": grid_cells, "one_hot": one_hot_cells}


CELLS = {"grid": grid_cells, "one_hot": one_hot_cells}


def _cells(config: Config, observations: jax.Array) -> jax.Array:
    return chosen(config, "count")(config, observations)
