"""Checks of batches: what an algorithm refuses, by its own name, before it computes anything."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.core
import numpy as np

from ddm.batch import Batch, BatchSpec
from ddm.configuration import own_networks
from ddm.errors import InputError


def check_batch(batch: Batch, spec: BatchSpec, name: str) -> None:
    """Refuses, by name, a batch that lacks a declared field or whose rows do not line up.

    Args:
      batch: the batch that the algorithm got.
      spec: what the algorithm declared.
      name: the algorithm, for the message.

    Raises:
      InputError: a field is missing, has the wrong rank or another number of rows.
    """
    rows = None
    leading = 1 if spec.window is None else 2
    for field in spec.fields:
        value = getattr(batch, field)
        if value is None:
            raise InputError(
                f"{name}: batch.{field} is missing; the algorithm needs {', '.join(spec.fields)}"
            )
        scalar = field in ("rewards", "terminations", "truncations", "returns_to_go", "mask")
        if value.ndim < leading or (scalar and value.ndim != leading):
            expected = "(B,)" if leading == 1 else "(B, T)"
            raise InputError(
                f"{name}: batch.{field} has shape {value.shape}, expected {expected}"
                f"{'' if scalar else ' and the feature axes'}"
            )
        if field in ("actions", "next_actions"):
            _check_action_rank(value, leading, f"{name}: batch.{field}")
        rows = value.shape[0] if rows is None else rows
        if value.shape[0] != rows:
            raise InputError(f"{name}: batch.{field} has {value.shape[0]} rows, expected {rows}")
    if rows is not None and not spec.whole_dataset and rows % spec.minibatches:
        raise InputError(f"{name}: {rows} rows do not divide into {spec.minibatches} mini-batches")


def check_example(batch: Batch, spec: BatchSpec, name: str) -> None:
    """:func:`check_batch` for `init`, which needs only shapes: one row is enough.

    Raises:
      InputError: a field is missing, has the wrong rank or another number of rows.
    """
    check_batch(batch, dataclasses.replace(spec, minibatches=1), name)


def check_vectors(config: Any, batch: Batch, name: str) -> None:
    """Refuses images, unless all networks are the user's own: the others read rows of features.

    Raises:
      InputError: naming the algorithm, the shape, and the networks that read vectors.
    """
    if batch.observations.ndim == 2:
        return
    own = own_networks(config)
    ours = [field for field, given in own.items() if not given]
    if ours or not own:
        instead = f", unless you give {', '.join(ours)}" if ours else ""
        raise InputError(
            f"{name}: batch.observations has shape {batch.observations.shape}, expected (B, O): "
            f"the networks read vectors, one row of features for each transition{instead}"
        )


def _check_action_rank(actions: jax.Array, leading: int, where: str) -> None:
    """One axis of features for real vectors, none for discrete actions."""
    discrete = jax.numpy.issubdtype(actions.dtype, jax.numpy.integer)
    if actions.ndim != leading + (not discrete):
        integers, vectors = ("(B,)", "(B, A)") if leading == 1 else ("(B, T)", "(B, T, A)")
        raise InputError(
            f"{where} has shape {actions.shape} and dtype {actions.dtype}, expected {vectors} "
            f"real vectors or {integers} integers"
        )


def check_continuous(batch: Batch, name: str) -> None:
    """Refuses integer actions, for an algorithm whose actions are real vectors.

    Raises:
      InputError: naming the algorithm and the dtype.
    """
    if jax.numpy.issubdtype(batch.actions.dtype, jax.numpy.integer):
        raise InputError(
            f"{name}: batch.actions are integers ({batch.actions.dtype}), expected real vectors: "
            "the policy is for continuous actions"
        )


def check_continuous_example(config: Any, batch: Batch, spec: BatchSpec, name: str) -> None:
    """The checks in `init` of a method whose observations and actions are vectors.

    Raises:
      InputError: a field is missing or of a wrong shape; integer actions; images.
    """
    check_example(batch, spec, name)
    check_continuous(batch, name)
    check_vectors(config, batch, name)


def check_one_hot(observations: Any, name: str) -> None:
    """Refuses observations that do not name a row of a table.

    Traced observations have no values yet and are not checked: `ddm.data.check_episodes` checks
    those of a dataset, for an algorithm whose `batch_spec` says so.

    Args:
      observations: expected (N, S), one-hot.
      name: the algorithm or the dataset, for the message.

    Raises:
      InputError: naming the first row that is not one-hot.
    """
    if isinstance(observations, jax.core.Tracer):
        return
    rows = np.asarray(observations)
    expected = (
        "expected one-hot rows, one column a state: a table needs an observation space of "
        "Discrete(n), not standardised"
    )
    if rows.ndim != 2:
        raise InputError(f"{name}: observations have shape {rows.shape}, {expected}")
    one_hot = (np.count_nonzero(rows, axis=1) == 1) & (rows.max(axis=1, initial=0) == 1)
    if not one_hot.all():
        row = int(one_hot.argmin())
        shown = ", ".join(f"{value:g}" for value in rows[row, :6])
        more = ", ..." if rows.shape[1] > 6 else ""
        raise InputError(f"{name}: observation {row} is ({shown}{more}), {expected}")


def check_action_range(actions: Any, num_actions: int, name: str) -> None:
    """Refuses discrete actions that the policy does not have; traced ones are not checked.

    Args:
      actions: (...) integers.
      num_actions: all actions must be below it.
      name: the algorithm or the dataset, for the message.

    Raises:
      InputError: naming the largest or the smallest action.
    """
    if isinstance(actions, jax.core.Tracer) or not actions.size:
        return
    values = np.asarray(actions)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_actions:
        raise InputError(
            f"{name}: the log has action {low if low < 0 else high} and num_actions is "
            f"{num_actions}: expected actions from 0 to {num_actions - 1}"
        )


def check_actions(batch: Batch, num_actions: int, name: str) -> None:
    """Refuses actions of the other kind, for an algorithm that takes both.

    Args:
      batch: with actions.
      num_actions: size of a discrete action space; 0 for continuous actions.
      name: the algorithm, for the message.

    Raises:
      InputError: integers where real vectors are expected, or the reverse; an integer outside the
        action space, where its value is known.
    """
    discrete = jax.numpy.issubdtype(batch.actions.dtype, jax.numpy.integer)
    if discrete and num_actions < 1:
        raise InputError(
            f"{name}: batch.actions are integers ({batch.actions.dtype}); set num_actions, the "
            "number of discrete actions"
        )
    if not discrete and num_actions > 0:
        raise InputError(
            f"{name}: batch.actions are real vectors ({batch.actions.dtype}), expected integers "
            f"below num_actions={num_actions}; leave num_actions at 0 for continuous actions"
        )
    if discrete:
        check_action_range(batch.actions, num_actions, name)
