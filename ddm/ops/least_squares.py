"""Least squares of a function that is not linear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_DAMPING = 1e-6  # of the squared Jacobian: a direction that changes nothing is left alone


def gauss_newton(
    residuals: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    max_iterations: int,
    tolerance: Any,
    low: float = -jnp.inf,
    high: float = jnp.inf,
) -> tuple[jax.Array, jax.Array]:
    """The Gauss-Newton method: x <- clip(x - (J^T J + 1e-6 I)^-1 J^T r(x)).

    With as many residuals as unknowns it is Newton's method for r(x) = 0.

    Args:
      residuals: r, (N,) -> (M,), differentiable.
      start: (N,).
      max_iterations: steps at most.
      tolerance: it stops when |r(x)| is at most this.
      low: smallest value of each unknown.
      high: largest value of each unknown.

    Returns:
      x (N,), and |r(x)| (), which says whether it was found. Where r is not finite, neither is.
    """
    jacobian = jax.jacfwd(residuals)
    identity = _DAMPING * jnp.eye(start.shape[0], dtype=start.dtype)

    def goes_on(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, left, steps = carry
        return (left > tolerance) & (steps < max_iterations)

    def step(carry: tuple[jax.Array, jax.Array, jax.Array]):
        x, _, steps = carry
        slopes = jacobian(x)
        change = jnp.linalg.solve(slopes.T @ slopes + identity, slopes.T @ residuals(x))
        x = jnp.clip(x - change, low, high)
        return x, jnp.linalg.norm(residuals(x)), steps + 1

    begin = (start, jnp.linalg.norm(residuals(start)), jnp.zeros((), jnp.int32))
    x, left, _ = jax.lax.while_loop(goes_on, step, begin)
    return x, left
