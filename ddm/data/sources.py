"""Where batches come from: a log, a buffer, a mixture of both, or several under their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from flax import struct

from ddm.data.buffer import Buffer, check_buffer
from ddm.data.dataset import Dataset
from ddm.data.sample import check_episodes, check_spec, sample_log
from ddm.errors import InputError
from ddm.types import Batch, BatchSpec, PRNGKey, Spec


class Mixture(struct.PyTreeNode):
    """Two or more sources that fill each mini-batch together, in fixed shares.

    With half a log and half own experience, this is how RLPD (Ball et al. 2023) learns online from
    logged data. The algorithm itself needs only one source.
    """

    parts: tuple[Any, ...]  # datasets and buffers
    shares: tuple[float, ...] = struct.field(pytree_node=False)  # they sum to 1

    @property
    def info(self) -> Any:
        """What is known of the first part."""
        return self.parts[0].info

    @property
    def normalization(self) -> Any:
        """The units of the first part, which must be those of all."""
        return self.parts[0].normalization

    def rows_of(self, batch_size: int) -> tuple[int, ...]:
        """Rows per mini-batch that each part gives; the first one gets the rest after rounding.

        Raises:
          InputError: a part would give no row.
        """
        rest = [round(share * batch_size) for share in self.shares[1:]]
        rows = (batch_size - sum(rest), *rest)
        if min(rows) < 1:
            raise InputError(
                f"a batch of {batch_size} rows in shares of {', '.join(map(str, self.shares))} "
                "leaves a source without a row: raise batch_size"
            )
        return rows


Source = Dataset | Buffer | Mixture
Sources = Source | Mapping[str, Source]


def mix(*parts: Dataset | Buffer, shares: tuple[float, ...] | None = None) -> Mixture:
    """A mixture of sources: ``mix(log, own)`` draws half of each mini-batch from either.

    Args:
      *parts: datasets and buffers, in the same units.
      shares: of each part; None: equal ones.

    Raises:
      InputError: shares that do not sum to 1 or do not match the parts, or parts in different
    units.
    """
    shares = (1.0 / len(parts),) * len(parts) if shares is None else tuple(shares)
    if len(shares) != len(parts) or abs(sum(shares) - 1.0) > 1e-6 or min(shares) <= 0.0:
        raise InputError(
            f"mix: shares are {shares}, expected {len(parts)} positive ones that sum to 1"
        )
    for other in parts[1:]:
        _check_same_units(parts[0], other)
    return Mixture(parts, shares)


def sample(source: Sources, key: PRNGKey, batch_size: int, spec: Spec) -> Any:
    """Draws a batch; for a dict of specs, a dict of batches.

    Args:
      source: a dataset (see :func:`ddm.data.sample.sample_log`), a buffer, a mixture, or a dict
        of them with the names that `spec` has. With a dict and a single spec, its only source is
      used.
      key: used once.
      batch_size: B, rows per gradient step of each batch.
      spec: what an algorithm's `batch_spec` gives.

    Returns:
      A batch with the declared fields, (minibatches * B, ...) or (minibatches * B, T, ...), or a
      dict of them.

    Raises:
      InputError: a source is missing, or cannot give what its spec asks for.
    """
    if isinstance(spec, Mapping):
        keys = jax.random.split(key, len(spec))
        return {
            name: sample(find_source(source, name), keys[i], batch_size, one)
            for i, (name, one) in enumerate(spec.items())
        }
    source = only_source(source)
    if isinstance(source, Mixture):
        return _sample_mixture(source, key, batch_size, spec)
    if isinstance(source, Buffer):
        return source.sample(key, batch_size, spec)
    return sample_log(source, key, batch_size, spec)


def check_sources(source: Sources, spec: Spec, batch_size: int | None = None) -> None:
    """Refuses sources that cannot give what a spec asks for; traced values are not checked.

    Args:
      source: as `sample` takes it; buffers may still be empty.
      spec: what an algorithm's `batch_spec` gives.
      batch_size: rows per gradient step; None: a buffer's capacity is not checked.

    Raises:
      InputError: naming the source and what it lacks.
    """
    if isinstance(spec, Mapping):
        for name, one in spec.items():
            check_sources(find_source(source, name), one, batch_size)
        return
    source = only_source(source)
    if isinstance(source, Mixture):
        if batch_size is not None:
            source.rows_of(batch_size)
        for part in source.parts:
            check_sources(part, spec)
    elif isinstance(source, Buffer):
        if batch_size is not None and not spec.whole_dataset and source.capacity < batch_size:
            raise InputError(
                f"{source.info.name}: capacity is {source.capacity}, expected at least the "
                f"{batch_size} rows of a batch"
            )
        check_buffer(source.replace(size=jnp.asarray(source.capacity, jnp.int32)), spec)
    elif isinstance(source, Dataset):
        check_spec(source, spec)
        if not isinstance(source.episode_starts, jax.core.Tracer):
            check_episodes(source, spec)
    else:
        raise InputError(f"a source is a {type(source).__name__}, expected a Dataset or a Buffer")


def find_source(source: Sources, name: str) -> Source:
    """The source of that name.

    Raises:
      InputError: there is none.
    """
    if isinstance(source, Mapping) and name in source:
        return source[name]
    given = ", ".join(source) if isinstance(source, Mapping) else "one without a name"
    raise InputError(f"the algorithm learns from a source named '{name}'; given: {given}")


def only_source(source: Sources) -> Source:
    """The source itself, or the only source in a dict.

    Raises:
      InputError: there are several, and it is not clear which one is meant.
    """
    if not isinstance(source, Mapping):
        return source
    if len(source) != 1:
        raise InputError(
            f"the algorithm learns from one source; given: {', '.join(source)} (ddm.data.mix "
            "makes one of several)"
        )
    return next(iter(source.values()))


def is_named(spec: Spec) -> bool:
    """Whether an algorithm asks for several sources by their names."""
    return isinstance(spec, Mapping)


def _sample_mixture(source: Mixture, key: PRNGKey, batch_size: int, spec: BatchSpec) -> Batch:
    """Each mini-batch holds the first part's rows, then the second's, and so on."""
    keys = jax.random.split(key, len(source.parts))
    rows = source.rows_of(batch_size)
    drawn = [
        sample(part, part_key, count, spec)
        for part, part_key, count in zip(source.parts, keys, rows, strict=True)
    ]

    def join(*leaves: jax.Array) -> jax.Array:
        split = [x.reshape(spec.minibatches, -1, *x.shape[1:]) for x in leaves]
        return jnp.concatenate(split, axis=1).reshape(-1, *leaves[0].shape[1:])

    return jax.tree.map(join, *drawn)


def _check_same_units(first: Source, other: Source) -> None:
    """Refuses sources whose rows mean different things."""
    for field in dataclasses.fields(first.normalization):
        ours, theirs = (getattr(x.normalization, field.name) for x in (first, other))
        if isinstance(ours, jax.core.Tracer) or isinstance(theirs, jax.core.Tracer):
            continue
        same = (ours is None) == (theirs is None) and (
            ours is None or (ours.shape == theirs.shape and bool(jnp.all(ours == theirs)))
        )
        if not same:
            raise InputError(
                f"mix: {first.info.name} and {other.info.name} differ in {field.name}: give both "
                "the same normalization (Buffer.like(dataset, capacity))"
            )
