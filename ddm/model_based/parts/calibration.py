"""How right a model is, and how well it knows where it is wrong.

The first functions work on plain arrays, the others ask a model. Errors are in the environment's
units, so that they do not depend on how the log was normalised.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddm.errors import InputError
from ddm.model_based import dynamics
from ddm.model_based.parts import members, rollouts
from ddm.model_based.parts.uncertainty import UNCERTAINTIES

LEVELS = (0.5, 0.8, 0.9, 0.95)  # of central intervals
_CHUNK = 4096  # transitions that are predicted at once


# On arrays.


def root_mean_square(errors: np.ndarray) -> np.ndarray:
    """(T,) of errors (N, T)."""
    return np.sqrt(np.mean(np.square(errors), axis=0))


def explained_variance(errors: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(T,) 1 - mean squared error / variance, of errors and targets (N, T).

    1 is a perfect prediction, 0 that of the mean. A target that does not vary explains nothing: 0.
    """
    variance = np.var(targets, axis=0)
    varies = variance > 0.0
    share = np.mean(np.square(errors), axis=0) / np.where(varies, variance, 1.0)
    return np.where(varies, 1.0 - share, 0.0)


def quantiles_of(means: np.ndarray, stds: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(E, N, T) F_i(target), the share of a Gaussian of means and stds (E, N, T) below (N, T)."""
    from scipy import stats

    return stats.norm.cdf((targets[None] - means) / stds)


def coverage(quantiles: np.ndarray, levels: tuple[float, ...] = LEVELS) -> np.ndarray:
    """(L,) share of quantiles, of any shape, inside of the central intervals of each level.

    A target lies in the central interval of level p if and only if its quantile is between
    (1 - p) / 2 and (1 + p) / 2. So this also holds for a mixture, whose quantile is the mean of
    those of its members.
    """
    distance = 2.0 * np.abs(quantiles - 0.5)
    return np.array([np.mean(distance <= level) for level in levels])


def rank_correlation(uncertainties: np.ndarray, errors: np.ndarray) -> float:
    """Spearman's, of two arrays (N,): 1 if both order all rows alike; 0 if one does not vary."""
    from scipy import stats

    ranks = [stats.rankdata(values) for values in (uncertainties, errors)]
    if min(np.ptp(ranks[0]), np.ptp(ranks[1])) == 0.0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """The chance that a value of `outside` (K,) exceeds one of `inside` (M,); ties count half."""
    from scipy import stats

    ranks = stats.rankdata(np.concatenate([inside, outside]))[len(inside) :]
    count = len(outside)
    above = ranks.sum() - count * (count + 1) / 2
    return float(above / (count * len(inside)))


# Of a model.


class Predicted(NamedTuple):
    """What a model says of N transitions, in the environment's units; the reward comes first."""

    mean: np.ndarray  # (N, 1 + O) of the elites' means
    means: np.ndarray  # (K, N, 1 + O) of each elite
    stds: np.ndarray  # (K, N, 1 + O)
    uncertainties: dict[str, np.ndarray]  # (N,) each of UNCERTAINTIES, over all members


def predict(
    config: Any, state: dynamics.State, observations: Any, actions: Any, chunk: int = _CHUNK
) -> Predicted:
    """Predictions for observations (N, O) and actions (N, A) in the log's units.

    Args:
      config: of the model, or of a method that contains it.
      state: of the model.
      observations: (N, O).
      actions: (N, A).
      chunk: rows at once, which bounds the memory.
    """
    found = _predict(config, state, jnp.asarray(observations), jnp.asarray(actions), chunk)
    means, stds, uncertainties = jax.tree.map(np.asarray, found)
    means, stds = np.swapaxes(means, 0, 1), np.swapaxes(stds, 0, 1)  # elites first
    return Predicted(means.mean(axis=0), means, stds, uncertainties)


def targets_of(config: Any, rewards: Any, next_observations: Any) -> np.ndarray:
    """(N, 1 + O) what a model predicts, in the environment's units (rewards without a shift)."""
    following = members.in_environment_units(config, jnp.asarray(next_observations))
    scaled = np.asarray(rewards)[:, None] / config.reward_unit
    return np.concatenate([scaled, np.asarray(following)], axis=-1)


def open_loop_errors(
    config: Any, state: dynamics.State, observations: Any, actions: Any, chunk: int = _CHUNK
) -> np.ndarray:
    """(H, O) root mean squared error after 1 .. H steps, in the environment's units.

    The elites' mean is fed back into the model with the logged actions; the log's observations are
    seen only at the start.

    Args:
      config: of the model, or of a method that contains it.
      state: of the model.
      observations: (B, H + 1, O) windows of a log, in its units.
      actions: (B, H, A).
      chunk: windows at once.
    """
    observations, actions = jnp.asarray(observations), jnp.asarray(actions)
    return np.asarray(_open_loop_errors(config, state, observations, actions, chunk))


def windows(log: Any, horizon: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pieces of a log: observations (B, H + 1, O) and actions (B, H, A).

    Args:
      log: a dataset with E episodes.
      horizon: H, steps of a window, which lies in one episode.
      count: windows at most; of more they are a random choice.
      seed: of the choice.

    Raises:
      InputError: no episode has H steps, or H is below 1.
    """
    longest = int(log.episode_lengths.max())
    if not 1 <= horizon <= longest:
        raise InputError(
            f"horizon is {horizon}, expected at least 1 and at most {longest}, the steps of the "
            f"longest episode of {log.info.name}"
        )
    ids = np.asarray(log.episode_ids)
    first = np.arange(len(ids) - horizon + 1)
    first = first[ids[first] == ids[first + horizon - 1]]
    if len(first) > count:
        first = np.random.default_rng(seed).choice(first, count, replace=False)
    steps = first[:, None] + np.arange(horizon)
    rows = (first + ids[first])[:, None] + np.arange(horizon + 1)
    return np.asarray(log.observations)[rows], np.asarray(log.actions)[steps]


# Compiled.


@functools.partial(jax.jit, static_argnums=4)
def _predict(
    config: Any, state: dynamics.State, observations: jax.Array, actions: jax.Array, chunk: int
) -> Any:
    """Means and stds (N, K, 1 + O) of the elites, and uncertainties (N,) of all members."""
    elites = members.elites(config, state.holdout_errors)

    def some(observations: jax.Array, actions: jax.Array) -> Any:
        found = dynamics.predict(config, state, observations, actions)
        means, stds = members.prediction_in_environment_units(config, found)
        unsure = {name: function(means, stds) for name, function in UNCERTAINTIES.items()}
        return *(jnp.swapaxes(x[elites], 0, 1) for x in (means, stds)), unsure

    return in_chunks(some, chunk, observations, actions)


@functools.partial(jax.jit, static_argnums=4)
def _open_loop_errors(
    config: Any, state: dynamics.State, observations: jax.Array, actions: jax.Array, chunk: int
) -> jax.Array:
    elites = members.elites(config, state.holdout_errors)

    def step(observations: jax.Array, actions: jax.Array) -> jax.Array:
        means = dynamics.predict(config, state, observations, actions).means
        return jnp.mean(means[elites, :, 1:], axis=0)

    def squares(observations: jax.Array, actions: jax.Array) -> jax.Array:
        predicted = rollouts.open_loop(step, observations[:, 0], jnp.swapaxes(actions, 0, 1))
        found, true = (
            members.in_environment_units(config, x)
            for x in (jnp.swapaxes(predicted, 0, 1), observations[:, 1:])
        )
        return (found - true) ** 2

    return jnp.sqrt(jnp.mean(in_chunks(squares, chunk, observations, actions), axis=0))


def in_chunks(function: Callable[..., Any], size: int, *arrays: jax.Array) -> Any:
    """`function(*arrays)` for rows that do not depend on each other, `size` of them at once.

    Args:
      function: arrays (B, ...) -> a pytree of arrays (B, ...).
      size: rows at once; the last rows are filled up with copies of the last one.
      *arrays: (N, ...).
    """
    count = len(arrays[0])
    if count <= size:
        return function(*arrays)
    chunks = -(-count // size)
    places = np.minimum(np.arange(chunks * size), count - 1)
    parts = [x[places].reshape(chunks, size, *x.shape[1:]) for x in arrays]
    found = jax.lax.map(lambda part: function(*part), parts)
    return jax.tree.map(lambda x: x.reshape(chunks * size, *x.shape[2:])[:count], found)
