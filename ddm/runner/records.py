"""The run directory: what a run was asked to do, and whether two runs are the same run."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import ddm
from ddm import data
from ddm.errors import InputError
from ddm.runner.files import full_disk_named, read_json, write_json
from ddm.runner.flags import algorithm_name, flag_fields
from ddm.runner.options import RUN_ONLY, Options
from ddm.types import Box, Discrete, Space

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
        "without_flag": _fields_without_flag(config),
        "options": dataclasses.asdict(options),
        "script_flags": script_flags(config),
        "dataset": _describe_dataset(dataset),
        "environment": None if environment is None else _environment_name(environment, named),
        "environment_spec": _environment_spec(environment),
        "schedule_length": schedule_length(options),
        "command": [sys.executable, *sys.argv],
        "host": platform.node(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "commit": _commit(),
    }
    return json.loads(json.dumps(record, default=_plain))


def resolve_schedules(algorithm: Any, config: Any, options: Options) -> tuple[Any, list[str]]:
    """The configuration whose schedules end with the run, where nothing else is set.

    Returns:
      What `algorithm.resolve` makes of the configuration, if it has one, and a sentence where a
      run that became longer keeps the schedule it began with.
    """
    resolve = getattr(algorithm, "resolve", None)
    if resolve is None:
        return config, []
    length = schedule_length(options)
    resolved = resolve(config, length)
    if length == options.num_updates or resolved == config:
        return resolved, []
    return resolved, [f"schedules end at gradient step {length}, as the run began with them"]


def schedule_length(options: Options) -> int:
    """Gradient steps that the run was first asked for; a run that became longer keeps them."""
    path = Path(options.run_dir).expanduser() / CONFIG
    if options.resume and options.run_dir and path.is_file():
        return int(read_json(path).get("schedule_length", options.num_updates))
    return options.num_updates


def _describe_dataset(dataset: Any) -> dict[str, Any]:
    """What the data are, and what was done to them before the algorithm saw them."""
    info, maps = dataset.info, dataset.normalization
    return {
        "name": info.name,
        "transitions": dataset.num_transitions,
        "episodes": dataset.num_episodes,
        "digest": data.digest(dataset),
        "action_space": space_record(info.action_space),
        "observation_shape": info.observation_space.shape,
        "reward_scale": maps.reward_scale,
        "reward_shift": maps.reward_shift,
        "standardized": maps.observation_mean is not None and bool(np.any(maps.observation_mean)),
        "moved_actions": info.moved_actions,
        "has_rewards": info.has_rewards,
        "notes": info.notes,
    }


def space_record(space: Space) -> dict[str, Any]:
    """A space as values that JSON can hold."""
    return {"type": type(space).__name__, **dataclasses.asdict(space)}


def read_space(record: dict[str, Any] | None) -> Space | None:
    """The inverse of `space_record`; None for runs that were recorded without their space."""
    if record is None:
        return None
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in record.items()
        if name != "type"
    }
    return Discrete(**fields) if record["type"] == "Discrete" else Box(**fields)


def policy_space(space: Space | None, config: Any) -> Space | None:
    """The actions of a trained policy: the log's, or as many as `num_actions` asks for."""
    num_actions = getattr(config, "num_actions", 0)
    if isinstance(space, Discrete) and num_actions:
        return dataclasses.replace(space, n=int(np.max(num_actions)))
    return space


def _fields_without_flag(config: Any) -> list[str]:
    """Fields of a configuration that differ from their default and that no flag can give."""
    flagged = {field.name for field in flag_fields(type(config))}
    default = type(config)()
    return [
        f.name
        for f in dataclasses.fields(config)
        if f.name not in flagged and getattr(config, f.name) is not getattr(default, f.name)
    ]


def _environment_spec(environment: Any) -> Any:
    """Keyword arguments, wrappers and step limit of a gymnasium environment, where known."""
    specification = getattr(environment, "specification", None)
    return None if specification is None else json.loads(specification.to_json())


def _commit() -> str | None:
    """The commit of ddm's own checkout; None where it is installed otherwise."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        asked = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


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
    found = {"python": platform.python_version(), "ddm": ddm.__version__}
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
    folder = Path(options.run_dir or _new_name(record)).expanduser()
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
            old, new = (before or {}).get(name), now[name]
            if old == new or _may_differ(section, name, old, new, before or {}):
                continue
            what = f"dataset {name}" if section == "dataset" else name
            raise InputError(
                f"{folder} was run with {what}={old}, not {new}; "
                "resume it as it was, or start a new run"
            )
    before, now = saved["options"]["num_updates"], asked["options"]["num_updates"]
    if now < before:
        raise InputError(
            f"{folder} was run with num_updates={before}; it can become longer, not {now}"
        )


_IDENTITY = ("transitions", "episodes", "digest")  # of a dataset, wherever it lies


def _may_differ(section: str, name: str, old: Any, new: Any, saved: dict[str, Any]) -> bool:
    """Whether a run may go on although this value is another one."""
    if section == "options":
        if name == "environment":  # a run may go on without its score, and get it back
            return "none" in (old, new)
        return name in RUN_ONLY | {"dataset"}
    if section == "dataset":
        return name not in _IDENTITY or name not in saved  # recorded by an older version
    return False


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
