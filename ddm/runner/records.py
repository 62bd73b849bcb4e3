"""The run directory: what a run was asked to do, and whether two runs are the same run."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

import ddm
from ddm import data
from ddm.data.spaces import to_record
from ddm.errors import InputError
from ddm.runner import checkpoints, resume
from ddm.runner.files import json_values, sealed, write_errors_named, write_json
from ddm.runner.flags import algorithm_name, flag_fields
from ddm.runner.lanes import unwrap_keys
from ddm.runner.locks import FolderLock
from ddm.runner.options import Options
from ddm.runner.processes import broadcast_value
from ddm.runner.saved import CONFIG as CONFIG
from ddm.runner.saved import SUMMARY as SUMMARY
from ddm.runner.saved import read_record
from ddm.runner.sources import Shared
from ddm.types import Discrete, Space

METRICS = "metrics.csv"
PLOT = "curves.png"

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "gymnasium", "mujoco")


def describe_run(
    algorithm: Any,
    config: Any,
    shared: Shared,
    environment: Any,
    options: Options,
    start: Any = None,
) -> dict[str, Any]:
    """Everything that decides what a run computes, as values that JSON can hold."""
    named = options.environment or shared.units.info.environment_id
    logs, collector = shared.logs, shared.collector
    record = {
        "algorithm": algorithm_name(algorithm),
        "config": describe_config(config),
        "not_in_file": _fields_not_in_file(config),
        "options": dataclasses.asdict(options),
        "script_flags": script_flags(config),
        "dataset": _describe_source(shared.units),
        "sources": {name: _describe_source(log) for name, log in logs.items()}
        if isinstance(logs, Mapping)
        else None,
        "collect": None if collector is None else _describe_collection(collector.spec),
        "start": None if start is None else _state_digest(start.state),
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


def _describe_collection(spec: Any) -> dict[str, Any]:
    """How experience is collected; a truth value only where it is so: older records lack it."""
    return {name: value for name, value in dataclasses.asdict(spec).items() if value is not False}


def _state_digest(state: Any) -> str:
    """Of a policy that a run starts with."""
    return checkpoints.digest(unwrap_keys(state))


def describe_config(config: Any) -> dict[str, Any]:
    """The fields of a configuration as a record has them."""
    return _as_json({f.name: getattr(config, f.name) for f in dataclasses.fields(config)})


def config_defaults(algorithm: Any, options: Options) -> dict[str, Any]:
    """The default values of the fields of a configuration, as a record has them."""
    try:
        config = algorithm.Config()
    except TypeError:  # a field without a default
        return {}
    return describe_config(resolve(algorithm, config, schedule_length(options)))


def _as_json(value: Any) -> Any:
    return json_values(json.loads(json.dumps(value, default=_plain)))


def resolve_schedules(algorithm: Any, config: Any, options: Options) -> tuple[Any, list[str]]:
    """The configuration whose schedules end with the run, unless they are set.

    Returns:
      The configuration, and a sentence if a run that became longer keeps its first schedule.
    """
    length = schedule_length(options)
    resolved = resolve(algorithm, config, length)
    if length == options.num_updates or resolved == config:
        return resolved, []
    return resolved, [f"schedules end at gradient step {length}, as the run began with them"]


def resolve(algorithm: Any, config: Any, num_updates: int | None) -> Any:
    """The result of `algorithm.resolve`, if there is such a function and the length is known."""
    function = getattr(algorithm, "resolve", None)
    return config if function is None or num_updates is None else function(config, num_updates)


def schedule_length(options: Options) -> int:
    """The number of gradient steps first asked for; a run that became longer keeps this number.

    Process 0 decides, so the others need no access to the folder.
    """
    path, length = Path(options.run_dir).expanduser() / CONFIG, options.num_updates
    if options.resume and options.run_dir and path.is_file():
        length = read_record(path.parent).get("schedule_length") or length
    return broadcast_value(length)


def _describe_source(source: Any) -> dict[str, Any]:
    """The identity of the data, and the transforms applied before the algorithm sees them."""
    info, maps = source.info, source.normalization
    logged = isinstance(source, data.Dataset)  # own experience has no rows yet
    return {
        "name": info.name,
        "transitions": source.num_transitions if logged else 0,
        "episodes": source.num_episodes if logged else 0,
        "digest": data.digest(source) if logged else None,
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
    """Facts about an environment besides its name.

    For a gymnasium environment: keyword arguments, wrappers and step limit, if known. For a pure
    one: its class and a digest of its parameters.
    """
    specification = getattr(environment, "specification", None)
    if specification is None:
        params = getattr(environment, "default_params", None)
        if params is None:
            return None
        made_of = type(environment).__qualname__
        return {"class": made_of, "params": checkpoints.digest(params)}
    try:
        return json.loads(specification.to_json())
    except (TypeError, ValueError):  # registered with a class or with objects as arguments
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
    record: dict[str, Any],
    options: Options,
    *,
    write: bool,
    lock: FolderLock,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Path, list[str]]:
    """Makes the folder of a run and writes its configuration, or checks it against the one there.

    For a run that continues, nothing is written: `write_record` does that, after its checkpoint is
    found.

    Args:
      record: from `describe_run`. For a run that continues, the circumstances of the first start
        are kept, and the present ones are stored under "resumed".
      options: of the run.
      write: False in processes that share the lanes with the one that writes.
      lock: locks the folder until the caller releases it.
      defaults: from `config_defaults`: the values of fields that the folder does not have, because
        they are newer.

    Returns:
      The folder, and sentences for the user: if the run continues with or without a score, with
      another order of its sums, or without a lock.

    Raises:
      InputError: the folder holds another run, `--resume` names none, or another process writes
        there.
    """
    if options.resume and not options.run_dir:
        raise InputError("--resume needs --run_dir, the folder of the run to go on with")
    folder = Path(options.run_dir or _new_name(record)).expanduser()
    if not write:
        return Path(broadcast_value("")), []
    with write_errors_named(folder):
        if options.resume and not folder.is_dir():
            raise InputError(f"--run_dir={folder} does not exist, so there is nothing to resume")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise InputError(f"--run_dir={folder} is a file, expected a folder") from error
        notices = lock.acquire(folder)
        path = folder / CONFIG
        if path.exists():
            if not options.resume:
                raise InputError(
                    f"--run_dir={folder} already holds a run: add --resume, or name another folder"
                )
            notices += resume.go_on_with(read_record(folder), record, folder, defaults or {})
        else:
            _require_empty(folder)
            record["run"] = uuid.uuid4().hex
            write_record(folder, record)
    return Path(broadcast_value(str(folder))), notices


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Writes the configuration of a run."""
    with write_errors_named(folder):
        write_json(folder / CONFIG, sealed(record))


def _require_empty(folder: Path) -> None:
    """Refuses files of an unknown run: the meaning of their numbers is not known."""
    for name in (METRICS, checkpoints.FOLDER):
        if (folder / name).exists():
            raise InputError(
                f"--run_dir={folder} holds {name}, but no {CONFIG} that says what was run: put a "
                "copy of it back, or name another folder"
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
    """Turns values that JSON does not have, arrays and functions, into values that it has."""
    if isinstance(value, (np.generic, np.ndarray, jax.Array)):
        return np.asarray(value).tolist()
    return getattr(value, "__qualname__", None) or str(value)
