"""The start of a run besides its data: a trained policy, and held-out episodes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ddm import data
from ddm.errors import InputError
from ddm.evaluation import Policy
from ddm.evaluation.policy import with_lane_axis
from ddm.runner.flags import algorithm_name
from ddm.runner.lanes import unwrap_keys, wrap_keys
from ddm.runner.options import Options
from ddm.runner.policies import load_policy
from ddm.runner.saved import read_record
from ddm.types import Algorithm


def complete(
    algorithm: Algorithm, given: tuple[Any, Any, Any], options: Options
) -> tuple[Any, Any, Any]:
    """The values from the options where the caller gave none.

    Args:
      algorithm: the algorithm module.
      given: the sources, the policy to start from and the held-out data, or None.
      options: of the run.

    Returns:
      The sources without the episodes that are held out, the policy to start from, and the
      episodes that are held out; None if there is none.

    Raises:
      InputError: the folder to start from holds another algorithm, or nothing can be held out.
    """
    sources, start, holdout = given
    if start is None and options.start_from:
        start = load_start(algorithm, sources, options.start_from)
    if holdout is None and options.holdout:
        if not isinstance(sources, data.Dataset):
            raise InputError("--holdout holds episodes of one log out, and there is not one log")
        sources, holdout = data.hold_out(sources, options.holdout)
    return sources, start, holdout


def load_start(algorithm: Algorithm, sources: Any, run_dir: str) -> Policy:
    """What a run begins with: a policy of the same algorithm, or a part of it, such as a model.

    Raises:
      InputError: the folder holds another algorithm, or a part that was trained on another log.
    """
    record = read_record(Path(run_dir).expanduser())
    for part in parts_of(algorithm).values():
        if algorithm_name(part) != record["algorithm"]:
            continue
        log = sources if isinstance(sources, data.Dataset) else None
        if log is not None and not _is_trained_on(log, record):
            raise InputError(
                f"--start_from={run_dir}: its {algorithm_name(part)} was trained on another log, "
                f"{record['dataset']['name']}, or on other rows of it than {log.info.name} now has"
            )
        return load_policy(run_dir, part, lane=None)
    return load_policy(run_dir, algorithm, lane=None)


def _is_trained_on(log: data.Dataset, record: dict[str, Any]) -> bool:
    """Whether a run learned from this log, or from what it left after it held episodes out."""
    held = record["options"].get("holdout", 0.0)
    left = [data.hold_out(log, held)[0]] if held and log.num_episodes > 1 else []
    return record["dataset"].get("digest") in map(data.digest, (log, *left))


def parts_of(algorithm: Algorithm) -> dict[str, Any]:
    """The fields of an algorithm's State that are States of another algorithm, which has runs."""
    return dict(getattr(algorithm, "PARTS", {}))


def with_part(algorithm: Algorithm, config: Any, start: Policy | None) -> tuple[Any, list[str]]:
    """The configuration for a run that begins with a trained part, whose settings then hold.

    Returns:
      The configuration, in which the part is not trained again, and a sentence for the user.

    Raises:
      InputError: a setting of the part is given, and the trained part has another.
    """
    if start is None or start.algorithm not in parts_of(algorithm).values():
        return config, []
    part, default = start.algorithm, type(config)()
    taken = {}
    for field in dataclasses.fields(part.Config):
        if field.metadata.get("pytree_node", True) or field.name == "max_epochs":
            continue
        ours, theirs = getattr(config, field.name), getattr(start.config, field.name)
        if ours not in (theirs, getattr(default, field.name)):
            raise InputError(
                f"{field.name} is {ours}, and the {algorithm_name(part)} to start from has "
                f"{theirs}: expected the same, or none"
            )
        taken[field.name] = theirs
    said = f"the {algorithm_name(part)} is given, with its own settings, and is not trained again"
    return config.replace(**taken, max_epochs=0), [said]


def start_from(start: Policy | None, algorithm: Algorithm, arrays: Any, units: Any) -> Any:
    """Fresh (learner, sampling keys) with the states of a trained policy, lane by lane.

    The count of steps and the random keys begin anew; networks and optimisers continue. Where
    `start` is a part of the algorithm, such as a model, only that part is taken.

    Raises:
      InputError: the policy is of another algorithm, other shapes, other units or other lanes.
    """
    if start is None:
        return arrays
    learner, keys = arrays
    _check_units(start, units)
    for name, part in parts_of(algorithm).items():
        if part is start.algorithm:
            _check_reward_units(start, units)
            taken = _state_of(start, part, getattr(learner.state, name), keys)
            return learner._replace(state=learner.state.replace(**{name: taken})), keys
    ours, theirs = algorithm_name(algorithm), algorithm_name(start.algorithm)
    if ours != theirs:
        raise InputError(f"start is a policy of {theirs}, not of {ours}")
    return learner._replace(state=_state_of(start, algorithm, learner.state, keys)), keys


def _state_of(start: Policy, algorithm: Algorithm, fresh: Any, keys: Any) -> Any:
    """The state of `start` in the place of a fresh one, for each lane."""
    ours, found = algorithm_name(algorithm), with_lanes(start).state
    lanes = keys.shape[0]
    if jax.tree.structure(found) != jax.tree.structure(fresh):
        raise InputError(f"start is a policy of {ours} with other networks than this configuration")
    for ours, theirs in zip(jax.tree.leaves(fresh), jax.tree.leaves(found), strict=True):
        if ours.shape[1:] != theirs.shape[1:] or theirs.shape[0] not in (1, lanes):
            raise InputError(
                f"start has an array of shape {theirs.shape}, expected {ours.shape} (or one lane): "
                "it has other networks, or another number of lanes"
            )
    host = jax.tree.map(np.asarray, unwrap_keys(found))
    like = jax.tree.map(np.asarray, unwrap_keys(fresh))
    state = jax.tree.map(lambda x, y: np.broadcast_to(x, y.shape).copy(), host, like)
    return wrap_keys(state, fresh).replace(step=fresh.step, key=fresh.key)


def _check_reward_units(start: Policy, units: Any) -> None:
    """Refuses a model whose rewards are in other units than those of the log."""
    if start.normalization is None:
        return
    for field in ("reward_scale", "reward_shift"):
        ours, theirs = (float(getattr(x.normalization, field)) for x in (units, start))
        if not np.isclose(ours, theirs, rtol=1e-5):
            raise InputError(
                f"{units.info.name} has a {field} of {ours:.6g}, and the "
                f"{algorithm_name(start.algorithm)} to start from was trained with {theirs:.6g}"
            )


def with_lanes(policy: Policy) -> Policy:
    """The policy with a leading axis of lanes; one lane if it has no such axis."""
    return policy if np.ndim(policy.state.step) else with_lane_axis(policy)


def _check_units(start: Policy, units: Any) -> None:
    """Refuses observations or actions whose meaning differs from the policy's."""
    if start.normalization is None:
        return
    for field in ("observation_mean", "observation_std", "action_center", "action_scale"):
        ours, theirs = (getattr(x.normalization, field) for x in (units, start))
        if (ours is None) != (theirs is None) or (
            ours is not None
            and (np.shape(ours) != np.shape(theirs) or not np.allclose(ours, theirs, rtol=1e-5))
        ):
            raise InputError(
                f"{units.info.name} has another {field} than the policy to start from: load it "
                "with --start_from, or give data.normalize(..., like=policy.normalization)"
            )
