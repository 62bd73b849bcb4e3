"""One field of a log, read as rows: numbers, or observations flattened to vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ddm.data import spaces
from ddm.data.values import as_array
from ddm.errors import InputError


def numbers(value: Any, where: str) -> np.ndarray:
    """(N,) from (N,) or (N, 1)."""
    array = as_array(value, where)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{where} has shape {array.shape}, expected one number per step")
    return array


def flat_observations(value: Any, space: Any, where: str) -> tuple[spaces.Tree, np.ndarray]:
    """The space's tree, guessed for a plain array, and the flattened rows in the data's dtype."""
    tree = None if space is None else spaces.parse_space(space)
    if isinstance(value, (Mapping, tuple)):
        if tree is None:
            raise InputError(f"{where} is a {type(value).__name__}: give its observation_space")
    else:
        value = as_array(value, where)
        if value.ndim == 1 and (tree is None or tree["type"] == "Box"):
            value = value[:, None]
        if tree is None:
            tree = spaces.unbounded_box(value.shape[1:], value.dtype)
        elif tree["type"] == "Discrete" and value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
    columns = [
        as_array(spaces.pick(value, leaf, where), leaf.name(where)) for leaf in spaces.leaves(tree)
    ]
    rows = [len(column) for column in columns]
    if len(set(rows)) > 1:
        raise InputError(f"{where} has parts of {min(rows)} and of {max(rows)} rows")
    return tree, spaces.flatten(tree, columns, where, dtype=None)


def guess_notes(observations: np.ndarray) -> tuple[str, ...]:
    """The sentence about observations without a space that could be states."""
    if observations.dtype.kind not in "iu" or observations.shape[1:] != (1,):
        return ()
    states = int(observations.max()) + 1
    return (
        f"the observations are single integers ({observations.min()} to {states - 1}) and are "
        "taken for numbers; if they are states, which tables need, give "
        f"observation_space=Discrete({states}), or num_states={states} in the file",
    )
