"""Maximum mean discrepancies that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.ops import kernels

POINT, ONE_AWAY = jnp.zeros((1, 1)), jnp.ones((1, 1))
every_kernel = pytest.mark.parametrize("kernel", list(kernels.KERNELS.values()))


def test_two_points_at_distance_one():
    # sqrt(2 - 2 exp(-1 / 40) + 1e-6), the number of the BEAR sheet.
    distance = kernels.mmd(POINT, ONE_AWAY, kernels.laplacian, 20.0)
    assert distance == pytest.approx(np.sqrt(2.0 - 2.0 * np.exp(-1.0 / 40.0) + 1e-6), rel=1e-5)
    assert distance == pytest.approx(0.2222, abs=5e-5)


@every_kernel
def test_equal_samples_are_at_distance_zero_with_a_finite_gradient(kernel):
    sample = jax.random.normal(jax.random.key(0), (5, 3))
    assert kernels.squared_mmd(sample, sample, kernel, 1.0) == pytest.approx(0.0, abs=1e-6)
    gradient = jax.grad(lambda rows: kernels.mmd(rows, sample, kernel, 1.0))(sample)
    assert np.isfinite(gradient).all()


@every_kernel
def test_it_is_the_double_sum_over_pairs(kernel):
    one = np.asarray(jax.random.normal(jax.random.key(0), (4, 2)))
    other = np.asarray(jax.random.normal(jax.random.key(1), (3, 2)))
    norm = {
        kernels.gaussian: lambda gap: np.sum(gap**2),
        kernels.laplacian: lambda gap: np.sum(np.abs(gap)),
    }[kernel]

    def mean(xs, ys):
        return np.mean([[np.exp(-norm(x - y) / 4.0) for y in ys] for x in xs])

    expected = mean(one, one) + mean(other, other) - 2.0 * mean(one, other)
    assert kernels.squared_mmd(one, other, kernel, 2.0) == pytest.approx(expected, rel=1e-4)
    batched = kernels.squared_mmd(jnp.stack([one] * 2), jnp.stack([other] * 2), kernel, 2.0)
    np.testing.assert_allclose(batched, [expected] * 2, rtol=1e-4)


def test_samples_of_different_sizes_of_action_are_refused():
    with pytest.raises(AssertionError):
        kernels.mmd(jnp.ones((2, 3)), jnp.ones((2, 1)), kernels.gaussian, 1.0)
