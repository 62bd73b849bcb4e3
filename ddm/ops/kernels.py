"""Kernels, and the maximum mean discrepancy between two samples of actions.

    MMD^2(P, Q) = E k(x, x') + E k(y, y') - 2 E k(x, y),   x, x' ~ P,  y, y' ~ Q

(Gretton et al. 2012). With a bandwidth that is large compared with the actions it compares supports
rather than densities; BEAR uses it so (Kumar et al. 2019, section 5).
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

# (N, M) values between samples (N, A) and (M, A), given a bandwidth.
KernelFn = Callable[[jax.Array, jax.Array, jax.Array | float], jax.Array]


def gaussian(one: jax.Array, other: jax.Array, bandwidth: jax.Array | float) -> jax.Array:
    """exp(-|x - y|_2^2 / (2 bandwidth)): (..., N, M) of (..., N, A) and (..., M, A)."""
    return jnp.exp(-jnp.sum(jnp.square(_differences(one, other)), axis=-1) / (2.0 * bandwidth))


def laplacian(one: jax.Array, other: jax.Array, bandwidth: jax.Array | float) -> jax.Array:
    """exp(-|x - y|_1 / (2 bandwidth)): (..., N, M) of (..., N, A) and (..., M, A)."""
    return jnp.exp(-jnp.sum(jnp.abs(_differences(one, other)), axis=-1) / (2.0 * bandwidth))


KERNELS: dict[str, KernelFn] = {"gaussian": gaussian, "laplacian": laplacian}


def squared_mmd(
    one: jax.Array, other: jax.Array, kernel: KernelFn, bandwidth: jax.Array | float
) -> jax.Array:
    """Squared maximum mean discrepancy of two samples, pairs of a point with itself included.

    Args:
      one: (..., N, A) actions of one distribution.
      other: (..., M, A) actions of the other.
      kernel: one of this module, or a function with the same arguments.
      bandwidth: of the kernel, in the unit of the actions (its square for a Gaussian).

    Returns:
      (...,) at least 0, except for rounding; 0 for equal samples.
    """
    chex.assert_equal_shape([one[..., :1, :], other[..., :1, :]])
    means = [
        jnp.mean(kernel(x, y, bandwidth), axis=(-2, -1))
        for x, y in ((one, one), (other, other), (one, other))
    ]
    return means[0] + means[1] - 2.0 * means[2]


def mmd(
    one: jax.Array, other: jax.Array, kernel: KernelFn, bandwidth: jax.Array | float
) -> jax.Array:
    """sqrt(MMD^2 + 1e-6), (...,): the form of BEAR's code, with a gradient also at 0."""
    squared = squared_mmd(one, other, kernel, bandwidth)
    return jnp.sqrt(jnp.maximum(squared, 0.0) + 1e-6)


def _differences(one: jax.Array, other: jax.Array) -> jax.Array:
    return one[..., :, None, :] - other[..., None, :, :]
