"""How far one distribution is from another, in nats: closed forms, quadrature, and samples.

KL(p || q) = E_p[log p - log q]. With p the demonstrator and q the policy it is the forward KL
divergence of imitation, which penalises actions that the policy leaves out; with the roles
exchanged it is the reverse one, which penalises actions that the policy adds (Ghasemipour et al.
2019; Ke et al. 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ddm.ops import improvement, latent

# KL(p || q) (...,) of probabilities (..., K); infinite where p leaves the support of q.
categorical_kl = improvement.kl_divergence


class Estimate(NamedTuple):
    """A mean over samples, and its standard error."""

    value: jax.Array
    standard_error: jax.Array


def categorical_js(p: jax.Array, q: jax.Array) -> jax.Array:
    """Jensen-Shannon divergence (...,) of probabilities (..., K): at most log 2, and symmetric."""
    middle = 0.5 * (p + q)
    return 0.5 * (categorical_kl(p, middle) + categorical_kl(q, middle))


def gaussian_kl(
    mean: jax.Array, std: jax.Array, other_mean: jax.Array, other_std: jax.Array
) -> jax.Array:
    """KL(N(mean, diag(std)^2) || N(other_mean, diag(other_std)^2)).

    Args:
      mean: (..., A), and `std` of the same shape, above 0.
      std: see `mean`.
      other_mean: (..., A), and `other_std` of the same shape, above 0.
      other_std: see `other_mean`.

    Returns:
      (...,) the sum over the A dimensions.
    """
    return latent.kl_between_gaussians(
        mean, 2.0 * jnp.log(std), other_mean, 2.0 * jnp.log(other_std)
    )


def kl_on_grid(log_p: jax.Array, log_q: jax.Array, grid: jax.Array) -> jax.Array:
    """KL(p || q) of densities on a line, by the trapezoidal rule.

    The rule converges faster than any power of the spacing for smooth densities that vanish at
    both ends; a spacing of half the smallest standard deviation gives seven digits.

    Args:
      log_p: (..., N) log-density on the grid; minus infinity where the density is 0.
      log_q: (..., N).
      grid: (N,) increasing.

    Returns:
      (...,) nats; infinite where p has mass and q has none.
    """
    chex.assert_equal_shape([log_p, log_q])
    # 0 log 0 = 0, also for its gradient.
    inside = log_p > -jnp.inf
    gap = jnp.where(inside, log_p, 0.0) - jnp.where(inside, log_q, 0.0)
    return jnp.trapezoid(jnp.exp(log_p) * gap, grid, axis=-1)


def kl_from_samples(log_p: jax.Array, log_q: jax.Array) -> Estimate:
    """KL(p || q) from log-densities (..., M) at M samples of p, two or more; unbiased."""
    chex.assert_equal_shape([log_p, log_q])
    gaps = log_p - log_q
    error = jnp.std(gaps, axis=-1, ddof=1) / jnp.sqrt(gaps.shape[-1])
    return Estimate(jnp.mean(gaps, axis=-1), error)


def kl_lower_bound(values: jax.Array, other_values: jax.Array) -> jax.Array:
    """E_p log h - E_q h + 1 with h = softplus(c) > 0: at most KL(p || q), for every critic c.

    The bound is met where h = p / q (Nguyen et al. 2010).

    Args:
      values: (...,) c at samples of p.
      other_values: (...,) c at samples of q.

    Returns:
      (...,) one estimate per pair of samples; their mean is the bound.
    """
    chex.assert_equal_shape([values, other_values])
    # The summand keeps the logarithm finite where softplus underflows.
    return 1.0 + jnp.log(jax.nn.softplus(values) + 1e-8) - jax.nn.softplus(other_values)


def wasserstein_lower_bound(values: jax.Array, other_values: jax.Array) -> jax.Array:
    """E_p c - E_q c: at most the 1-Wasserstein distance, for a critic c with slopes up to 1.

    Arguments and result are those of :func:`kl_lower_bound`.
    """
    chex.assert_equal_shape([values, other_values])
    return values - other_values


def slope_penalty(
    critic: Callable[[jax.Array], jax.Array], inputs: jax.Array, max_slope: jax.Array | float = 1.0
) -> jax.Array:
    """Mean of max(|gradient of c| - max_slope, 0)^2 over inputs: keeps a critic Lipschitz.

    Args:
      critic: inputs (B, A) to values (B,); each value depends only on its own row.
      inputs: (B, A).
      max_slope: largest Euclidean norm of the gradient without a penalty.

    Returns:
      Scalar; if its weight is w and it is added to a Wasserstein bound W, the best slope is
    max_slope + W / (2 w).
    """
    chex.assert_rank(inputs, 2)
    gradients = jax.grad(lambda inputs: jnp.sum(critic(inputs)))(inputs)
    # The root has no gradient at 0, and the gradient of a relu network can be 0.
    slopes = jnp.sqrt(jnp.sum(jnp.square(gradients), axis=-1) + 1e-8)
    return jnp.mean(jnp.square(jnp.maximum(slopes - max_slope, 0.0)))
