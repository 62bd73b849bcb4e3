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
from ddm.data.spaces import to_record
from ddm.errors import InputError
from ddm.runner.files import full_disk_named, json_values, read_json, write_json
from ddm.runner.flags import algorithm_name, flag_fields
from ddm.runner.options import RUN_ONLY, Options
from ddm.runner.processes import broadcast_value
from ddm.types import Discrete, Space

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
        "config": describe_config(config),
        "not_in_file": _fields_not_in_file(config),
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
    return _as_json(record)


def describe_config(config: Any) -> dict[str, Any]:
    """The fields of a configuration as a record has them."""
    return _as_json({f.name: getattr(config, f.name) for f in dataclasses.fields(config)})


def _as_json(value: Any) -> Any:
    return json_values(json.loads(json.dumps(value, default=_plain)))


def resolve_schedules(algorithm: Any, config: Any, options: Options) -> tuple[Any, list[str]]:
    """The configuration whose schedules end with the run, where nothing else is set.

    Returns:
      The configuration, and a sentence where a run that became longer keeps the schedule that it
      began with.
    """
    length = schedule_length(options)
    resolved = resolve(algorithm, config, length)
    if length == options.num_updates or resolved == config:
        return resolved, []
    return resolved, [f"schedules end at gradient step {length}, as the run began with them"]


def resolve(algorithm: Any, config: Any, num_updates: int | None) -> Any:
    """What `algorithm.resolve` makes of a configuration, if it has one and the length is known."""
    function = getattr(algorithm, "resolve", None)
    return config if function is None or num_updates is None else function(config, num_updates)


def schedule_length(options: Options) -> int:
    """Gradient steps that the run was first asked for; a run that became longer keeps them.

    Process 0 decides: no other one needs to see the folder.
    """
    path, length = Path(options.run_dir).expanduser() / CONFIG, options.num_updates
    if options.resume and options.run_dir and path.is_file():
        length = int(read_json(path).get("schedule_length", options.num_updates))
    return broadcast_value(length)


def _describe_dataset(dataset: Any) -> dict[str, Any]:
    """What the data are, and what was done to them before the algorithm saw them."""
    info, maps = dataset.info, dataset.normalization
    return {
        "name": info.name,
        "transitions": dataset.num_transitions,
        "episodes": dataset.num_episodes,
        "digest": data.digest(dataset),
        "action_space": to_record(info.action_space),
        "observation_shape": info.observation_space.shape,
        "reward_scale": maps.reward_scale,
        "reward_shift": maps.reward_shift,
        "standardized": maps.observation_mean is not None and bool(np.any(maps.observation_mean)),
        "clipped_actions": info.clipped_actions,
        "moved_actions": info.moved_actions,
        "dropped_transitions": info.dropped_transitions,
        "has_rewards": info.has_rewards,
        "notes": info.notes,
    }


def policy_space(space: Space, config: Any) -> Space:
    """The actions of a trained policy: the log's, or as many as `num_actions` asks for."""
    num_actions = getattr(config, "num_actions", 0)
    if isinstance(space, Discrete) and num_actions:
        return dataclasses.replace(space, n=int(np.max(num_actions)))
    return space


def _fields_not_in_file(config: Any) -> list[str]:
    """Fields with a value that a file cannot hold: a function, or neither a default nor a flag."""
    flagged = {field.name for field in flag_fields(type(config))}
    return [
        f.name
        for f in dataclasses.fields(config)
        for value in [getattr(config, f.name)]
        if (callable(value) or f.name not in flagged) and not _is_default(f, value)
    ]


def _is_default(field: dataclasses.Field, value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        default = field.default
    same_kind = type(value) is type(default)
    return value is default or (same_kind and bool(np.all(value == default)))


def _environment_spec(environment: Any) -> Any:
    """Keyword arguments, wrappers and step limit of a gymnasium environment, where known."""
    specification = getattr(environment, "specification", None)
    if specification is None:
        return None
    try:
        return json.loads(specification.to_json())
    except (TypeError, ValueError):  # registered with a class, or with arguments that are objects
        return specification.pprint(disable_print=True)


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


def prepare_run_dir(
    record: dict[str, Any], options: Options, *, write: bool
) -> tuple[Path, list[str]]:
    """Makes the folder of a run and writes its configuration, or checks it against the one there.

    Args:
      record: from `describe_run`. Of a run that goes on, the circumstances of its start become
        those of the first start, and the present ones stand under "resumed".
      options: of the run.
      write: False in processes that share the lanes with the one that writes.

    Returns:
      The folder, and a sentence for the user where the run goes on with or without a score.

    Raises:
      InputError: the folder holds another run, or `--resume` names none.
    """
    if options.resume and not options.run_dir:
        raise InputError("--resume needs --run_dir, the folder of the run to go on with")
    folder = Path(options.run_dir or _new_name(record)).expanduser()
    if not write:
        return Path(broadcast_value("")), []
    if options.resume and not folder.is_dir():
        raise InputError(f"--run_dir={folder} does not exist, so there is nothing to resume")
    path, notices = folder / CONFIG, []
    if path.exists():
        if not options.resume:
            raise InputError(
                f"--run_dir={folder} already holds a run: add --resume, or name another folder"
            )
        saved = read_json(path)
        check_same_run(saved, record, folder)
        notices = _compare_scores(saved, record)
        _keep_first_start(saved, record)
    with full_disk_named(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise InputError(f"--run_dir={folder} is a file, expected a folder") from error
        write_json(path, record)
    return Path(broadcast_value(str(folder))), notices


def check_same_run(saved: dict[str, Any], asked: dict[str, Any], folder: Path) -> None:
    """Refuses to resume a run under another configuration.

    What only concerns watching, storing or spreading a run may differ, and it may become longer.

    Raises:
      InputError: names the first difference and both values.
    """
    defaults = _as_json(dataclasses.asdict(Options()))
    unscored = None in (saved.get("environment"), asked["environment"])
    # The data come last: an option that changes them is the better name for what differs.
    for section in ("algorithm", "config", "options", "environment", "dataset"):
        before, now = saved.get(section), asked[section]
        if not isinstance(now, dict):
            before, now = {section: before}, {section: now}
        for name in now:
            # An option that an older version did not have was at what is its default now.
            default = defaults.get(name) if section == "options" else None
            old, new = (before or {}).get(name, default), now[name]
            if old == new or _may_differ(section, name, before or {}, unscored):
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
_OF_THE_SCORE = ("environment", "environment_kwargs", "max_episode_steps")
_CIRCUMSTANCES = ("command", "host", "started", "versions", "commit")


def _may_differ(section: str, name: str, saved: dict[str, Any], unscored: bool) -> bool:
    """Whether a run may go on although this value is another one.

    Args:
      section: of the record.
      name: in the section.
      saved: the section of the run that goes on.
      unscored: there was no environment, or there is none now: a score may come and go.
    """
    if section == "environment" or (section == "options" and name in _OF_THE_SCORE):
        return unscored
    if section == "options":
        return name in RUN_ONLY | {"dataset"}
    if section == "dataset":
        return name not in _IDENTITY or name not in saved  # recorded by an older version
    return False


def _compare_scores(saved: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Says so where a run loses its score, or gets one."""
    before, now = saved.get("environment"), record["environment"]
    if before and not now:
        return [f"this run was scored in {before} so far: its scores end here"]
    if now and not before:
        return [f"this run had no environment so far: its scores begin here, in {now}"]
    return []


def _keep_first_start(saved: dict[str, Any], record: dict[str, Any]) -> None:
    now = {name: record[name] for name in _CIRCUMSTANCES}
    record.update({name: saved.get(name) for name in _CIRCUMSTANCES})
    record["resumed"] = [*saved.get("resumed", ()), now]


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
