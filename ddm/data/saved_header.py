"""The header of a saved dataset: JSON with the format, its version, and a `DatasetInfo`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddm.data.dataset import DatasetInfo
from ddm.data.references import are_references, check_references
from ddm.data.schema import (
    COUNT,
    FLAG,
    RECORD,
    TEXT,
    TEXTS,
    Field,
    check_record,
    optional,
    read_json,
    read_specification,
    shown,
)  # fmt: skip
from ddm.data.spaces import from_record
from ddm.errors import InputError
from ddm.types import Box

FORMAT = "ddm-dataset"
VERSION = 2
HEADER = "header"  # JSON: format, version and DatasetInfo
_INFO: Mapping[str, Field] = {
    "name": TEXT,
    "observation_space": RECORD,
    "action_space": RECORD,
    "environment_id": optional(TEXT),
    "environment_spec": optional(TEXT),
    "environment_source": optional(TEXT),
    "reference_scores": optional(Field("two finite numbers that differ", are_references)),
    "reference_source": optional(TEXT),
    "clipped_actions": COUNT,
    "dropped_transitions": COUNT,
    "moved_actions": COUNT,
    "bounds_guessed": FLAG,
    "has_rewards": FLAG,
    "notes": TEXTS,
    "data_cuts": COUNT,
}
_REQUIRED = ("name", "observation_space", "action_space")  # the first version had no others


def read_header(stored: np.ndarray, path: Path) -> tuple[dict[str, Any], int]:
    """The record of a `DatasetInfo`, and the version of the format.

    Raises:
      InputError: the array is not such a header.
    """
    where = f"{path}: the header is not that of a saved dataset"
    if stored.shape != () or stored.dtype.kind != "U":
        raise InputError(f"{where}: it is {stored.dtype} of shape {stored.shape}")
    header = read_json(str(stored), where)
    kind: Any = header.get("format")
    version: Any = header.get("version")
    known = isinstance(version, int) and not isinstance(version, bool) and 1 <= version <= VERSION
    if kind != FORMAT or not known:
        raise InputError(
            f"{path} has format {shown(kind)}, version {shown(version)}, expected {FORMAT} up to "
            f"version {VERSION}"
        )
    check_record(header, {"info": RECORD}, f"{path}: the header", ("info",))
    return header["info"], version


def read_info(record: Mapping[str, Any], path: str) -> DatasetInfo:
    """The information in the record, after a check of every value.

    Raises:
      InputError: names the field, what it is, and what was expected.
    """
    where = f"{path}: the header"
    check_record(record, _INFO, where, _REQUIRED)
    unknown = sorted(set(record) - set(_INFO))
    if unknown:
        raise InputError(f"{where} has the unknown field {unknown[0]}")
    fields = dict(record)
    for field in ("observation_space", "action_space"):
        fields[field] = from_record(record[field], f"{where}: {field}")
    if not isinstance(fields["observation_space"], Box):
        raise InputError(f"{where}: observation_space is no Box, expected one of flat vectors")
    if fields.get("reference_scores") is not None:
        fields["reference_scores"] = tuple(map(float, fields["reference_scores"]))
        check_references(fields["reference_scores"], where)
    if fields.get("environment_spec") is not None:
        read_specification(fields["environment_spec"], f"{where}: environment_spec")
    fields["notes"] = tuple(record.get("notes", ()))
    return DatasetInfo(**fields)
