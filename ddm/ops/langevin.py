"""Samples of exp(score) by noisy gradient ascent in a box: how energy-based policies act.

Florence et al. 2021 (implicit behavioural cloning), after their code. The noise is scaled by the
step size, not by its root. So a chain with shrinking steps is annealed: it ends near modes.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from ddm.types import PRNGKey


def polynomial_decay(
    initial: jax.Array | float,
    final: jax.Array | float,
    num_steps: int,
    power: jax.Array | float = 2.0,
) -> jax.Array:
    """(num_steps,) step sizes from `initial` to `final`: (initial - final) (1 - i/(N-1))^p + final.

    A single step has the initial size.
    """
    left = 1.0 - jnp.arange(num_steps, dtype=jnp.float32) / max(num_steps - 1, 1)
    return (initial - final) * left**power + final


def chain(
    gradient: Callable[[jax.Array], jax.Array],
    key: PRNGKey,
    samples: jax.Array,
    step_sizes: jax.Array,
    *,
    low: jax.Array | float,
    high: jax.Array | float,
    noise_scale: jax.Array | float = 1.0,
    max_step: jax.Array | float = jnp.inf,
) -> jax.Array:
    """A chain of a <- clip(a + clip(eta_i (grad f(a) / 2 + noise_scale z))), z ~ N(0, I).

    Args:
      gradient: of the score f, the log-density up to a constant: (..., A) to (..., A). One call
        for all samples.
      key: for the noise.
      samples: (..., A) where the chains start.
      step_sizes: (N,) eta_i, for example :func:`polynomial_decay`.
      low: lower end of the box, in each dimension.
      high: upper end.
      noise_scale: factor on the noise; 0 is gradient ascent.
      max_step: largest move in one step, in each dimension.

    Returns:
      (..., A) where the chains end. No gradient flows through them.
    """
    chex.assert_rank(step_sizes, 1)

    def step(samples: jax.Array, at: tuple[PRNGKey, jax.Array]) -> tuple[jax.Array, None]:
        noise_key, step_size = at
        noise = noise_scale * jax.random.normal(noise_key, samples.shape, samples.dtype)
        move = step_size * (0.5 * gradient(samples) + noise)
        return jnp.clip(samples + jnp.clip(move, -max_step, max_step), low, high), None

    keys = jax.random.split(key, step_sizes.shape[0])
    samples, _ = jax.lax.scan(step, jax.lax.stop_gradient(samples), (keys, step_sizes))
    return jax.lax.stop_gradient(samples)
