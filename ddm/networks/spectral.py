"""Spectral norms of layers: how much a network can stretch a distance.

A perceptron whose activations have slopes of at most 1 stretches by at most the product of the
largest singular values of its kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddm.types import PRNGKey

_TINY = 1e-12


def start_vectors(key: PRNGKey, params: Any) -> tuple[jax.Array, ...]:
    """A random unit vector (fan out,) for each kernel, from which the power iteration starts."""
    return tuple(
        _unit(jax.random.normal(jax.random.fold_in(key, i), kernel.shape[-1:], jnp.float32))
        for i, kernel in enumerate(kernels(params))
    )


def clip(
    params: Any, vectors: tuple[jax.Array, ...], limit: Any
) -> tuple[Any, tuple[jax.Array, ...]]:
    """W <- W / max(sigma / limit, 1) for each kernel W, after one step of the power iteration.

    The estimate of sigma, the largest singular value, is never too large, and gets close to it over
    some steps with small changes of W.

    Args:
      params: of a perceptron.
      vectors: those that the step before returned, or :func:`start_vectors`.
      limit: of sigma.

    Returns:
      Parameters and vectors.
    """
    estimates, moved = [], []
    for kernel, vector in zip(kernels(params), vectors, strict=True):
        left = _unit(kernel @ vector)
        moved.append(_unit(kernel.T @ left))
        estimates.append(left @ kernel @ moved[-1])
    return _shrink(params, estimates, limit), tuple(moved)


def clip_exactly(params: Any, limit: Any) -> Any:
    """As :func:`clip` with exact singular values, which cost much more."""
    return _shrink(params, norms(params), limit)


def norms(params: Any) -> list[jax.Array]:
    """The largest singular value () of each kernel."""
    return [jnp.linalg.norm(kernel, ord=2) for kernel in kernels(params)]


def kernels(params: Any) -> list[jax.Array]:
    """The weight matrices (fan in, fan out), in the order of their names."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [leaf for path, leaf in leaves if _is_kernel(path)]


def _shrink(params: Any, sigmas: list[jax.Array], limit: Any) -> Any:
    left = iter(sigmas)

    def shrink(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf / jnp.maximum(next(left) / limit, 1.0) if _is_kernel(path) else leaf

    return jax.tree_util.tree_map_with_path(shrink, params)


def _is_kernel(path: Any) -> bool:
    return getattr(path[-1], "key", "") == "kernel"


def _unit(vector: jax.Array) -> jax.Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), _TINY)


def local_slope(function: Callable[[jax.Array], jax.Array], inputs: jax.Array) -> jax.Array:
    """The largest singular value () of the Jacobian of (I,) -> (O,) at `inputs` (I,)."""
    return jnp.linalg.norm(jax.jacrev(function)(inputs), ord=2)
