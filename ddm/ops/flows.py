"""Flows from noise to data along straight paths (Lipman et al. 2023; Liu et al. 2023).

    x_t = t x + (1 - t) eps,   eps ~ N(0, I),   t = 0 .. 1

A network is trained to predict the path's velocity; integrating it moves noise to data. Arrays are
(B, ...) with any event axes; there is one time for all rows, (), or one per row, (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from ddm.ops.diffusion import along
from ddm.types import PRNGKey


def interpolate(noise: jax.Array, clean: jax.Array, times: jax.Array) -> jax.Array:
    """The straight path t x + (1 - t) eps, at times () or (B,) in [0, 1]."""
    chex.assert_equal_shape([noise, clean])
    times = along(times, clean)
    return times * clean + (1.0 - times) * noise


def target_velocity(noise: jax.Array, clean: jax.Array) -> jax.Array:
    """The path's velocity x - eps; the flow's velocity is its mean given place and time."""
    return clean - noise


def score_from_velocity(velocity: jax.Array, noisy: jax.Array, times: jax.Array) -> jax.Array:
    """The score grad log p_t(x_t) = (t v - x_t) / (1 - t) = -E[eps | x_t] / (1 - t), t below 1."""
    times = along(times, noisy)
    return (times * velocity - noisy) / (1.0 - times)


def _towards_noise(key: PRNGKey, shape: tuple[int, ...]) -> jax.Array:
    # Beta(1.5, 1) has the distribution function u^1.5.
    return 0.999 * (1.0 - jax.random.uniform(key, shape, jnp.float32) ** (1.0 / 1.5))


# Where training looks, by (key, shape). "beta" is 0.999 (1 - u) with u ~ Beta(1.5, 1), denser near
# noise (pi0: Black et al. 2024); "logit_normal" is denser in the middle (Esser et al. 2024).
TIMES: dict[str, Callable[[PRNGKey, tuple[int, ...]], jax.Array]] = {
    "uniform": lambda key, shape: jax.random.uniform(key, shape, jnp.float32),
    "beta": _towards_noise,
    "logit_normal": lambda key, shape: jax.nn.sigmoid(jax.random.normal(key, shape, jnp.float32)),
}

Derivative = Callable[[Any, jax.Array], Any]  # (state, time ()) -> its rate of change, a like tree


def _euler(derivative: Derivative, state: Any, time: jax.Array, size: float) -> Any:
    return _move(state, derivative(state, time), size)


def _midpoint(derivative: Derivative, state: Any, time: jax.Array, size: float) -> Any:
    middle = _move(state, derivative(state, time), 0.5 * size)
    return _move(state, derivative(middle, time + 0.5 * size), size)


def _move(state: Any, rate: Any, size: float) -> Any:
    return jax.tree.map(lambda value, slope: value + size * slope, state, rate)


SOLVERS: dict[str, Callable[[Derivative, Any, jax.Array, float], Any]] = {
    "euler": _euler,  # error of first order; one evaluation per step
    "midpoint": _midpoint,  # of second order; two evaluations per step
}


def integrate(
    derivative: Derivative,
    start: Any,
    num_steps: int,
    solver: str = "euler",
    *,
    begin: float = 0.0,
    end: float = 1.0,
) -> Any:
    """The state at time `end` of an ordinary differential equation, in equal steps.

    From noise at 0 to data at 1 it samples a flow. A single Euler step returns eps + v(eps, 0) =
    E[x], the mean of the data: modes need more than one step.

    Args:
      derivative: the rate of change of a tree of arrays.
      start: the state at time `begin`.
      num_steps: of equal size, (end - begin) / num_steps.
      solver: a name of :data:`SOLVERS`.
      begin: first time.
      end: last time; before `begin` it runs backwards.
    """
    size = (end - begin) / num_steps
    times = begin + size * jnp.arange(num_steps, dtype=jnp.float32)

    def step(state: Any, time: jax.Array) -> tuple[Any, None]:
        return SOLVERS[solver](derivative, state, time, size), None

    return jax.lax.scan(step, start, times)[0]


Divergence = Callable[
    [Callable[[jax.Array], jax.Array], jax.Array], tuple[jax.Array, jax.Array]
]  # (field, points (B, ...)) -> the field there, and its divergence (B,)


def exact_divergence(
    field: Callable[[jax.Array], jax.Array], points: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Values (B, ...) and divergences (B,) of a field that treats each row by itself.

    One directional derivative for each of the D numbers of a row, all rows at once: for small D.
    """
    values, slope = jax.linearize(field, points)
    size = math.prod(points.shape[1:])
    basis = jnp.eye(size, dtype=points.dtype).reshape(size, 1, *points.shape[1:])
    directions = jnp.broadcast_to(basis, (size, *points.shape))
    diagonal = directions * jax.vmap(slope)(directions)
    return values, jnp.sum(diagonal, axis=(0, *range(2, diagonal.ndim)))


def hutchinson_divergence(probes: jax.Array) -> Divergence:
    """An unbiased estimate of the divergence: the mean over probes z of z^T J z.

    Args:
      probes: (M, B, ...) random signs; the same along the whole path (Grathwohl et al. 2019).
    """

    def divergence(
        field: Callable[[jax.Array], jax.Array], points: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        values, slope = jax.linearize(field, points)
        products = probes * jax.vmap(slope)(probes)
        return values, jnp.mean(jnp.sum(products, axis=tuple(range(2, products.ndim))), axis=0)

    return divergence


def log_density(
    velocity: Callable[[jax.Array, jax.Array], jax.Array],
    points: jax.Array,
    num_steps: int,
    solver: str = "midpoint",
    divergence: Divergence = exact_divergence,
) -> jax.Array:
    """Log-density (B,) of points (B, ...) under a flow from N(0, I) at time 0 to time 1.

    By the instantaneous change of variables (Chen et al. 2018, theorem 1), along the path that
    leads backwards from each point to its noise x_0: log N(x_0) - integral of div v dt.

    Args:
      velocity: (x (B, ...), t ()) -> (B, ...), each row by itself.
      points: where.
      num_steps: of the backward integration; the error falls with their square ("midpoint").
      solver: a name of :data:`SOLVERS`.
      divergence: exact, or :func:`hutchinson_divergence`.
    """

    def rates(state: tuple[jax.Array, jax.Array], time: jax.Array) -> tuple[jax.Array, jax.Array]:
        return divergence(lambda places: velocity(places, time), state[0])

    start = (points, jnp.zeros(points.shape[0], points.dtype))
    noise, log_volume = integrate(rates, start, num_steps, solver, begin=1.0, end=0.0)
    normal = -0.5 * (jnp.square(noise) + jnp.log(2.0 * jnp.pi))
    return jnp.sum(normal, axis=tuple(range(1, points.ndim))) + log_volume
