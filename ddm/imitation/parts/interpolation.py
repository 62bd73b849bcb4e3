"""A penalty on slopes between demonstrated and own rows (Gulrajani et al. 2017, WGAN-GP)."""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from ddm.types import PRNGKey


def slope_penalty(
    function: Callable[[jax.Array], jax.Array], first: jax.Array, second: jax.Array, key: PRNGKey
) -> jax.Array:
    """Mean of (|gradient| - 1)^2, of every output, at random points between pairs of rows.

    Args:
      function: inputs (B, I) to outputs (..., B); each value depends only on its own row.
      first: (B, I).
      second: (B, I).
      key: of the points, uniform on the lines from one row to the other.

    Returns:
      Scalar.
    """
    chex.assert_rank([first, second], 2)
    chex.assert_equal_shape([first, second])
    rows = len(first)
    shares = jax.random.uniform(key, (rows, 1), first.dtype)
    points = shares * first + (1.0 - shares) * second
    outputs, pull_back = jax.vjp(lambda inputs: function(inputs).reshape(-1, rows), points)
    each = jnp.broadcast_to(
        jnp.eye(len(outputs), dtype=outputs.dtype)[..., None], (len(outputs), *outputs.shape)
    )
    [gradients] = jax.vmap(pull_back)(each)  # (outputs, B, I)
    # The root has no gradient at 0.
    slopes = jnp.sqrt(jnp.sum(jnp.square(gradients), axis=-1) + 1e-12)
    return jnp.mean(jnp.square(slopes - 1.0))
