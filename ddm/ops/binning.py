"""Real vectors as bins, one row of edges for each dimension, and back.

Dimension d has the B bins [e_{d,0}, e_{d,1}), ..., [e_{d,B-1}, e_{d,B}]. Edges are fitted to data
on the host (:func:`fit_edges`), everything else runs on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ddm.errors import InputError

MARGIN = 0.01  # of the data's range, added at both of its ends
LIMIT = 1.0  # actions lie in [-LIMIT, LIMIT]
MU = 255.0  # of the mu-law, as in telephony (ITU-T G.711)


def uniform_edges(
    low: jax.Array | float, high: jax.Array | float, num_dimensions: int, num_bins: int
) -> jax.Array:
    """Edges (D, B + 1) of equal bins on [low, high], the same for all dimensions."""
    edges = low + (high - low) * jnp.arange(num_bins + 1, dtype=jnp.float32) / num_bins
    return jnp.broadcast_to(edges, (num_dimensions, num_bins + 1))


def encode(values: jax.Array, edges: jax.Array) -> jax.Array:
    """Bins (..., D) int32 of values (..., D); beyond the first or last edge, the bin there."""
    chex.assert_equal(values.shape[-1], edges.shape[0])
    inner = _along(edges[:, 1:-1], values[..., None])
    return jnp.sum(values[..., None] >= inner, axis=-1, dtype=jnp.int32)


def inside(values: jax.Array, edges: jax.Array) -> jax.Array:
    """(...,) bool: whether values (..., D) lie in the bins in all dimensions, ends included."""
    chex.assert_equal(values.shape[-1], edges.shape[0])
    return jnp.all((values >= edges[:, 0]) & (values <= edges[:, -1]), axis=-1)


def decode(bins: jax.Array, edges: jax.Array) -> jax.Array:
    """Centres (..., D) of bins (..., D)."""
    return _pick(0.5 * (edges[:, :-1] + edges[:, 1:]), bins)


def decode_dithered(bins: jax.Array, edges: jax.Array, key: jax.Array) -> jax.Array:
    """Values (..., D) drawn uniformly in their bins (..., D): no grid pattern, and no bias."""
    share = jax.random.uniform(key, bins.shape, edges.dtype)
    return _pick(edges[:, :-1], bins) + share * _pick(jnp.diff(edges), bins)


def log_widths(bins: jax.Array, edges: jax.Array) -> jax.Array:
    """Logarithms (..., D) of the widths of bins (..., D).

    The probability of a bin divided by its width is a density that is constant in the bin. So
    log-probabilities minus these can be compared with the log-densities of continuous policies.
    """
    return _pick(jnp.log(jnp.diff(edges)), bins)


def soft_targets(values: jax.Array, edges: jax.Array, width: jax.Array | float) -> jax.Array:
    """Probabilities (..., D, B) of bins around values (..., D): a hill over the bin's neighbours.

    p(j) ~ exp(-(c_j - a)^2 / (2 h^2)) with the bins' centres c, and h = `width` times the width
    of the bin of a: neighbouring bins count as almost right, unlike with one-hot targets (Pomerleau
    1989 spreads ALVINN's steering units like this).
    """
    values = jnp.clip(values, _along(edges[:, 0], values), _along(edges[:, -1], values))
    scales = width * jnp.exp(log_widths(encode(values, edges), edges))
    centres = 0.5 * (edges[:, :-1] + edges[:, 1:])
    offsets = _along(centres, values[..., None]) - values[..., None]
    return jax.nn.softmax(-0.5 * jnp.square(offsets / scales[..., None]))


def _pick(table: jax.Array, bins: jax.Array) -> jax.Array:
    """Entries (..., D) of a table (D, B) at bins (..., D)."""
    return table[jnp.arange(table.shape[0], dtype=jnp.int32), bins]


def _along(table: jax.Array, values: jax.Array) -> jax.Array:
    """A table (D, ...) with leading axes of length 1 until it has as many axes as the values."""
    return table.reshape((1,) * (values.ndim - table.ndim) + table.shape)


def fit_edges(
    actions: np.ndarray, num_bins: int, binning: str = "uniform", percentile: float = 0.0
) -> np.ndarray:
    """Edges (A, B + 1), strictly increasing in [-1, 1], from logged actions (N, A).

    - "uniform": equal bins on the data's range, widened by 1 % at both ends.
    - "quantile": equal numbers of actions in each bin, so that bins are finest where the data is
      densest (Janner et al. 2021). Repeated values give several equal edges. One of them is kept,
      and the widest bins are halved instead.
    - "mu_law": on the data's range, finest around 0.

    Args:
      actions: in [-1, 1].
      num_bins: B.
      binning: how the bins lie.
      percentile: of the data, cut off at both ends before the range is taken; 1 keeps a few
        outliers from wasting bins (Kim et al. 2024, OpenVLA).

    Raises:
      InputError: discrete actions, fewer than 2 bins, an unknown binning, a percentile outside
        [0, 50), actions that are not rows, or that are outside [-1, 1] or not finite.
    """
    actions = np.asarray(actions)
    if binning not in _FITS:
        raise InputError(f"binning: {binning} is unknown; choose one of {', '.join(sorted(_FITS))}")
    if not np.issubdtype(actions.dtype, np.floating):
        raise InputError(f"binning: actions are of type {actions.dtype}, expected real vectors")
    if num_bins < 2:
        raise InputError(f"binning: num_bins is {num_bins}, expected at least 2")
    if not 0.0 <= percentile < 50.0:
        raise InputError(f"binning: percentile is {percentile:g}, expected 0 or more, and below 50")
    if actions.ndim != 2 or not len(actions):
        raise InputError(f"binning: actions have shape {actions.shape}, expected (N, A)")
    actions = actions.astype(np.float64)
    if not np.isfinite(actions).all():
        raise InputError("binning: some actions are NaN or infinite")
    if (largest := np.abs(actions).max()) > LIMIT + 1e-6:
        raise InputError(f"binning: actions reach {largest:g}, expected them in [-1, 1]")
    return np.stack([_FITS[binning](column, num_bins, percentile) for column in actions.T])


def _range(values: np.ndarray, num_bins: int, percentile: float) -> tuple[float, float]:
    low, high = np.percentile(values, [percentile, 100.0 - percentile])
    # A constant dimension gets bins of a thousandth of the box.
    margin = max(MARGIN * (high - low), 1e-3 * num_bins) if high == low else MARGIN * (high - low)
    return max(low - margin, -LIMIT), min(high + margin, LIMIT)


def _fit_uniform(values: np.ndarray, num_bins: int, percentile: float) -> np.ndarray:
    return np.linspace(*_range(values, num_bins, percentile), num_bins + 1)


def _fit_quantile(values: np.ndarray, num_bins: int, percentile: float) -> np.ndarray:
    low, high = _range(values, num_bins, percentile)
    inner = np.quantile(values, np.arange(1, num_bins) / num_bins)
    # In float32, because the device compares edges in float32: smaller differences do not count.
    edges = np.unique(np.asarray([low, *inner[(inner > low) & (inner < high)], high], np.float32))
    while len(edges) < num_bins + 1:
        widest = np.argmax(np.diff(edges))
        edges = np.insert(edges, widest + 1, 0.5 * (edges[widest] + edges[widest + 1]))
    return edges.astype(np.float64)


def _fit_mu_law(values: np.ndarray, num_bins: int, percentile: float) -> np.ndarray:
    bounds = np.asarray(_range(values, num_bins, percentile))
    low, high = np.sign(bounds) * np.log1p(MU * np.abs(bounds)) / np.log1p(MU)
    pressed = np.linspace(low, high, num_bins + 1)
    edges = np.sign(pressed) * np.expm1(np.abs(pressed) * np.log1p(MU)) / MU
    edges[[0, -1]] = bounds  # rounding in the map and its inverse changed the last digit
    return edges


_FITS: dict[str, Callable[[np.ndarray, int, float], np.ndarray]] = {
    "uniform": _fit_uniform,
    "quantile": _fit_quantile,
    "mu_law": _fit_mu_law,
}
BINNINGS = tuple(_FITS)
