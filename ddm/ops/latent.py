"""Gaussian latent variables: densities, divergences and the weight of the divergence.

Variances are given as logarithms, log sigma^2, over the last axis of Z dimensions.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from ddm.ops.updates import share_done
from ddm.types import PRNGKey


def reparameterize(key: PRNGKey, mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Samples mean + sigma eps (..., Z), differentiable in mean and log_var (Kingma 2014)."""
    chex.assert_equal_shape([mean, log_var])
    return mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape, mean.dtype)


def gaussian_log_prob(values: jax.Array, mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Log-density (...,) of values (..., Z) under N(mean, diag(exp(log_var)))."""
    chex.assert_equal_rank([values, mean])
    squares = jnp.square(values - mean) * jnp.exp(-log_var)
    return -0.5 * jnp.sum(squares + log_var + jnp.log(2 * jnp.pi), axis=-1)


def kl_to_standard_normal(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """KL(N(mean, diag(exp(log_var))) || N(0, I)) in nats, (...,), summed over dimensions."""
    chex.assert_equal_shape([mean, log_var])
    return -0.5 * jnp.sum(1.0 + log_var - jnp.square(mean) - jnp.exp(log_var), axis=-1)


def kl_between_gaussians(
    mean: jax.Array, log_var: jax.Array, other_mean: jax.Array, other_log_var: jax.Array
) -> jax.Array:
    """KL(N(mean, exp(log_var)) || N(other_mean, exp(other_log_var))) in nats, (...,).

    All arguments are (..., Z); the covariances are diagonal.
    """
    chex.assert_equal_shape([mean, log_var, other_mean, other_log_var])
    difference = log_var - other_log_var
    squares = jnp.square(mean - other_mean) * jnp.exp(-other_log_var)
    return -0.5 * jnp.sum(1.0 + difference - squares - jnp.exp(difference), axis=-1)


def sampled_kl(
    latents: jax.Array, mean: jax.Array, log_var: jax.Array, prior_log_prob: jax.Array
) -> jax.Array:
    """Estimate log q(z) - log p(z) of KL(q || p) at z ~ q = N(mean, diag(exp(log_var))), unbiased.

    For a prior whose divergence has no closed form, such as a mixture. A single estimate may be
    below 0.

    Args:
      latents: (..., Z) samples of q, reparameterised.
      mean: (..., Z) of q.
      log_var: (..., Z) of q.
      prior_log_prob: (...,) log p(z) at the latents.

    Returns:
      (...,) in nats.
    """
    log_prob = gaussian_log_prob(latents, mean, log_var)
    chex.assert_equal_shape([log_prob, prior_log_prob])
    return log_prob - prior_log_prob


def free_bits(kl: jax.Array, floor: jax.Array | float) -> jax.Array:
    """The batch's mean divergence, () nats; `floor` nats are free (Kingma et al. 2016).

    Below the floor the divergence is constant and has no gradient, so that it cannot be pressed
    to 0. The latent is one group: the floor is for the sum over its dimensions. A floor of 0
    changes nothing, not even negative estimates.
    """
    mean = jnp.mean(kl)
    return jnp.where(floor > 0.0, jnp.maximum(mean, floor), mean)


def warm_up(
    weight: jax.Array | float, step: jax.Array | int, warmup_steps: jax.Array | int
) -> jax.Array:
    """The weight at `step` of a line from 0 to `weight` over `warmup_steps`; 0: constant."""
    return weight * share_done(step, warmup_steps)
