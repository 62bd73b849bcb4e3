"""Observation and action spaces, and their flattening by gymnasium's rules, over whole columns.

A space is handled as the tree that Minari writes into its metadata: ``{"type": "Box", ...}``,
``{"type": "Dict", "subspaces": {...}}`` and so on. Reading a dataset thus needs no gymnasium.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ddm.data.memory import check_declared
from ddm.data.schema import COUNT, TEXT, Field, check_record, is_number, read_json
from ddm.data.stored_spaces import check_integers, check_tree
from ddm.errors import InputError
from ddm.types import Box, Discrete, Space

Tree = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a nested observation, at its place in the file."""

    path: tuple[str, ...]  # as in Minari's HDF5: dict keys, and `_index_<i>` for tuples
    tree: Tree  # its space: Box, Discrete, MultiDiscrete or MultiBinary

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one step."""
        match self.tree["type"]:
            case "Box":
                return tuple(self.tree["shape"])
            case "MultiDiscrete":
                return np.shape(self.tree["nvec"])
            case "MultiBinary":
                n = self.tree["n"]
                return tuple(n) if isinstance(n, Sequence) else (n,)
            case _:
                return ()

    @property
    def dtype(self) -> np.dtype:
        """The dtype for reading: bytes stay bytes, other boxes become float32."""
        if self.tree["type"] != "Box":
            return np.dtype(np.int64)
        return np.dtype(np.uint8 if self.tree["dtype"] == "uint8" else np.float32)

    def name(self, field: str) -> str:
        """The array's place below `field`, as in an HDF5 file."""
        return "/".join((field, *self.path))


def parse_space(space: Any, where: str = "the space") -> Tree:
    """The tree of a space.

    Args:
      space: a gymnasium space, `ddm.types.Box` or `Discrete`, a pair of bounds `(low, high)` of a
        box (of actions: one number each for all dimensions, or one per dimension), or what Minari
        stores (a JSON string or its tree).
      where: what error messages call it.

    Raises:
      InputError: the space cannot be flattened to a fixed vector, or no array can have it.
    """
    tree = _parse(space, where)
    check_tree(tree, where)
    return tree


def _parse(space: Any, where: str) -> Tree:
    if isinstance(space, str):
        return read_json(space, where)
    if isinstance(space, dict):  # gymnasium's own Dict is a mapping, not a dict
        return space
    if isinstance(space, Box):
        bounds = {k: np.reshape(getattr(space, k), space.shape) for k in ("low", "high")}
        return {"type": "Box", "dtype": space.dtype, "shape": space.shape, **bounds}
    if isinstance(space, Discrete):
        return {"type": "Discrete", "n": space.n, "start": space.start}
    if isinstance(space, tuple) and len(space) == 2:
        low, high = np.broadcast_arrays(*(_real(bound, where) for bound in space))
        bounds = {"low": low, "high": high}
        return {"type": "Box", "dtype": "float32", "shape": low.shape, "pair": True, **bounds}
    return _parse_gymnasium(space)


def _real(values: Any, where: str) -> np.ndarray:
    """Numbers in float32; complex ones would lose their imaginary part without a warning."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{where} has bounds of dtype {array.dtype}, expected real numbers")
    return array.astype(np.float32)


def box_of_bounds(low: Any, high: Any, name: str) -> Tree:
    """The box between two stored bounds, each one number or one per dimension.

    Raises:
      InputError: they do not fit each other, or the lower one is not below the upper one.
    """
    try:
        tree = _parse((low, high), f"{name}: action_low and action_high")
    except InputError:
        raise
    except (ValueError, TypeError):
        shapes = f"{np.shape(low)} and {np.shape(high)}"
        raise InputError(f"{name}: action_low and action_high have shapes {shapes}") from None
    if not np.all(tree["low"] < tree["high"]):
        raise InputError(f"{name}: action_low is not below action_high in every dimension")
    return tree


def discrete(n: Any, where: str) -> Tree:
    """The integers 0 .. n - 1, of a stored n.

    Raises:
      InputError: it is not a positive integer.
    """
    number = np.asarray(n)
    value = number.item() if number.size == 1 and number.dtype.kind in "iuf" else math.nan
    if not math.isfinite(value) or value != int(value) or value < 1:
        raise InputError(f"{where} is {n}, expected one positive integer")
    check_integers(int(value), 0, where)
    return {"type": "Discrete", "n": int(value), "start": 0}


def _parse_gymnasium(space: Any) -> Tree:
    # By the class's name, so gymnasium is not imported to recognise its spaces.
    kind = type(space).__name__
    match kind:
        case "Box":
            bounds = {"low": space.low, "high": space.high}
            return {"type": kind, "dtype": str(space.dtype), "shape": space.shape, **bounds}
        case "Discrete":
            return {"type": kind, "n": int(space.n), "start": int(space.start)}
        case "MultiDiscrete":
            return {"type": kind, "nvec": space.nvec, "start": space.start}
        case "MultiBinary":
            return {"type": kind, "n": space.n}
        case "Dict":
            return {
                "type": kind,
                "subspaces": {key: _parse_gymnasium(sub) for key, sub in space.spaces.items()},
            }
        case "Tuple":
            return {"type": kind, "subspaces": [_parse_gymnasium(sub) for sub in space.spaces]}
    raise InputError(
        f"a space of type {kind} cannot be flattened to a vector: use Box, Discrete, "
        "MultiDiscrete, MultiBinary, Dict or Tuple"
    )


def leaves(tree: Tree, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """The arrays of a space, in the order in which gymnasium concatenates them."""
    match tree["type"]:
        case "Dict":
            for key, subspace in tree["subspaces"].items():
                yield from leaves(subspace, (*path, key))
        case "Tuple":
            for i, subspace in enumerate(tree["subspaces"]):
                yield from leaves(subspace, (*path, f"_index_{i}"))
        case "Box" | "Discrete" | "MultiDiscrete" | "MultiBinary":
            yield Leaf(path, tree)
        case kind:
            raise InputError(f"a space of type {kind} cannot be flattened to a vector")


def pick(value: Any, leaf: Leaf, where: str) -> np.ndarray:
    """The array of `leaf` in a nested value of dicts and tuples.

    Raises:
      InputError: it is missing, or its steps have another shape; `where` names the value.
    """
    for step in leaf.path:
        key: Any = int(step.removeprefix("_index_")) if isinstance(value, (tuple, list)) else step
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            raise InputError(f"{where}: {'/'.join(leaf.path)} is missing") from None
    array = np.asarray(value)
    if array.shape[1:] != leaf.shape:
        raise InputError(
            f"{leaf.name(where)} has steps of shape {array.shape[1:]}, its space says {leaf.shape}"
        )
    return array


def is_image(tree: Tree) -> bool:
    """Byte arrays with two axes or more are kept, everything else becomes a float vector."""
    return tree["type"] == "Box" and tree["dtype"] == "uint8" and len(tree["shape"]) >= 2


def flatten(
    tree: Tree, columns: Sequence[np.ndarray], where: str, dtype: Any = np.float32
) -> np.ndarray:
    """The result of `gymnasium.spaces.flatten` for each row, for all rows at once.

    Args:
      tree: the space.
      columns: one array (R, *leaf.shape) per leaf of the space, in the order of `leaves`.
      where: what error messages call the observations.
      dtype: of the result; None keeps the columns' precision.

    Returns:
      (R, D) of `dtype`; (R, *shape) uint8 for an image.
    """
    if is_image(tree):
        return columns[0]
    parts = [
        _flatten_leaf(leaf, column, leaf.name(where))
        for leaf, column in zip(leaves(tree), columns, strict=True)
    ]
    flat = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return flat if dtype is None else flat.astype(dtype, copy=False)


def _flatten_leaf(leaf: Leaf, column: np.ndarray, where: str) -> np.ndarray:
    if leaf.tree["type"] == "Discrete":
        return _one_hot(column, leaf.tree["n"], leaf.tree.get("start", 0), where)
    rows = column.reshape(len(column), -1)
    if leaf.tree["type"] == "MultiDiscrete":
        sizes = np.ravel(leaf.tree["nvec"])
        starts = np.broadcast_to(np.ravel(leaf.tree.get("start", 0)), sizes.shape)
        parts = [
            _one_hot(rows[:, i], int(n), int(start), where)
            for i, (n, start) in enumerate(zip(sizes, starts, strict=True))
        ]
        return np.concatenate(parts, axis=1)
    return rows


def _one_hot(values: np.ndarray, n: int, start: int, where: str) -> np.ndarray:
    digits = values.astype(np.int64) - start
    outside = np.flatnonzero((digits < 0) | (digits >= n))
    if outside.size:
        raise InputError(
            f"{where}: row {outside[0]} is {values[outside[0]]}, its space has the integers "
            f"{start} .. {start + n - 1}"
        )
    check_declared(4 * len(digits) * n, f"{where}, one number for each of {n} integers,")
    rows = np.zeros((len(digits), n), np.float32)
    rows[np.arange(len(digits)), digits] = 1.0
    return rows


def flat_space(tree: Tree) -> Box:
    """The box of the flattened space."""
    if is_image(tree):
        shape, dtype = tuple(tree["shape"]), "uint8"
    else:
        shape, dtype = None, "float32"
    bounds = [_leaf_bounds(leaf) for leaf in leaves(tree)]
    low, high = (np.concatenate([np.ravel(pair[i]) for pair in bounds]) for i in (0, 1))
    return Box(shape or low.shape, tuple(low.tolist()), tuple(high.tolist()), dtype)


def _leaf_bounds(leaf: Leaf) -> tuple[np.ndarray, np.ndarray]:
    if leaf.tree["type"] == "Box":
        low, high = (np.asarray(leaf.tree[bound], np.float32) for bound in ("low", "high"))
        return np.broadcast_to(low, leaf.shape), np.broadcast_to(high, leaf.shape)
    match leaf.tree["type"]:
        case "Discrete":
            size = leaf.tree["n"]
        case "MultiDiscrete":
            size = int(np.sum(leaf.tree["nvec"]))
        case _:
            size = int(np.prod(leaf.shape))
    return np.zeros(size, np.float32), np.ones(size, np.float32)


def unbounded_box(shape: tuple[int, ...], dtype: np.dtype) -> Tree:
    """A space guessed for observations from their arrays alone."""
    if dtype == np.uint8 and len(shape) >= 2:
        low, high, name = 0.0, 255.0, "uint8"
    else:
        low, high, name = -np.inf, np.inf, "float32"
    bounds = {"low": np.full(shape, low), "high": np.full(shape, high)}
    return {"type": "Box", "dtype": name, "shape": shape, **bounds}


def to_record(space: Space) -> dict[str, Any]:
    """A space of a dataset as values that JSON can hold."""
    return {"type": type(space).__name__, **dataclasses.asdict(space)}


def from_record(record: Mapping[str, Any], where: str = "the space") -> Space:
    """The inverse of :func:`to_record`.

    Raises:
      InputError: the record is not that of a space; it names `where`, the field and the value.
    """
    kind: Any = record.get("type")
    if not isinstance(kind, str) or kind not in _RECORDS:
        raise InputError(f"{where} has type {kind!r}, expected Box or Discrete")
    fields: dict[str, Any] = {name: value for name, value in record.items() if name != "type"}
    check_record(fields, _RECORDS[kind], where, _REQUIRED[kind])
    unknown = sorted(set(fields) - set(_RECORDS[kind]))
    if unknown:
        raise InputError(f"{where} has the unknown field {unknown[0]}")
    if kind == "Discrete":
        space = Discrete(**fields)
        check_integers(space.n, space.start, where)
        return space
    for name in ("shape", "low", "high"):
        fields[name] = tuple(fields[name])
    space = Box(**fields)
    check_tree({"type": "Box", **dataclasses.asdict(space)}, where)
    if not len(space.low) == len(space.high) == math.prod(space.shape):
        raise InputError(f"{where}: low and high have not one number for each of {space.shape}")
    return space


def _are_bounds(value: Any) -> bool:
    """A list of numbers, which may be infinite."""
    return isinstance(value, (list, tuple)) and all(
        is_number(item) or item in (math.inf, -math.inf) for item in value
    )


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(COUNT.fits, value))


_BOUNDS = Field("a list of numbers", _are_bounds)
_INTEGER = Field("an integer", lambda value: isinstance(value, int) and not isinstance(value, bool))
_RECORDS: Mapping[str, Mapping[str, Field]] = {
    "Box": {
        "shape": Field("a list of sizes", _is_shape),
        "low": _BOUNDS,
        "high": _BOUNDS,
        "dtype": TEXT,
    },
    "Discrete": {"n": COUNT, "start": _INTEGER},
}
_REQUIRED = {"Box": ("shape", "low", "high"), "Discrete": ("n",)}
