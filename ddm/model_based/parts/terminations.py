"""When an imagined episode ends: the rules of known tasks, and what the model learned.

The MuJoCo tasks end an episode by a rule on the state that is known (gymnasium's `is_healthy`), so
MBPO and MOPO do not learn it. A rule gets observations in the environment's units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

# Next observations (..., O), in the environment's units -> (...) bool, whether the episode ends.
TerminationFn = Callable[[Any], Any]


def never(next_observations: jax.Array) -> jax.Array:
    """HalfCheetah, Swimmer, Reacher, Pusher: episodes end by their length alone."""
    return jnp.zeros(next_observations.shape[:-1], bool)


def hopper(next_observations: jax.Array) -> jax.Array:
    """Hopper: too low, too far inclined, or a coordinate beyond 100 (gymnasium's `is_healthy`).

    MBPO's and MOPO's code compare `abs(s < 100)`, so that they miss values below -100.
    """
    height, angle = next_observations[..., 0], next_observations[..., 1]
    in_range = jnp.all(jnp.abs(next_observations[..., 1:]) < 100.0, axis=-1)
    return ~(in_range & (height > 0.7) & (jnp.abs(angle) < 0.2))


def walker2d(next_observations: jax.Array) -> jax.Array:
    """Walker2d: too low, too high, or too far inclined (gymnasium's `is_healthy`)."""
    height, angle = next_observations[..., 0], next_observations[..., 1]
    return ~((height > 0.8) & (height < 2.0) & (jnp.abs(angle) < 1.0))


def ant(next_observations: jax.Array) -> jax.Array:
    """Ant: the torso's height leaves [0.2, 1] (gymnasium's `is_healthy`)."""
    height = next_observations[..., 0]
    return ~((height >= 0.2) & (height <= 1.0))


def humanoid(next_observations: jax.Array) -> jax.Array:
    """Humanoid: the torso's height leaves (1, 2) (gymnasium's `is_healthy`)."""
    height = next_observations[..., 0]
    return ~((height > 1.0) & (height < 2.0))


def inverted_pendulum(next_observations: jax.Array) -> jax.Array:
    """InvertedPendulum: the pole is inclined by more than 0.2 (gymnasium's `step`)."""
    return jnp.abs(next_observations[..., 1]) > 0.2


RULES: dict[str, TerminationFn] = {
    "never": never,
    "hopper": hopper,
    "walker2d": walker2d,
    "ant": ant,
    "humanoid": humanoid,
    "inverted_pendulum": inverted_pendulum,
}
LEARNED, AUTO = "learned", "auto"

# Names of environments without their version -> the rule of the task.
_TASKS = {
    "hopper": "hopper", "walker2d": "walker2d", "ant": "ant", "humanoid": "humanoid",
    "invertedpendulum": "inverted_pendulum", "halfcheetah": "never", "swimmer": "never",
    "reacher": "never", "pusher": "never",
}  # fmt: skip
_AGREEMENT = 0.999  # share of a log's transitions on which its rule must be right


def choices() -> dict[str, Any]:
    """What a configuration may name: a rule, `learned`, or `auto`."""
    return {AUTO: None, LEARNED: None, **RULES}


def find(dataset: Any) -> str:
    """The rule for a log, where none is given.

    It is the rule of the log's environment, if it agrees with at least 99.9 % of the log. Otherwise
    "never" for a log in which no episode terminates, and "learned" for any other.

    Args:
      dataset: a log with values, not traced.
    """
    name = (dataset.info.environment_id or "").rpartition("/")[2].rpartition(":")[2]
    task = _TASKS.get(name.rpartition("-v")[0].lower())
    if task is not None and agreement(RULES[task], dataset) >= _AGREEMENT:
        return task
    return LEARNED if np.any(np.asarray(dataset.terminations)) else "never"


def agreement(rule: TerminationFn, dataset: Any) -> float:
    """Share of the log's transitions on which a rule says what the log says."""
    ids = np.arange(dataset.num_transitions) + np.asarray(dataset.episode_ids) + 1
    raw = dataset.normalization.denormalize_observations(np.asarray(dataset.observations)[ids])
    return float(np.mean(np.asarray(rule(jnp.asarray(raw))) == np.asarray(dataset.terminations)))
