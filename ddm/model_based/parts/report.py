"""The report on a trained model: its errors, its intervals, and what its uncertainties know.

Give transitions that the model has not learned from: on those that it has, it looks better than it
is. No number of the report chooses a setting of training.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from ddm.model_based import dynamics
from ddm.model_based.parts import calibration, members


def report(
    config: Any,
    state: dynamics.State,
    log: Any,
    *,
    horizon: int = 20,
    outside: tuple[Any, Any] | None = None,
    count: int = 20_000,
    seed: int = 0,
) -> dict[str, Any]:
    """The errors, intervals and uncertainties of one model, as values that JSON can hold.

    Args:
      config: of the model, or of a method that contains it.
      state: of the model.
      log: a dataset in the units in which the model was trained.
      horizon: H of the open loop; shorter if no episode is as long.
      outside: observations (N, O) and actions (N, A) in the log's units which no log like this one
        holds; None: the log's observations with actions drawn uniformly.
      count: transitions, and windows, at most.
      seed: of their choice.

    Returns:
      ``rmse`` and ``explained``, lists over targets, the reward first; ``coverage`` of the
      ``levels``, of the elites' ``mixture`` and on average of each ``elite``'s own intervals, None
      for regressions; ``open_loop``, the RMSE of each step over the standard deviations of the
      log's observations (root mean square over dimensions), and ``no_change``, the same for a
      model in which nothing moves; ``uncertainties``, for each its ``spearman`` with the error of
      the next observation and its ``auroc`` of outside against inside.
    """
    picked = _choose(log.num_transitions, count, seed)
    rows = picked + np.asarray(log.episode_ids)[picked]
    observations, actions = np.asarray(log.observations), np.asarray(log.actions)[picked]
    rewards, inputs = np.asarray(log.rewards)[picked], observations[rows]
    targets = calibration.targets_of(config, rewards, observations[rows + 1])
    found = calibration.predict(config, state, inputs, actions)
    errors = found.mean - targets
    if outside is None:
        outside = inputs, _random_actions(actions.shape, seed)
    far_observations, far_actions = (np.asarray(values)[:count] for values in outside)
    far = calibration.predict(config, state, far_observations, far_actions)
    distance = np.linalg.norm(errors[:, 1:], axis=-1)
    change = targets.copy()
    change[:, 1:] -= calibration.targets_of(config, rewards, inputs)[:, 1:]
    return {
        "transitions": len(picked),
        "holdout_error": float(dynamics.metrics(config, state)["holdout_error"]),
        "rmse": calibration.root_mean_square(errors).tolist(),
        "explained": calibration.explained_variance(errors, change).tolist(),
        "levels": list(calibration.LEVELS),
        "coverage": _coverages(found, targets) if config.probabilistic else None,
        **_open_loop_report(config, state, log, horizon, count, seed),
        "uncertainties": {
            name: {
                "spearman": calibration.rank_correlation(values, distance),
                "auroc": calibration.auroc(values, far.uncertainties[name]),
            }
            for name, values in found.uncertainties.items()
        },
    }


def _random_actions(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Uniform in the action box."""
    return np.random.default_rng(seed).uniform(-1.0, 1.0, shape).astype(np.float32)


def _choose(total: int, count: int, seed: int) -> np.ndarray:
    if total <= count:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))


def _coverages(found: calibration.Predicted, targets: np.ndarray) -> dict[str, list[float]]:
    each = calibration.quantiles_of(found.means, found.stds, targets)
    quantiles = {"elite": each, "mixture": each.mean(axis=0)}
    return {name: calibration.coverage(values).tolist() for name, values in quantiles.items()}


def _open_loop_report(
    config: Any, state: dynamics.State, log: Any, horizon: int, count: int, seed: int
) -> dict[str, list[float]]:
    horizon = min(horizon, int(log.episode_lengths.max()))
    observations, actions = calibration.windows(log, horizon, count, seed)
    raw = np.asarray(members.in_environment_units(config, jnp.asarray(log.observations)))
    std = np.std(raw, axis=0)
    std = np.where(std > 0.0, std, 1.0)
    windowed = np.asarray(members.in_environment_units(config, jnp.asarray(observations)))
    still = np.sqrt(np.mean((windowed[:, 1:] - windowed[:, :1]) ** 2, axis=0))
    moved = calibration.open_loop_errors(config, state, observations, actions)
    shares = {"open_loop": moved, "no_change": still}
    return {name: np.sqrt(np.mean((x / std) ** 2, axis=-1)).tolist() for name, x in shares.items()}
