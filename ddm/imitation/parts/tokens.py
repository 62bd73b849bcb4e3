"""Actions as tokens: the bins of an autoregressive policy, what it learns of them and plays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from ddm.errors import InputError
from ddm.imitation.parts import chunks
from ddm.ops import binning
from ddm.types import choice, leaf, static


class Config(chunks.Config):
    """Hyper-parameters of the bins."""

    # probability of the targets that is spread over all bins
    label_smoothing: float = leaf(0.0, "[0, 1)")
    target_width: float = leaf(1.0, "(0, inf)")  # standard deviation of soft targets, in bins
    # first edge of the bins, in the action box [-1, 1]
    bin_low: float = leaf(-1.0, "[-1, 1)", at_most="bin_high")
    bin_high: float = leaf(1.0, "(-1, 1]")  # last edge of the bins, in the action box [-1, 1]
    num_bins: int = static(64, "[2, inf)")  # of each action dimension; RT-1 has 256
    # The bins' edges where they are not equal, num_bins + 1 numbers for each action dimension, one
    # dimension after the other; empty: equal bins from bin_low to bin_high.
    edges: tuple[float, ...] = static((), "[-1, 1]")
    # How `prepare` fits edges that are not given to the log: box (not at all), uniform (equal bins
    # on the range of the actions), quantile or mu_law.
    binning: str = choice(("box", *binning.BINNINGS), "box")
    # Percent of the logged actions that `prepare` leaves out at each end of the bins' range.
    clip_percentile: float = static(0.0, "[0, 50)")
    targets: str = choice(lambda: TARGETS, "one_hot")  # soft: a hill over the bins nearby
    # centre of the bin; dither: sampled actions uniform in it
    decode: str = choice(lambda: DECODINGS, "centre")


def prepare(config: Config, dataset: Any) -> Any:
    """The edges of the bins, fitted to the logged actions as `binning` says, where not given.

    Raises:
      InputError: the dataset is traced, as under jit.
    """
    if config.edges or config.binning == "box":
        return config
    if isinstance(dataset.actions, jax.core.Tracer):
        raise InputError(
            "autoregressive: bins are fitted to the values of the log: call "
            "ddm.prepare(autoregressive, config, dataset) outside of jit"
        )
    edges = binning.fit_edges(
        np.asarray(dataset.actions), config.num_bins, config.binning, config.clip_percentile
    )
    return config.replace(edges=tuple(edges.ravel().tolist()))


def check_range(config: Config) -> None:
    """Refuses bins of no width; traced bounds are not checked.

    Raises:
      InputError: naming both ends.
    """
    low, high = config.bin_low, config.bin_high
    known = all(isinstance(each, int | float) for each in (low, high))
    if known and low == high:
        raise InputError(
            f"autoregressive: bins from bin_low={low:g} to bin_high={high:g}, expected "
            "bin_low < bin_high"
        )


def check_edges(config: Config, action_size: int) -> None:
    """Refuses edges that are not increasing numbers for each action dimension.

    Raises:
      InputError: naming the dimension.
    """
    expected = action_size * (config.num_bins + 1)
    if not config.edges:
        return
    if len(config.edges) != expected:
        raise InputError(
            f"autoregressive: edges has {len(config.edges)} numbers, expected {expected}: "
            f"num_bins + 1 = {config.num_bins + 1} for each of {action_size} action dimensions"
        )
    edges = np.asarray(config.edges, np.float32).reshape(action_size, -1)
    for dimension, row in enumerate(edges):
        if not np.all(np.diff(row) > 0.0) or row[0] < -1.0 or row[-1] > 1.0:
            raise InputError(
                f"autoregressive: the edges of action dimension {dimension} run from {row[0]:g} to "
                f"{row[-1]:g}, expected increasing numbers inside the action box [-1, 1]"
            )


def edges_of(config: Config, action_size: int) -> jax.Array:
    """The bins' edges (A, K + 1)."""
    if config.edges:
        return jnp.asarray(config.edges, jnp.float32).reshape(action_size, config.num_bins + 1)
    return binning.uniform_edges(config.bin_low, config.bin_high, action_size, config.num_bins)


def flat(bins: jax.Array) -> jax.Array:
    """Bins (..., T, A) as one sequence (..., T * A), time-major."""
    return bins.reshape(*bins.shape[:-2], -1)


def at(log_probs: jax.Array, bins: jax.Array) -> jax.Array:
    """Log-probabilities (...,) of bins (...,) among those of all bins (..., K)."""
    return jnp.take_along_axis(log_probs, bins[..., None], axis=-1)[..., 0]


def scores(
    config: Config, log_probs: jax.Array, actions: jax.Array, bins: jax.Array, edges: jax.Array
) -> jax.Array:
    """Minus the cross-entropy (..., A) with the targets, of which a share is spread over all bins.

    Args:
      config: of the policy.
      log_probs: (..., A, K) of all bins.
      actions: (..., A).
      bins: (..., A) of the actions.
      edges: (A, K + 1).
    """
    smoothing = config.label_smoothing
    expected = TARGETS[config.targets](config, log_probs, actions, bins, edges)
    return (1.0 - smoothing) * expected + smoothing * jnp.mean(log_probs, axis=-1)


def _one_hot(
    config: Config, log_probs: jax.Array, actions: jax.Array, bins: jax.Array, edges: jax.Array
) -> jax.Array:
    del config, actions, edges
    return at(log_probs, bins)


def _soft(
    config: Config, log_probs: jax.Array, actions: jax.Array, bins: jax.Array, edges: jax.Array
) -> jax.Array:
    del bins
    hill = binning.soft_targets(actions, edges, config.target_width)
    return jnp.sum(hill * log_probs, axis=-1)


TARGETS: dict[str, Callable[..., jax.Array]] = {"one_hot": _one_hot, "soft": _soft}
DECODINGS: dict[str, Callable[..., jax.Array]] = {
    "centre": lambda bins, edges, key: binning.decode(bins, edges),
    "dither": binning.decode_dithered,
}
