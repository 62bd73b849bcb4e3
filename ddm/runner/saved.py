"""Reads the files of a run about itself, and checks their structure and their seal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddm.errors import InputError
from ddm.runner.files import SEAL, check_fields, read_json

CONFIG = "config.json"
SUMMARY = "summary.json"


def read_record(folder: Path) -> dict[str, Any]:
    """The configuration of a run, from its folder.

    Raises:
      InputError: it cannot be read, was changed after it was written, or is of another shape.
    """
    path = folder / CONFIG
    record = read_json(path)
    check_fields(record, _SHAPE, str(path))
    if "run" in record and SEAL not in record:
        raise InputError(f"{path} has lost its seal; put a copy of it back, or start a new run")
    return record


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run, from its folder.

    Raises:
      InputError: it cannot be read, was changed after it was written, or is of another shape.
    """
    path = folder / SUMMARY
    summary = read_json(path)
    check_fields(summary, _SUMMARY_SHAPE, str(path))
    if summary.get("metrics"):
        check_fields(summary["metrics"], {"bytes": int, "digest": str}, f"{path}: metrics")
    if score := summary.get("score"):
        check_fields(score, {"metric": str, "points": [dict], "lanes": [dict]}, f"{path}: score")
    if "run" in summary and SEAL not in summary:
        raise InputError(f"{path} has lost its seal; resume the run, which writes it anew")
    return summary


_SUMMARY_SHAPE = {
    "algorithm": str, "config": {}, "options": {}, "dataset": {"name": str}, "versions": {},
    "gradient_steps": int, "environment": (str, None), "score": (dict, None), "device": str,
    "metrics": (dict, None), "script_flags": (dict, None),
}  # fmt: skip

_SHAPE = {
    "algorithm": str,
    "config": {},
    "options": {"num_updates": int, "seeds": int, "seed": int, "sweep": [str]},
    "dataset": {"observation_shape": (list, None), "action_space": (dict, None)},
    "environment": (str, None),
    "not_in_file": (list, None),
    "resumed": (list, None),
    "run": (str, None),
    "schedule_length": (int, None),
    "versions": (dict, None),
}
