"""Bins against hand-worked numbers, and the bounds that follow from their widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.errors import InputError
from ddm.ops import binning

QUARTERS = binning.uniform_edges(-1.0, 1.0, 1, 4)  # -1, -0.5, 0, 0.5, 1


def _actions(rows=2000):
    random = np.random.default_rng(0)
    columns = 0.3 * random.normal(size=rows), random.uniform(-0.2, 0.9, rows)
    return np.clip(np.stack(columns, axis=1), -1.0, 1.0).astype(np.float32)


def test_bins_are_closed_below_and_values_outside_clip():
    values = jnp.array([-3.0, -1.0, -0.51, -0.5, 0.0, 0.49, 0.5, 1.0, 7.0])[:, None]
    bins = binning.encode(values, QUARTERS)
    assert bins.dtype == jnp.int32
    np.testing.assert_array_equal(bins[:, 0], [0, 0, 0, 1, 2, 2, 3, 3, 3])


def test_every_dimension_has_its_own_edges():
    edges = jnp.array([[-1.0, 0.0, 1.0], [-0.2, 0.3, 0.4]])
    bins = binning.encode(jnp.array([[-0.1, 0.29], [0.1, 0.31]]), edges)
    np.testing.assert_array_equal(bins, [[0, 0], [1, 1]])
    np.testing.assert_allclose(binning.decode(bins, edges), [[-0.5, 0.05], [0.5, 0.35]], rtol=1e-6)
    np.testing.assert_allclose(
        binning.log_widths(bins, edges), np.log([[1.0, 0.5], [1.0, 0.1]]), rtol=1e-5
    )


@pytest.mark.parametrize("kind", binning.BINNINGS)
def test_a_round_trip_moves_by_at_most_half_a_bin(kind):
    actions = _actions()
    edges = jnp.asarray(binning.fit_edges(actions, 16, kind), jnp.float32)
    bins = binning.encode(jnp.asarray(actions), edges)
    half = 0.5 * np.exp(binning.log_widths(bins, edges))
    assert np.all(np.abs(binning.decode(bins, edges) - actions) <= half + 1e-6)
    np.testing.assert_array_equal(binning.encode(binning.decode(bins, edges), edges), bins)
    dithered = binning.decode_dithered(bins, edges, jax.random.key(0))
    np.testing.assert_array_equal(binning.encode(dithered, edges), bins)


def test_uniform_decoding_has_the_error_of_a_uniform_law():
    values = np.random.default_rng(0).uniform(-1.0, 1.0, (20_000, 1)).astype(np.float32)
    edges = binning.uniform_edges(-1.0, 1.0, 1, 20)
    errors = np.asarray(binning.decode(binning.encode(jnp.asarray(values), edges), edges)) - values
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(2.0 / (20 * np.sqrt(12.0)), rel=0.02)


def test_dithered_values_fill_their_bin_evenly():
    bins = jnp.full((20_000, 1), 2)
    values = np.asarray(binning.decode_dithered(bins, QUARTERS, jax.random.key(1)))
    assert 0.0 <= values.min() < 0.001
    assert 0.499 < values.max() <= 0.5
    assert values.mean() == pytest.approx(0.25, abs=0.005)


def test_quantile_bins_hold_equally_many_actions():
    actions = _actions()
    edges = jnp.asarray(binning.fit_edges(actions, 10, "quantile"), jnp.float32)
    for dimension in range(2):
        counts = np.bincount(np.asarray(binning.encode(jnp.asarray(actions), edges))[:, dimension])
        np.testing.assert_allclose(counts, 200, atol=2)
    assert np.diff(edges[0])[5] < 0.5 * np.diff(edges[0])[0]  # the Gaussian is densest inside


def test_repeated_values_make_no_empty_edges():
    # Half of the actions are 0, and the rest two values: of eight quantiles only two differ.
    actions = np.repeat(np.array([-0.5, 0.0, 0.5]), [25, 50, 25])[:, None]
    for kind in binning.BINNINGS:
        edges = binning.fit_edges(actions, 8, kind)
        assert edges.shape == (1, 9)
        assert np.all(np.diff(edges.astype(np.float32)) > 0.0)
        bins = np.asarray(binning.encode(jnp.asarray(actions), jnp.asarray(edges)))
        assert len(np.unique(bins)) == 3, kind


@pytest.mark.parametrize("constant", [-1.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", binning.BINNINGS)
def test_a_constant_dimension_has_bins_around_its_value(kind, constant):
    edges = binning.fit_edges(np.full((10, 1), constant), 8, kind)
    assert np.all(np.diff(edges.astype(np.float32)) > 0.0)
    assert edges.min() >= -1.0
    assert edges.max() <= 1.0
    assert edges.min() <= constant <= edges.max()
    assert np.ptp(edges) < 0.05


def test_uniform_edges_are_the_range_widened_by_a_hundredth():
    actions = np.linspace(-0.5, 0.3, 11)[:, None]
    np.testing.assert_allclose(
        binning.fit_edges(actions, 4)[0], np.linspace(-0.508, 0.308, 5), rtol=1e-9
    )
    wide = binning.fit_edges(np.array([[-1.0], [1.0]]), 4)
    np.testing.assert_allclose(wide[0], QUARTERS[0])  # never outside the box


def test_percentiles_leave_out_outliers():
    actions = np.concatenate([np.linspace(-0.1, 0.1, 998), [-1.0, 1.0]])[:, None]
    assert np.ptp(binning.fit_edges(actions, 8)) == 2.0
    assert np.ptp(binning.fit_edges(actions, 8, percentile=1.0)) == pytest.approx(0.2, abs=0.005)


def test_mu_law_bins_are_finest_around_zero():
    edges = binning.fit_edges(np.array([[-1.0], [1.0]]), 4, "mu_law")[0]
    # Half of the pressed range is (256^0.5 - 1) / 255.
    np.testing.assert_allclose(edges, [-1.0, -15 / 255, 0.0, 15 / 255, 1.0], atol=1e-12)


def test_soft_targets_are_a_gaussian_over_the_centres():
    targets = binning.soft_targets(jnp.array([[0.25]]), QUARTERS, 1.0)[0, 0]
    hill = np.exp(-0.5 * np.array([2.0, 1.0, 0.0, 1.0]) ** 2)  # distances in bins
    np.testing.assert_allclose(targets, hill / hill.sum(), rtol=1e-5)
    narrow = binning.soft_targets(jnp.array([[0.2], [9.0]]), QUARTERS, 0.01)[:, 0]
    np.testing.assert_allclose(narrow, np.eye(4)[[2, 3]], atol=1e-6)


@pytest.mark.parametrize(
    ("actions", "arguments", "message"),
    [
        (np.zeros((4, 1), np.int32), (8,), "type int32, expected real vectors"),
        (np.zeros((4, 1)), (1,), "num_bins is 1, expected at least 2"),
        (np.zeros((4, 1)), (8, "spline"), "spline is unknown; choose one of"),
        (np.zeros((4, 1)), (8, "uniform", 50.0), "percentile is 50, expected 0 or more"),
        (np.full((4, 1), 1.5), (8,), r"actions reach 1.5, expected them in \[-1, 1\]"),
        (np.array([[0.5], [np.nan]]), (8,), "some actions are NaN or infinite"),
        (np.zeros(4), (8,), r"actions have shape \(4,\), expected \(N, A\)"),
        (np.zeros((0, 1)), (8,), r"actions have shape \(0, 1\)"),
    ],
)
def test_what_cannot_be_binned_is_refused(actions, arguments, message):
    with pytest.raises(InputError, match=message):
        binning.fit_edges(actions, *arguments)
