"""Trained policies, read back from a run directory."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from ddm.data import Normalization
from ddm.data.spaces import from_record
from ddm.errors import InputError
from ddm.evaluation import Policy
from ddm.runner import records, sweep
from ddm.runner.checkpoints import FOLDER, Store
from ddm.runner.failures import Failures
from ddm.runner.flags import algorithm_name, flag_fields
from ddm.runner.lanes import unwrap_keys, wrap_keys
from ddm.runner.saved import read_record
from ddm.types import Algorithm, Batch, Space


def load_policy(
    run_dir: str | Path,
    algorithm: Algorithm,
    *,
    lane: int | None = 0,
    step: int | None = None,
    config: Any = None,
) -> Policy:
    """The trained policy of a run, without its dataset.

    Args:
      run_dir: the folder of the run.
      algorithm: the algorithm module that was trained.
      lane: which lane, seeds varying fastest; None for all, with a leading axis.
      step: of the checkpoint; None for the newest.
      config: the trained configuration, before the sweep. Needed if a field holds a value that a
        file cannot store, such as a function; otherwise it is read from the folder.

    Returns:
      The policy, in the environment's units.

    Raises:
      InputError: the folder holds no such checkpoint or lane, or another algorithm; its
        configuration held a function and `config` is missing or different.
    """
    run_dir = Path(run_dir).expanduser()
    record = read_record(run_dir)
    with _other_shapes_named(run_dir / records.CONFIG):
        configs, lanes = _saved_lanes(run_dir, record, algorithm, config)
        space, shape = _saved_spaces(record, configs)
    if lane is not None and not 0 <= lane < len(lanes):
        raise InputError(f"{run_dir} has lanes 0 to {len(lanes) - 1}, not {lane}")
    store = Store(run_dir, run=record.get("run"))
    try:
        step = _choose_step(run_dir, store, step)
        info = store.header(step)
        with _other_shapes_named(run_dir / FOLDER / str(step)):
            _warn_of_failures(run_dir, Failures(lanes, info.get("failures")), lane)
            batch = _example(info)
            statistics = _abstract(Normalization, info["normalization"])
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), len(lanes)))
        states = jax.eval_shape(jax.vmap(algorithm.init, (0, 0, None)), configs, keys, batch)
        like = {"state": states, "sampling_keys": keys, "normalization": statistics}
        tree = store.restore(step, jax.eval_shape(unwrap_keys, like))
    finally:
        store.close()
    state = wrap_keys(jax.device_put(tree["state"]), states)
    configs, statistics = jax.device_put((configs, tree["normalization"]))
    if lane is not None:
        configs, state = jax.tree.map(lambda x: x[lane], (configs, state))
    return Policy(
        algorithm=algorithm,
        config=configs,
        state=state,
        normalization=statistics,
        action_space=space,
        observation_shape=shape,
    )


def load_normalization(run_dir: str | Path) -> Normalization:
    """The units in which the policies of a run work, from its newest checkpoint.

    Raises:
      InputError: the folder holds no checkpoint.
    """
    run_dir = Path(run_dir).expanduser()
    store = Store(run_dir, run=read_record(run_dir).get("run"))
    try:
        step = _choose_step(run_dir, store)
        return Normalization(**store.part(step, "normalization"))
    finally:
        store.close()


def _choose_step(run_dir: Path, store: Store, step: int | None = None) -> int:
    """The step of the checkpoint that is asked for, or of the newest.

    Raises:
      InputError: there is none.
    """
    steps = store.steps()
    if not steps or step not in (None, *steps):
        wanted = "" if step is None else f" of step {step}"
        raise InputError(f"{run_dir} has no checkpoint{wanted}")
    return steps[0] if step is None else step


@contextlib.contextmanager
def _other_shapes_named(path: Path) -> Iterator[None]:
    """Turns the errors that a file of another structure causes into one sentence.

    Raises:
      InputError: names the file.
    """
    try:
        yield
    except InputError:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not of a run of this version: {error!r}"[:300]) from error


def _saved_spaces(
    record: dict[str, Any], configs: Any
) -> tuple[Space | None, tuple[int, ...] | None]:
    """The actions of the policy and the shape of its observations, where they are recorded."""
    space, shape = (record["dataset"].get(name) for name in ("action_space", "observation_shape"))
    return (
        None if space is None else records.policy_space(from_record(space), configs),
        None if shape is None else tuple(map(int, shape)),
    )


def _warn_of_failures(run_dir: Path, failures: Failures, lane: int | None) -> None:
    for i in failures:
        if lane in (None, i):
            warnings.warn(
                f"{run_dir}: {failures.sentence(i)}; its policy is the last one before that",
                stacklevel=3,
            )


def _saved_lanes(
    run_dir: Path, record: dict[str, Any], algorithm: Algorithm, config: Any
) -> tuple[Any, list[sweep.Lane]]:
    name = algorithm_name(algorithm)
    if record["algorithm"] != name:
        raise InputError(f"{run_dir} is a run of {record['algorithm']}, not of {name}")
    if config is None:
        config = _saved_config(run_dir, record, algorithm)
    else:
        config = records.resolve(algorithm, config, record.get("schedule_length"))
        _check_config(run_dir, record, config)
    options = record["options"]
    return sweep.expand(config, options["sweep"], options["seeds"], options["seed"])


def _saved_config(run_dir: Path, record: dict[str, Any], algorithm: Algorithm) -> Any:
    """The configuration, from its record."""
    if lost := record.get("not_in_file"):
        raise InputError(
            f"{run_dir} was run with a {lost[0]} of its own, which a file cannot hold: give "
            "load_policy(..., config=...) the configuration that was trained"
        )
    values = {}
    for field in flag_fields(algorithm.Config):
        value = record["config"].get(field.name, field.default)
        if isinstance(value, list):
            value = tuple(map(field.kind, value))
        elif field.kind is float and isinstance(value, str):
            value = float(value)  # "inf"
        values[field.name] = value
    return algorithm.Config(**values)


def _check_config(run_dir: Path, record: dict[str, Any], config: Any) -> None:
    """Refuses a configuration that differs from the trained one in a field that the file has."""
    unknown = record.get("not_in_file", ())
    for name, given in records.describe_config(config).items():
        trained = record["config"].get(name, given)
        if given != trained and name not in unknown:
            raise InputError(f"{run_dir} was run with {name}={trained}, not {given}")


def _example(header: dict[str, Any]) -> Any:
    """Shapes of the batch, or of the dict of batches, that `init` got."""
    if "batches" in header:
        return {name: _abstract(Batch, shapes) for name, shapes in header["batches"].items()}
    return _abstract(Batch, header["batch"])


def _abstract(cls: type, shapes: dict[str, Any]) -> Any:
    return cls(
        **{
            name: None if entry is None else jax.ShapeDtypeStruct(tuple(entry[0]), entry[1])
            for name, entry in shapes.items()
        }
    )
