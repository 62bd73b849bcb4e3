"""Hyper-parameters: each field declares its allowed values, and one function checks them.

class Config(Configuration):
discount: float = leaf(0.99, "[0, 1]")  # of future rewards
hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # of every network
log_std_min: float = static(-5.0, at_most="log_std_max")
log_std_max: float = static(2.0)
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import struct

from ddm.errors import InputError

Choices = Iterable[str] | Callable[[], Iterable[str]]
NetworkFn = Callable[[Any, int], nn.Module]  # (config, size of an action) -> flax module


def leaf(default: Any, allowed: str = "", *, at_most: str = "") -> Any:
    """A numeric field of a Config, which may be traced and swept.

    Args:
      default: its value where none is given.
      allowed: an interval such as "[0, 1)" or "(0, inf)"; empty: every number.
      at_most: the name of another field, which must not be smaller.
    """
    return struct.field(default=default, metadata=_metadata(allowed, at_most))


def static(default: Any, allowed: str = "", *, at_most: str = "") -> Any:
    """A structural field of a Config: hashable, part of the compiled program, not swept.

    The arguments are those of :func:`leaf`; in a tuple, every number must lie in the interval.
    """
    return struct.field(pytree_node=False, default=default, metadata=_metadata(allowed, at_most))


def choice(options: Choices, default: Any) -> Any:
    """A static field that is one of several names, or a function in place of a named one.

    Args:
      options: the names, mostly a registry of functions by name; a function without arguments that
        returns them, where they are defined further down.
      default: one of the names.
    """
    metadata = {**_metadata("", ""), "choices": options}
    return struct.field(pytree_node=False, default=default, metadata=metadata)


def network() -> Any:
    """A static field for a user's own network, in place of one of the algorithm's.

    Its value is a function of the configuration and the size of an action (dimensions, or the
    number of discrete actions) that returns a flax module. None: the algorithm's own network.
    """
    return struct.field(
        pytree_node=False, default=None, metadata={**_metadata("", ""), "network": True}
    )


def choices_of(field: dataclasses.Field) -> tuple[str, ...]:
    """The names that a :func:`choice` allows; empty for every other field."""
    return tuple(_table(field)) if "choices" in field.metadata else ()


def chosen(config: Any, name: str) -> Any:
    """The function that a :func:`choice` names; a function in place of a name is returned."""
    value = getattr(config, name)
    if not isinstance(value, str):
        return value
    [field] = [field for field in dataclasses.fields(config) if field.name == name]
    return _table(field)[value]


def _table(field: dataclasses.Field) -> Any:
    """What a field chooses from: mostly functions by name."""
    options = field.metadata["choices"]
    return options() if callable(options) else options


def own_networks(config: Any) -> dict[str, bool]:
    """The configuration's :func:`network` fields, and whether the user gave one."""
    fields = [field for field in dataclasses.fields(config) if field.metadata.get("network")]
    return {field.name: getattr(config, field.name) is not None for field in fields}


class Configuration(struct.PyTreeNode):
    """Base of every Config: refuses numbers outside their interval, and names that are no choice.

    Numbers of Python and numpy are checked. Traced values and arrays on the device are not: a
    traced value is not known yet, and reading an array would wait for the device.

    Raises:
      InputError: naming the algorithm, the field, its value and what was expected.
    """

    def __post_init__(self):
        _narrow(self)
        check(self)


def check(config: Any) -> None:
    """Refuses a configuration with a number outside what its field declares."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        allowed, other = field.metadata.get("allowed"), field.metadata.get("at_most")
        if "choices" in field.metadata and isinstance(value, str):
            _check_choice(config, field, value)
        if allowed and not _inside(value, allowed):
            raise InputError(
                f"{_owner(config)}: {field.name} is {_text(value)}, expected a value in {allowed}"
            )
        if other and not _ordered(value, getattr(config, other)):
            raise InputError(
                f"{_owner(config)}: {field.name} is {_text(value)}, expected at most "
                f"{other}={_text(getattr(config, other))}"
            )


def _check_choice(config: Any, field: dataclasses.Field, value: str) -> None:
    names = choices_of(field)
    if value not in names:
        raise InputError(
            f"{_owner(config)}: {field.name}={value} is unknown; choose one of {', '.join(names)}"
        )


def _narrow(config: Any) -> None:
    """Turns numpy's numbers into Python's, and 64-bit arrays into 32-bit: training is in float32.

    A float64 leaf, which a program with `jax_enable_x64` may give, would make parameters and
    metrics float64. Python's numbers take the type of the arrays that they are combined with.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, (int, float, str, tuple)) and not isinstance(value, np.number):
            continue  # nearly all fields; asking jax whether a value is an array takes far longer
        if isinstance(value, np.number):
            object.__setattr__(config, field.name, value.item())
        elif _is_wide(value):
            object.__setattr__(config, field.name, value.astype(_NARROW[value.dtype]))


def _is_wide(value: Any) -> bool:
    array = isinstance(value, (np.ndarray, jax.Array)) and not getattr(value, "weak_type", False)
    return array and value.dtype in _NARROW


_NARROW = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}


def broadcast(config: Any, num_lanes: int) -> Any:
    """The configuration with a leading axis of lanes on every numeric leaf, all lanes equal.

    `jax.vmap` over a configuration needs this axis on each leaf, even on those that do not vary:
    `broadcast(config, 3).replace(alpha=jnp.array([1.0, 5.0, 10.0]))`.

    Args:
      config: with numbers.
      num_lanes: L, the length of the new axis.
    """
    return jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], num_lanes, axis=0), config)


def describe_range(field: dataclasses.Field) -> str:
    """The text of `--help` on the allowed values of a field; empty if every value is allowed."""
    allowed, other = field.metadata.get("allowed"), field.metadata.get("at_most")
    parts = [f"in {allowed}"] if allowed and allowed != "(-inf, inf)" else []
    if names := choices_of(field):
        parts.append(f"one of {', '.join(names)}")
    return ", ".join([*parts, *([f"at most {other}"] if other else [])])


def _metadata(allowed: str, at_most: str) -> dict[str, str]:
    if allowed:
        _parse(allowed)  # a misspelt interval is found when the module is imported
    return {"allowed": allowed, "at_most": at_most}


@functools.cache  # a Config is built again at each `jax.tree.map` over it
def _parse(interval: str) -> tuple[float, float]:
    if interval[0] not in "[(" or interval[-1] not in ")]":
        raise ValueError(f"{interval!r} is not an interval such as '[0, 1)'")
    low, high = interval[1:-1].split(",")
    return float(low), float(high)


def _inside(value: Any, interval: str) -> bool:
    low, high = _parse(interval)
    above = operator.ge if interval[0] == "[" else operator.gt
    below = operator.le if interval[-1] == "]" else operator.lt
    return all(above(number, low) and below(number, high) for number in _extremes(value))


def _ordered(value: Any, other: Any) -> bool:
    if isinstance(value, (int, float)) and isinstance(other, (int, float)):
        return value <= other or isinstance(value, bool)
    if not _extremes(value) or not _extremes(other):
        return True
    return bool(np.all(np.less_equal(value, other)))


def _extremes(value: Any) -> tuple:
    """The numbers of a value that need a check; none if the value is not known to be numbers.

    For an array these are the smallest and the largest number, which are NaN if any number is.
    Truth values do not count as numbers: jax builds a Config of them to say which leaves are
    mapped. This runs at each `jax.tree.map` over a Config, so Python's numbers are not converted to
    arrays.
    """
    if isinstance(value, bool):
        return ()
    if isinstance(value, (int, float)):
        return (value,)
    if isinstance(value, (tuple, list)):
        known = all(isinstance(x, (int, float, np.number)) and x is not True for x in value)
        return tuple(value) if known else ()
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.size:
        return value.min(), value.max()
    return ()


def _owner(config: Any) -> str:
    return type(config).__module__.rpartition(".")[2]


def _text(value: Any) -> str:
    return str(value.tolist()) if isinstance(value, np.ndarray) else str(value)
