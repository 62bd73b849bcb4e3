"""What an evaluation returns, and the seeds of its episodes."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Outcome of L lanes times E episodes."""

    returns: np.ndarray  # (L, E) float64, undiscounted, in the environment's reward
    lengths: np.ndarray  # (L, E) int64, steps
    successes: np.ndarray | None  # (L, E) bool: success at any step; None if not reported


def episode_seeds(seed: int, num_episodes: int) -> np.ndarray:
    """Seeds of the episodes of one evaluation, the same for all its lanes.

    Args:
      seed: seed of the evaluation.
      num_episodes: how many; with more episodes, the first ones keep their seeds.

    Returns:
      (num_episodes,) uint32, below 2^31.
    """
    seeds = [np.random.SeedSequence([seed, e]).generate_state(1)[0] for e in range(num_episodes)]
    return np.asarray(seeds, np.uint32) >> 1
