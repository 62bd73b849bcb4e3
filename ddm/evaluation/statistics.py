"""Aggregate scores with intervals, as Agarwal et al. (2021, arXiv:2108.13264) recommend.

Scores are arrays (..., runs, tasks); a vector (runs,) counts as one task. Leading axes are kept,
so that one call aggregates all resamples of a bootstrap. Everything is numpy on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from ddm.errors import InputError

Statistic = Callable[..., np.ndarray]  # (..., runs, tasks) arrays -> (...) or (..., K)

# Numbers, or pairs of them, that are resampled at a time; bounds the memory of a bootstrap.
_MAX_RESAMPLED = 10_000_000


def mean(scores: ArrayLike) -> np.ndarray:
    """Mean over runs and tasks."""
    return _matrix(scores).mean(axis=(-2, -1))


def median(scores: ArrayLike) -> np.ndarray:
    """Median over tasks of each task's mean over runs."""
    return np.median(_matrix(scores).mean(axis=-2), axis=-1)


def interquartile_mean(scores: ArrayLike) -> np.ndarray:
    """Mean of the middle half of all runs and tasks; a quarter, rounded down, is cut per side."""
    scores = _matrix(scores)
    pooled = np.sort(scores.reshape(*scores.shape[:-2], -1), axis=-1)
    cut = pooled.shape[-1] // 4
    return pooled[..., cut : pooled.shape[-1] - cut].mean(axis=-1)


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> np.ndarray:
    """Mean shortfall from the target; scores above the target do not compensate for others."""
    return np.maximum(0.0, target - _matrix(scores)).mean(axis=(-2, -1))


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> np.ndarray:
    """(..., K) share of runs, averaged over tasks, that score above each of K thresholds."""
    above = _matrix(scores)[..., None] > np.asarray(thresholds, np.float64)
    return above.mean(axis=(-3, -2))


def probability_of_improvement(scores: ArrayLike, others: ArrayLike) -> np.ndarray:
    """Probability that a run of `scores` beats a run of `others`, averaged over tasks.

    Args:
      scores: (..., M, tasks).
      others: (..., N, tasks); the same tasks, any number of runs.

    Returns:
      (...) in [0, 1]; a tie counts half.
    """
    scores, others = _matrix(scores), _matrix(others)
    if scores.shape[-1] != others.shape[-1]:
        raise InputError(f"scores have {scores.shape[-1]} tasks, others have {others.shape[-1]}")
    difference = scores[..., :, None, :] - others[..., None, :, :]
    return (0.5 + 0.5 * np.sign(difference)).mean(axis=(-3, -2, -1))


def bootstrap_interval(
    scores: ArrayLike,
    statistic: Statistic = interquartile_mean,
    *,
    others: ArrayLike | None = None,
    confidence: float = 0.95,
    repetitions: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of a statistic by the stratified bootstrap.

    Runs are resampled within each task, tasks stay as they are. The same arguments give the
    same interval.

    Args:
      scores: (runs, tasks) or (runs,).
      statistic: maps (repetitions, runs, tasks) to (repetitions,) or (repetitions, K).
      others: a second sample, resampled too and given to `statistic` as its second argument,
        as `probability_of_improvement` needs it.
      confidence: share of the resamples inside the interval.
      repetitions: resamples; 2,000 for a look, 50,000 for a publication.
      seed: seed of the resampling.

    Returns:
      Lower and upper end, each a scalar or (K,).

    Raises:
      InputError: an array has another rank, or no entries.
    """
    samples = [_matrix(x) for x in (scores, others) if x is not None]
    for sample in samples:
        if sample.ndim != 2 or sample.size == 0:
            raise InputError(f"scores have shape {sample.shape}, expected (runs, tasks)")
    generator = np.random.default_rng(seed)
    chunk = max(1, _MAX_RESAMPLED // math.prod(sample.size for sample in samples))
    values = []
    for start in range(0, repetitions, chunk):
        count = min(chunk, repetitions - start)
        values.append(statistic(*(_resample(generator, sample, count) for sample in samples)))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(np.concatenate(values), (tail, 1.0 - tail), axis=0)
    return low, high


def wilson_interval(
    successes: ArrayLike, trials: ArrayLike, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of a success rate (Wilson, 1927); sound for few trials and at 0 and 1.

    Args:
      successes: how many of the trials succeeded; any shape.
      trials: how many there were, at least one.
      confidence: coverage.

    Returns:
      Lower and upper end of the rate.
    """
    successes, trials = np.asarray(successes, np.float64), np.asarray(trials, np.float64)
    if np.any(trials < 1) or np.any(successes < 0) or np.any(successes > trials):
        raise InputError("successes must lie between 0 and trials, and trials be 1 or more")
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    rate, shrink = successes / trials, 1.0 + z**2 / trials
    centre = (rate + z**2 / (2.0 * trials)) / shrink
    width = z * np.sqrt(rate * (1.0 - rate) / trials + z**2 / (4.0 * trials**2)) / shrink
    # The ends at rates 0 and 1 are set exactly; rounding would move them past 0 and 1.
    low = np.where(successes == 0, 0.0, centre - width)
    return low, np.where(successes == trials, 1.0, centre + width)


def _matrix(scores: ArrayLike) -> np.ndarray:
    """Scores as float64 with the axes (..., runs, tasks)."""
    scores = np.asarray(scores, np.float64)
    return scores[:, None] if scores.ndim == 1 else scores


def _resample(generator: np.random.Generator, scores: np.ndarray, count: int) -> np.ndarray:
    """(count, runs, tasks): each column's runs drawn with replacement."""
    rows = generator.integers(len(scores), size=(count, *scores.shape))
    return np.take_along_axis(scores[None], rows, axis=1)
