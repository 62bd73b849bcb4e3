"""Trees of spaces from files, checked before they are used to read anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddm.data.schema import is_count, shown
from ddm.errors import InputError

INT32 = 2**31 - 1
LARGEST_STEP = 2**28  # numbers in one observation or action: an image of a gigabyte
DEEPEST = 32  # dicts and tuples inside each other

_KINDS = "biuf"  # of numpy's dtypes; others are not numbers


def check_tree(tree: Any, where: str, depth: int = 0) -> int:
    """Refuses a tree that is not a space, or a space that no array can have.

    Types that cannot be flattened pass here: a later check refuses them and names their place.

    Args:
      tree: as Minari stores it.
      where: what error messages call it.
      depth: how far inside other spaces it is.

    Returns:
      The number of numbers in one flattened value.

    Raises:
      InputError: names the place in the space, the value, and what was expected.
    """
    if not isinstance(tree, Mapping) or not isinstance(tree.get("type"), str):
        raise InputError(f"{where} is {shown(tree)}, expected a space with its type")
    if depth > DEEPEST:
        raise InputError(f"{where} is nested more than {DEEPEST} spaces deep")
    match tree["type"]:
        case "Dict":
            size = _check_dict(tree, where, depth)
        case "Tuple":
            size = _check_tuple(tree, where, depth)
        case "Box":
            size = check_box(tree, where)
        case "Discrete":
            size = _check_discrete(tree, where)
        case "MultiDiscrete":
            size = _check_multi_discrete(tree, where)
        case "MultiBinary":
            size = math.prod(_sizes(np.atleast_1d(_array(tree, "n", where)).tolist(), "n", where))
        case _:
            size = 0
    if size > LARGEST_STEP:
        raise InputError(f"{where} has {size} numbers in one value, expected at most 2^28")
    return size


def _check_dict(tree: Mapping[str, Any], where: str, depth: int) -> int:
    parts = tree.get("subspaces")
    if not isinstance(parts, Mapping) or not parts or not all(isinstance(k, str) for k in parts):
        raise InputError(f"{where} has the parts {shown(parts)}, expected spaces by name")
    return sum(check_tree(part, f"{where}/{key}", depth + 1) for key, part in parts.items())


def _check_tuple(tree: Mapping[str, Any], where: str, depth: int) -> int:
    parts = tree.get("subspaces")
    if not isinstance(parts, (list, tuple)) or not parts:
        raise InputError(f"{where} has the parts {shown(parts)}, expected a list of spaces")
    return sum(check_tree(part, f"{where}/{i}", depth + 1) for i, part in enumerate(parts))


def check_box(tree: Mapping[str, Any], where: str) -> int:
    """Refuses a box with an invalid dtype, shape or bounds; the caller checks equal bounds.

    Raises:
      InputError: names the box and the value.
    """
    dtype = tree.get("dtype")
    try:
        known = isinstance(dtype, str) and np.dtype(dtype).kind in _KINDS
    except (TypeError, ValueError, SyntaxError):
        known = False
    if not known:
        raise InputError(f"{where} has dtype {shown(dtype)}, expected one of real numbers")
    shape = tree.get("shape")
    if not isinstance(shape, (list, tuple)):
        raise InputError(f"{where} has shape {shown(shape)}, expected a list of sizes")
    shape = _sizes(shape, "shape", where)
    if math.prod(shape) > LARGEST_STEP:
        return math.prod(shape)  # the caller refuses it before it expands the bounds to this shape
    bounds = {}
    for bound in ("low", "high"):
        values = _array(tree, bound, where)
        if values.size not in (1, math.prod(shape)):
            raise InputError(f"{where}: {bound} has shape {values.shape}, expected {shape}")
        if np.isnan(values.astype(np.float64)).any():
            raise InputError(f"{where}: {bound} has NaN in it")
        bounds[bound] = values.astype(np.float64).ravel()
    if np.any(bounds["low"] > bounds["high"]):
        raise InputError(f"{where}: low is above high in at least one dimension")
    return math.prod(shape)


def _check_discrete(tree: Mapping[str, Any], where: str) -> int:
    n: Any = tree.get("n")
    check_integers(n, tree.get("start", 0), where)
    return int(n)


def check_integers(n: Any, start: Any, where: str) -> None:
    """Refuses integers start .. start + n - 1 that do not fit 32 bits.

    Raises:
      InputError: they do not fit, or are not integers.
    """
    whole = (int, np.integer)
    if not all(isinstance(x, whole) and not isinstance(x, bool) for x in (n, start)):
        raise InputError(f"{where}: n is {shown(n)} and start {shown(start)}, expected integers")
    if n < 1 or n > INT32 or not -INT32 - 1 <= start <= INT32 - n + 1:
        raise InputError(
            f"{where} has the {shown(n)} integers from {shown(start)}, expected at least one, and "
            "such as 32 bits hold"
        )


def _check_multi_discrete(tree: Mapping[str, Any], where: str) -> int:
    sizes = _array(tree, "nvec", where)
    starts = (
        _array({"start": 0} | dict(tree), "start", where) if tree.get("start") is not None else 0
    )
    if sizes.size == 0 or np.size(starts) not in (1, sizes.size):
        raise InputError(f"{where}: nvec is {shown(tree['nvec'])}, expected sizes and their starts")
    for n, start in np.broadcast(np.ravel(sizes), np.ravel(starts)):
        check_integers(n.item(), start.item(), where)
    return int(np.sum(sizes))


def _array(tree: Mapping[str, Any], field: str, where: str) -> np.ndarray:
    """The numbers of a field."""
    if field not in tree:
        raise InputError(f"{where}: {field} is missing")
    try:
        array = np.asarray(tree[field])
    except ValueError:
        raise InputError(f"{where}: {field} is ragged, expected one shape") from None
    if array.dtype.kind not in "iuf":
        raise InputError(f"{where}: {field} is {shown(tree[field])}, expected numbers")
    return array


def _sizes(values: Any, field: str, where: str) -> tuple[int, ...]:
    if not all(is_count(value) and value > 0 for value in map(_plain, values)):
        raise InputError(f"{where}: {field} is {shown(values)}, expected positive sizes")
    return tuple(map(int, values))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
