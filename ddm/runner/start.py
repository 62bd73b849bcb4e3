"""The start of a run besides its data: a trained policy, and held-out episodes."""

from __future__ import annotations

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
        start = load_policy(options.start_from, algorithm, lane=None)
    if holdout is None and options.holdout:
        if not isinstance(sources, data.Dataset):
            raise InputError("--holdout holds episodes of one log out, and there is not one log")
        sources, holdout = data.hold_out(sources, options.holdout)
    return sources, start, holdout


def start_from(start: Policy | None, algorithm: Algorithm, arrays: Any, units: Any) -> Any:
    """Fresh (learner, sampling keys) with the states of a trained policy, lane by lane.

    The count of steps and the random keys begin anew; networks and optimisers continue.

    Raises:
      InputError: the policy is of another algorithm, other shapes, other units or other lanes.
    """
    if start is None:
        return arrays
    learner, keys = arrays
    fresh, found = learner.state, with_lanes(start).state
    ours, theirs = algorithm_name(algorithm), algorithm_name(start.algorithm)
    if ours != theirs:
        raise InputError(f"start is a policy of {theirs}, not of {ours}")
    _check_units(start, units)
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
    state = wrap_keys(state, fresh).replace(step=fresh.step, key=fresh.key)
    return learner._replace(state=state), keys


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
