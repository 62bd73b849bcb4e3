"""Whether observations and actions of a policy and of an environment have the same meaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm.errors import InputError
from ddm.types import Box, Discrete, Space

if TYPE_CHECKING:
    from ddm.evaluation.policy import Policy

_TOLERANCE = 1e-4  # of the width of a box: bounds that differ by less are the same
_UNBOUNDED = 1e10  # an environment without bounds may write ones as large as this


def check_acts(algorithm: Any) -> None:
    """Refuses an algorithm that learns a model and no policy.

    Raises:
      InputError: naming it.
    """
    if not hasattr(algorithm, "act"):
        name = algorithm.__name__.rpartition(".")[2]
        raise InputError(
            f"{name} has no policy: it predicts with {name}.predict(config, state, ...)"
        )


def check_spaces(policy: Policy, name: str, observation_space: Box, action_space: Space) -> None:
    """Refuses an environment whose observations or actions are not those of the policy.

    The policy's own spaces are compared, or its normalization if it has no spaces.

    Args:
      policy: see :class:`ddm.evaluation.Policy`.
      name: the environment, for the message.
      observation_space: of the environment, flattened.
      action_space: of the environment, flattened.

    Raises:
      InputError: naming the environment and what differs.
    """
    check_acts(policy.algorithm)
    _check_observations(policy, name, observation_space)
    check_actions(policy, name, action_space)


def check_actions(policy: Policy, name: str, action_space: Space) -> None:
    """Refuses another kind, number, start, shape or bounds of actions; see `check_spaces`."""
    discrete = _is_discrete(policy)
    if discrete is None:
        return
    if discrete != isinstance(action_space, Discrete):
        kinds = ["indices", "vectors"]
        found, expected = reversed(kinds) if discrete else kinds
        raise InputError(f"{name}: actions are {found}, the policy was trained on {expected}")
    if isinstance(action_space, Discrete):
        _check_indices(policy, name, action_space)
    else:
        _check_box(policy, name, action_space)


def observation_shape(policy: Policy) -> tuple[int, ...] | None:
    """Shape of one observation; None where the policy does not know it."""
    statistics = policy.normalization
    if statistics is not None and statistics.observation_mean is not None:
        return jnp.shape(statistics.observation_mean)
    shape = policy.observation_shape
    return None if shape is None else tuple(shape)


def check_action(action: jax.Array, space: Space, name: str) -> None:
    """Refuses actions of another kind or shape; it runs while tracing, so it costs no device time.

    Args:
      action: what a policy gave for one observation.
      space: the space that it must fit; of a box, only the shape is read.
      name: whose space it is, for the message.

    Raises:
      InputError: an action of another kind or shape.
    """
    is_index = jnp.issubdtype(action.dtype, jnp.integer)
    if isinstance(space, Discrete):
        expected, fits = "one index", is_index and not action.shape
    else:
        expected, fits = f"a vector of shape {space.shape}", action.shape == space.shape
        fits = fits and (not is_index or is_integer(space))
    if not fits:
        raise InputError(
            f"{name}: the policy gives an action of {action.dtype} and shape {action.shape}, "
            f"expected {expected}"
        )


def fit_action(action: jax.Array, space: Space, name: str) -> jax.Array:
    """The nearest action in a box, exact to the last bit; an index is not changed.

    Raises:
      InputError: see :func:`check_action`.
    """
    check_action(action, space, name)
    if isinstance(space, Discrete):
        return action
    whole = is_integer(space)
    action = jnp.round(action) if whole else action
    low, high = (jnp.asarray(bound, action.dtype) for bound in (space.low, space.high))
    action = jnp.clip(action, low.reshape(space.shape), high.reshape(space.shape))
    return action.astype(jax.dtypes.canonicalize_dtype(space.dtype)) if whole else action


def is_integer(space: Box) -> bool:
    """Whether the vectors in a box are whole numbers."""
    return np.dtype(space.dtype).kind in "iub"


def _check_observations(policy: Policy, name: str, space: Box) -> None:
    shape = observation_shape(policy)
    if shape is not None and shape != space.shape:
        raise InputError(
            f"{name}: observations have shape {space.shape}, the policy was trained on {shape}"
        )
    if policy.normalization is None:
        return
    kinds = ["numbers", "bytes"]
    expected = kinds[policy.normalization.observation_mean is None]
    found = kinds[space.dtype == "uint8"]
    if found != expected:
        raise InputError(f"{name}: observations are {found}, the policy was trained on {expected}")


def _is_discrete(policy: Policy) -> bool | None:
    """Whether the policy's actions are indices; None where it is not known."""
    if policy.action_space is not None:
        return isinstance(policy.action_space, Discrete)
    statistics = policy.normalization
    return None if statistics is None else statistics.action_scale is None


def _check_indices(policy: Policy, name: str, space: Discrete) -> None:
    """Refuses another number of actions, or actions that count from another number."""
    declared, statistics = policy.action_space, policy.normalization
    start = declared.start if isinstance(declared, Discrete) else 0
    if statistics is not None:  # the number that is added to the algorithm's index
        start = 0 if statistics.action_center is None else int(statistics.action_center)
    # The algorithm's own number counts: the log's may be a guess from its largest action.
    number = getattr(policy.config, "num_actions", 0)
    if not number and isinstance(declared, Discrete):
        number = declared.n
    if start != space.start or (number and number != space.n):
        has = f"{number} actions, {_range(start, number)}" if number else f"actions from {start}"
        raise InputError(
            f"{name}: it has {space.n} actions, {_range(space.start, space.n)}, and the policy has "
            f"{has}; give the environment's number of actions where the log is loaded and the "
            f"policy is trained (--num_actions, or action_space=Discrete({space.n}, "
            f"{space.start})), or another environment"
        )


def _range(start: int, number: int) -> str:
    return f"{start} .. {start + number - 1}"


def _check_box(policy: Policy, name: str, space: Box) -> None:
    """Refuses actions of another shape or with other bounds, or real ones for whole numbers."""
    shape, low, high = _bounds(policy)
    if shape != space.shape:
        raise InputError(
            f"{name}: actions have shape {space.shape}, the policy was trained on {shape}"
        )
    wrong = _differing(low, high, np.ravel(space.low), np.ravel(space.high))
    if wrong.size:
        i = wrong[0]
        where = f" (dimension {i})" if low.size > 1 else ""
        raise InputError(
            f"{name}: its actions lie in {_interval(space.low[i], space.high[i])}{where}, those of "
            f"the policy's log in {_interval(low[i], high[i])}, so they do not mean the same: load "
            "the log with the environment's bounds (--action_low and --action_high, or "
            "action_space=(low, high)), or give another environment"
        )
    declared = policy.action_space
    if isinstance(declared, Box) and is_integer(declared) and not is_integer(space):
        raise InputError(
            f"{name}: its actions are real numbers ({space.dtype}), those of the policy's log are "
            f"whole ones ({declared.dtype})"
        )


def _bounds(policy: Policy) -> tuple[tuple[int, ...], np.ndarray, np.ndarray]:
    """Shape and flat bounds of the policy's actions."""
    if isinstance(policy.action_space, Box):
        space = policy.action_space
        return tuple(space.shape), np.ravel(space.low), np.ravel(space.high)
    assert policy.normalization is not None
    center = np.asarray(policy.normalization.action_center, np.float64)
    scale = np.asarray(policy.normalization.action_scale, np.float64)
    return scale.shape, np.ravel(center - scale), np.ravel(center + scale)


def _differing(low, high, env_low, env_high) -> np.ndarray:
    """Indices of the dimensions whose bounds are not the environment's.

    If the environment has no bounds, every box fits. If it has one bound, the box must stay within
    it.
    """
    width = np.maximum(high - low, 0.0)
    slack = _TOLERANCE * width + 4 * np.finfo(np.float32).eps * np.maximum(abs(low), abs(high))
    has_low, has_high = env_low > -_UNBOUNDED, env_high < _UNBOUNDED
    both = has_low & has_high
    with np.errstate(invalid="ignore"):
        low_wrong = np.where(both, abs(low - env_low) > slack, low < env_low - slack)
        high_wrong = np.where(both, abs(high - env_high) > slack, high > env_high + slack)
    fixed = both & (env_low == env_high)  # normalised with a scale of 1: bounds unknown
    fixed &= abs((low + high) / 2 - env_low) <= slack
    return np.flatnonzero(((has_low & low_wrong) | (has_high & high_wrong)) & ~fixed)


def _interval(low: Any, high: Any) -> str:
    return f"[{low:.6g}, {high:.6g}]"
