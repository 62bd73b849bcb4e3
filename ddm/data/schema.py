"""Plain checks of JSON records from files: every value's type and range, by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ddm.errors import InputError

LARGEST_COUNT = 2**53  # of anything in a file; above it JSON's numbers lose digits


class Field(NamedTuple):
    """What a value must be."""

    expected: str  # in words
    fits: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether this is a finite number, and not a truth value."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) < LARGEST_COUNT if isinstance(value, int) else math.isfinite(value)


def is_count(value: Any) -> bool:
    """Whether this is an integer of at least 0, and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_COUNT


def is_texts(value: Any) -> bool:
    """Whether this is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


TEXT = Field("text", lambda value: isinstance(value, str))
TEXTS = Field("a list of texts", is_texts)
FLAG = Field("true or false", lambda value: isinstance(value, bool))
COUNT = Field("an integer from 0", is_count)
NUMBER = Field("a finite number", is_number)
RECORD = Field("an object", lambda value: isinstance(value, dict))


def optional(field: Field) -> Field:
    """The same, or null."""
    return Field(f"{field.expected} or null", lambda value: value is None or field.fits(value))


def read_json(text: str | bytes, where: str) -> dict[str, Any]:
    """The object that a JSON text holds.

    Raises:
      InputError: it is not JSON, or not an object.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise InputError(f"{where} is nested too deeply, expected a JSON object") from None
    except ValueError as error:
        raise InputError(f"{where} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} holds a {type(value).__name__}, expected a JSON object")
    return value


def read_specification(text: Any, where: str) -> dict[str, Any]:
    """The fields of gymnasium's specification of an environment, stored as JSON.

    Raises:
      InputError: it is not one.
    """
    try:
        fields = read_json(text, where) if isinstance(text, str) else None
    except InputError:
        fields = None
    if fields is None or not isinstance(fields.get("id"), str):
        raise InputError(f"{where} is not gymnasium's specification of an environment")
    return fields


def check_record(
    record: Mapping[str, Any],
    fields: Mapping[str, Field],
    where: str,
    required: tuple[str, ...] = (),
) -> None:
    """Refuses a record whose values do not fit `fields`; other names are not checked.

    Raises:
      InputError: names the field, what it is, and what was expected.
    """
    for name, field in fields.items():
        if name not in record:
            if name in required:
                raise InputError(f"{where}: field {name} is missing, expected {field.expected}")
        elif not field.fits(record[name]):
            raise InputError(f"{where}: {name} is {shown(record[name])}, expected {field.expected}")


def shown(value: Any) -> str:
    """A value for an error message, shortened if it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # an integer of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
