"""Whether a continued run is the same run, and the sentences about differences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddm.errors import InputError
from ddm.runner.files import json_values
from ddm.runner.options import RUN_ONLY, Options


def go_on_with(
    saved: dict[str, Any], record: dict[str, Any], folder: Path, defaults: Mapping[str, Any]
) -> list[str]:
    """Makes the record of a run that continues, from the saved one and the present one.

    Args:
      saved: from config.json.
      record: of the present start; it gets the identity and the first start of the saved one.
      folder: of the run, for the message.
      defaults: of the fields of the configuration.

    Returns:
      A sentence for each thing that changes with this start.

    Raises:
      InputError: it is another run.
    """
    check_same_run(saved, record, folder, defaults)
    notices = [*_compare_scores(saved, record), *_compare_numerics(saved, record)]
    now = {name: record[name] for name in _CIRCUMSTANCES if name in record}
    record.update({name: saved.get(name) for name in now})
    record["resumed"] = [*(saved.get("resumed") or ()), now]
    if saved.get("run") is not None:
        record["run"] = saved["run"]
    return notices


def check_same_run(
    saved: dict[str, Any], asked: dict[str, Any], folder: Path, defaults: Mapping[str, Any]
) -> None:
    """Refuses to resume a run under another configuration.

    Options that only concern how a run is watched, stored or spread may differ, and a run may
    become longer. If an older version did not have an option or a field, its value was the present
    default.

    Raises:
      InputError: names the first difference and both values.
    """
    known = {"options": json_values(dataclasses.asdict(Options())), "config": dict(defaults)}
    unscored = None in (saved.get("environment"), asked["environment"])
    # The data come last: if an option changes them, it describes the difference better.
    for section in (
        "algorithm", "config", "options", "environment", "collect", "dataset", "sources", "start",
    ):  # fmt: skip
        before, now = saved.get(section), asked.get(section)
        if not isinstance(now, dict):
            before, now = {section: before}, {section: now}
        before = before or {}
        for name in [*now, *(set(before) - set(now) if section == "config" else ())]:
            old = before.get(name, _as_list(known.get(section, {}).get(name)))
            new = now.get(name)
            if old == new or _may_differ(section, name, before, unscored):
                continue
            raise InputError(_difference(folder, section, name, before, now))
    _check_environment(saved, asked, folder, unscored)
    before, now = saved["options"]["num_updates"], asked["options"]["num_updates"]
    if now < before:
        raise InputError(
            f"{folder} was run with num_updates={before}; it can become longer, not {now}"
        )


def _difference(folder: Path, section: str, name: str, before: Any, now: Any) -> str:
    what = f"dataset {name}" if section == "dataset" else name
    if name not in now:
        return f"{folder} was run with {name}={before[name]}, which this version does not have"
    if section == "config" and name not in before:
        return (
            f"{folder} was run by a version without {name}, which is {now[name]} here and not its "
            "default; resume it with the default, or start a new run"
        )
    default = before.get(name, getattr(Options(), name, None) if section == "options" else None)
    return (
        f"{folder} was run with {what}={default}, not {now[name]}; "
        "resume it as it was, or start a new run"
    )


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_IDENTITY = ("transitions", "episodes", "digest")  # of a dataset, whatever its path
_OF_THE_SCORE = ("environment", "environment_kwargs", "max_episode_steps")
_CIRCUMSTANCES = ("command", "host", "started", "versions", "commit", "numerics")


def _may_differ(section: str, name: str, saved: dict[str, Any], unscored: bool) -> bool:
    """Whether a run may continue although this value differs.

    Args:
      section: of the record.
      name: in the section.
      saved: the section of the run that continues.
      unscored: there was no environment, or there is none now; a run may gain or lose its score.
    """
    if section == "environment" or (section == "options" and name in _OF_THE_SCORE):
        return unscored
    if section == "options":
        return name in RUN_ONLY | {"dataset"}
    if section == "dataset":
        return name not in _IDENTITY or name not in saved  # recorded by an older version
    return False


def _check_environment(
    saved: dict[str, Any], asked: dict[str, Any], folder: Path, unscored: bool
) -> None:
    """Refuses an environment of the same name with other arguments, wrappers or parameters."""
    before, now = saved.get("environment_spec"), asked.get("environment_spec")
    if unscored or before is None or before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        # Another version of gymnasium may have other fields; fields of both must agree.
        differing = [name for name in now if name in before and before[name] != now[name]]
        if not differing:
            return
        before, now = (f"{differing[0]}={spec[differing[0]]}" for spec in (before, now))
    raise InputError(
        f"{folder} was scored in another {asked['environment']}: {before}, not {now}; resume it "
        "as it was, or with --environment=none"
    )


def _compare_scores(saved: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Reports if a run loses its score, or gets one."""
    before, now = saved.get("environment"), record["environment"]
    if before and not now:
        return [f"this run was scored in {before} so far: its scores end here"]
    if now and not before:
        return [f"this run had no environment so far: its scores begin here, in {now}"]
    return []


def _compare_numerics(saved: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Reports if sums are computed in another order than before, as on another machine.

    This is not refused, because the results are as good, but no single run reproduces them.
    """
    last = [saved, *(saved.get("resumed") or ())][-1].get("numerics") or {}
    now = record.get("numerics") or {}
    changed = [
        f"{name} is {now[name]}, not {last[name]}"
        for name in now
        if name in last and now[name] != last[name]
    ]
    if not changed:
        return []
    return [
        f"{', '.join(changed)} as before: from here on, numbers may differ in the last bit from "
        "those of an uninterrupted run"
    ]
