"""The run directory: what a run was asked to do, and whether two runs are the same run."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from ddm.errors import InputError
from ddm.runner.files import full_disk_named, read_json, write_json
from ddm.runner.flags import algorithm_name
from ddm.runner.options import RUN_ONLY, Options

CONFIG = "config.json"
METRICS = "metrics.csv"
SUMMARY = "summary.json"
PLOT = "curves.png"

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "gymnasium", "mujoco")


def describe_run(
    algorithm: Any, config: Any, dataset: Any, environment: Any, options: Options
) -> dict[str, Any]:
    """Everything that decides what a run computes, as values that JSON can hold."""
    named = options.environment or dataset.info.environment_id
    record = {
        "algorithm": algorithm_name(algorithm),
        "config": {f.name: getattr(config, f.name) for f in dataclasses.fields(config)},
        "options": dataclasses.asdict(options),
        "script_flags": script_flags(config),
        "dataset": {
            "name": dataset.info.name,
            "transitions": dataset.num_transitions,
            "episodes": dataset.num_episodes,
        },
        "environment": None if environment is None else _environment_name(environment, named),
        "versions": versions(),
    }
    return json.loads(json.dumps(record, default=_plain))


def _environment_name(environment: Any, named: str | None) -> str:
    """Of a pure environment, a gymnasium id, or a function that makes an environment."""
    if isinstance(environment, str):
        return environment
    return str(getattr(environment, "name", None) or named or "unnamed")


def script_flags(config: Any) -> dict[str, Any]:
    """Flags that the experiment defines beside the options and the configuration, where given."""
    fields = {field.name for cls in (Options, config) for field in dataclasses.fields(cls)}
    given = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    return {flag.name: flag.value for flag in given if flag.present and flag.name not in fields}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, where installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def prepare_run_dir(record: dict[str, Any], options: Options, *, write: bool) -> Path:
    """Makes the folder of a run and writes its configuration, or checks it against the one there.

    Args:
      record: from `describe_run`.
      options: of the run.
      write: False in processes that share the lanes with the one that writes.

    Raises:
      InputError: the folder holds another run, or `--resume` names none.
    """
    if options.resume and not options.run_dir:
        raise InputError("--resume needs --run_dir, the folder of the run to go on with")
    folder = Path(options.run_dir or _new_name(record))
    if not write:
        return folder
    if options.resume and not folder.is_dir():
        raise InputError(f"--run_dir={folder} does not exist, so there is nothing to resume")
    path = folder / CONFIG
    if path.exists():
        if not options.resume:
            raise InputError(
                f"--run_dir={folder} already holds a run: add --resume, or name another folder"
            )
        check_same_run(read_json(path), record, folder)
    with full_disk_named(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise InputError(f"--run_dir={folder} is a file, expected a folder") from error
        write_json(path, record)
    return folder


def check_same_run(saved: dict[str, Any], asked: dict[str, Any], folder: Path) -> None:
    """Refuses to resume a run under another configuration.

    What only concerns watching, storing or spreading a run may differ, and it may become longer.

    Raises:
      InputError: names the first difference and both values.
    """
    for section in ("algorithm", "config", "dataset", "options"):
        before, now = saved.get(section), asked[section]
        if not isinstance(now, dict):
            before, now = {section: before}, {section: now}
        for name in now:
            if section == "options" and name in RUN_ONLY | {"dataset"}:
                continue  # the dataset is compared by its own record, wherever it lies
            old = (before or {}).get(name)
            if old != now[name]:
                what = f"dataset {name}" if section == "dataset" else name
                raise InputError(
                    f"{folder} was run with {what}={old}, not {now[name]}; "
                    "resume it as it was, or start a new run"
                )
    before, now = saved["options"]["num_updates"], asked["options"]["num_updates"]
    if now < before:
        raise InputError(
            f"{folder} was run with num_updates={before}; it can become longer, not {now}"
        )


def _new_name(record: dict[str, Any]) -> Path:
    dataset = Path(record["dataset"]["name"]).name.replace("/", "-")
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / f"{record['algorithm']}-{dataset}-{now}"
    return next(
        path
        for i in range(1, 1000)
        if not (path := Path(f"{base}-{i}" if i > 1 else base)).exists()
    )


def _plain(value: Any) -> Any:
    """What JSON does not know: arrays and functions."""
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return np.asarray(value).tolist()
    return getattr(value, "__qualname__", None) or str(value)
