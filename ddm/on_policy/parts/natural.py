"""The natural gradient: products with the Fisher matrix, and linear systems solved with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddm import networks
from ddm.networks import heads


def fisher_product(
    coordinates: Callable[[Any], tuple[Any, Any]], params: Any, direction: Any, weights: jax.Array
) -> Any:
    """F v, the Fisher matrix of a policy times a direction, without the matrix.

    F is the mean over the states of J' diag(w) J, with J the derivative of the policy's coordinates
    by its parameters. It is the second derivative of KL(pi_old || pi) at pi_old.

    Args:
      coordinates: of :func:`coordinates`, as a function of the parameters.
      params: where F is taken.
      direction: v, of the structure of the parameters.
      weights: (R,) of the states.
    """

    def moving(params: Any) -> Any:
        return coordinates(params)[0]

    scales = coordinates(params)[1]
    share = weights / jnp.maximum(jnp.sum(weights), 1.0)
    _, tangents = jax.jvp(moving, (params,), (direction,))
    _, transpose = jax.vjp(moving, params)

    def scale(tangent: jax.Array, factor: jax.Array) -> jax.Array:
        return tangent * factor * share.reshape(-1, *(1,) * (tangent.ndim - 1))

    [product] = transpose(jax.tree.map(scale, tangents, scales))
    return product


def coordinates(
    config: heads.HeadConfig, outputs: Any, actions: jax.Array
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Numbers (R, ...) that say what a policy is, and their weights in the Fisher matrix.

    Of a softmax: log-probabilities, weighted by the probabilities. Of a Gaussian, also under a
    tanh: mean and log standard deviation, weighted by 1 / std^2 and 2; that samples are clipped
    afterwards is left out, as in the KL divergence that others bound. Of any other policy: the
    log-probability of the action that was taken, an estimate from one sample.
    """
    if heads.find(config).discrete:
        log_shares = jax.nn.log_softmax(outputs.logits)
        return (log_shares,), (jnp.exp(log_shares),)
    parameters = networks.gaussian_parameters(outputs)
    if parameters is None:
        log_probs = networks.clipped_log_prob(outputs, actions)
        return (log_probs,), (jnp.ones_like(log_probs),)
    mean, std = parameters
    return (mean, jnp.log(std)), (1.0 / jnp.square(std), jnp.full_like(std, 2.0))


def conjugate_gradient(product: Callable[[Any], Any], target: Any, num_iterations: int) -> Any:
    """The x of A x = target after so many steps of the method of conjugate gradients.

    Args:
      product: v -> A v, symmetric and positive definite.
      target: any tree of arrays; x and v have its structure.
      num_iterations: at most as many as there are numbers are needed without rounding.
    """

    def step(carry: tuple[Any, ...], _: None) -> tuple[tuple[Any, ...], None]:
        solution, residual, direction, size = carry
        image = product(direction)
        rate = size / jnp.maximum(inner(direction, image), _TINY)
        solution = add(solution, rate, direction)
        residual = add(residual, -rate, image)
        smaller = inner(residual, residual)
        direction = add(residual, smaller / jnp.maximum(size, _TINY), direction)
        return (solution, residual, direction, smaller), None

    start = jax.tree.map(jnp.zeros_like, target), target, target, inner(target, target)
    (solution, *_), _ = jax.lax.scan(step, start, length=num_iterations)
    return solution


def inner(one: Any, other: Any) -> jax.Array:
    """Sum of the products of all numbers of two trees."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), one, other)
    return jax.tree.reduce(jnp.add, products)


def add(one: Any, factor: jax.Array | float, other: Any) -> Any:
    """A tree plus `factor` times another one."""
    return jax.tree.map(lambda x, y: x + factor * y, one, other)


_TINY = 1e-30  # keeps 0 / 0 from a system that is solved already
