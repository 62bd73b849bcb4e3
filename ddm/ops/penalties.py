"""Penalties: soft maxima of action values over sampled actions, and orthogonal features."""

from __future__ import annotations

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp


def soft_maximum(
    sampled_values: jax.Array,
    log_densities: jax.Array,
    temperature: jax.Array | float = 1.0,
) -> jax.Array:
    """Soft maximum of Q over all actions, by importance sampling.

    Estimates ``temperature * log integral exp(Q(s, a) / temperature) da`` of CQL(H) (Kumar et al.
    2020, eq. 4 and appendix F). The integral is the mean over samples of exp(Q / temperature) /
    density. The authors' code sums instead, which adds temperature * log(samples) and changes no
    gradient; with the mean, the number (and a Lagrange threshold on it) means the same for any
    number of samples.

    Args:
      sampled_values: (..., B, M) values of M sampled actions per state.
      log_densities: (B, M) log-density of the distribution that each action was drawn from.
      temperature: scalar above 0.

    Returns:
      (..., B) soft maxima.
    """
    chex.assert_rank(log_densities, 2)
    chex.assert_equal_shape_suffix([sampled_values, log_densities], 2)
    num_samples = log_densities.shape[-1]
    log_densities = jnp.broadcast_to(log_densities, sampled_values.shape)
    exponents = sampled_values / temperature - jax.lax.stop_gradient(log_densities)
    return temperature * (jax.nn.logsumexp(exponents, axis=-1) - math.log(num_samples))


def logsumexp_gap(
    sampled_values: jax.Array,
    log_densities: jax.Array,
    data_values: jax.Array,
    temperature: jax.Array | float = 1.0,
) -> jax.Array:
    """Soft maximum of Q over all actions minus Q of the logged action: the penalty of CQL(H).

    Args:
      sampled_values: (..., B, M) values of M sampled actions per state.
      log_densities: (B, M) log-density of the distribution that each action was drawn from.
      data_values: (..., B) values of the logged actions.
      temperature: scalar above 0.

    Returns:
      (..., B) gaps.
    """
    chex.assert_equal_shape([sampled_values[..., 0], data_values])
    return soft_maximum(sampled_values, log_densities, temperature) - data_values


def orthogonality_penalty(params: Any) -> jax.Array:
    """Sum over all kernels W of the squared products of different columns (Brock et al. 2019).

    It is the squared norm of W^T W off its diagonal: 0 where the features of a layer are
    orthogonal, whatever their lengths.

    Args:
      params: a tree; its leaves of two axes, inputs and outputs, are the kernels.

    Returns:
      Scalar.
    """
    total = jnp.zeros((), jnp.float32)
    for kernel in (leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2):
        products = kernel.T @ kernel
        total = total + jnp.sum(jnp.square(products)) - jnp.sum(jnp.square(jnp.diagonal(products)))
    return total
