"""DART: noise on the expert's own steps, as large as the learner's errors (Laskey et al. 2017).

The expert then comes to states beside its own way, and its labels say how it returns. Actions are
real vectors in the algorithm's units, or indices.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddm.imitation import bc
from ddm.imitation.parts import gates
from ddm.types import Batch, PRNGKey


def error_moments(config: Any, modes: jax.Array, rows: Batch, size: int) -> jax.Array:
    """Second moments (A, A) of the learner's errors on those of the rows that are held out.

    Of discrete actions the error rate, in every place.

    Args:
      config: with the share of held-out rows.
      modes: (B, A), or (B,) indices: the learner's actions there.
      rows: observations, and the expert's actions.
      size: A, or the number of discrete actions.
    """
    weights = gates.held_out(rows.observations, config.held_out_share).astype(jnp.float32)
    weights = weights / jnp.maximum(jnp.sum(weights), 1.0)
    if jnp.issubdtype(modes.dtype, jnp.integer):
        rate = jnp.sum(weights * bc.errors(modes, rows.actions))
        return jnp.full((size, size), rate, jnp.float32)
    errors = modes - rows.actions
    return jnp.einsum("b,bi,bj->ij", weights, errors, errors)


def scales(config: Any, moments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(A, A) factor of the noise, and the share of random actions if they are discrete.

    With `noise_scale` above 0, the noise of DART keeps its shape, and its size is that number.
    """
    scale = jnp.asarray(config.noise_scale, jnp.float32)
    if config.noise == "isotropic":
        return scale * jnp.eye(moments.shape[0]), scale
    trace = jnp.trace(moments)
    rescaled = jnp.square(scale) / jnp.maximum(trace, 1e-12)
    factor = covariance_factor(moments * jnp.where(scale > 0.0, rescaled, jnp.ones_like(trace)))
    return factor, jnp.where(scale > 0.0, scale, moments[0, 0])


def noisy(labels: jax.Array, factor: jax.Array, scale: Any, key: PRNGKey) -> jax.Array:
    """The expert's actions with the noise that DART injects.

    Args:
      labels: (N, A) in the algorithm's units, or (N,) indices.
      factor: (A, A), the noise is this times a standard normal vector; for indices the number of
        actions is its size.
      scale: for indices the probability of a random action.
      key: used once.
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        return labels + jax.random.normal(key, labels.shape) @ factor.T
    flip_key, action_key = jax.random.split(key)
    others = jax.random.randint(action_key, labels.shape, 0, factor.shape[0], labels.dtype)
    return jnp.where(jax.random.bernoulli(flip_key, scale, labels.shape), others, labels)


def covariance_factor(covariance: jax.Array) -> jax.Array:
    """(A, A) whose product with its transpose is the covariance, also where that is singular."""
    values, vectors = jnp.linalg.eigh(covariance)
    return vectors * jnp.sqrt(jnp.maximum(values, 0.0))
