"""Imitation by matching distributions of states and actions: the concave duals of divergences.

IQ-Learn (Garg et al. 2021, arXiv 2106.12142) maximises E_E[phi(r)] - E_pi[r] over rewards r, where
phi(r) = -f*(-r) comes from the convex conjugate f* of a divergence D_f. Only the slopes phi'(r)
are needed: they weigh the demonstrated rows.

| divergence | phi(r) | phi'(r) | for |
| --- | --- | --- | --- |
| ``chi2`` | r - r^2 / 4 | 1 - r / 2 | all r |
| ``hellinger`` | r / (1 + r) | 1 / (1 + r)^2 | r > -1 |
| ``kl`` | -exp(-r - 1) | exp(-r - 1) | all r |
| ``kl_fix`` | -exp(-r) | exp(-r) | all r |
| ``js`` | log(2 - exp(-r)) | exp(-r) / (2 - exp(-r)) | r > -log 2 |

``kl_fix`` is ``kl`` with its rewards shifted so that the slope at r = 0 is 1, as for all others but
``kl``. The quadratic term of ``chi2`` is a loss of its own in the method, because it may also be
taken on the policy's rows; its slope here is that of the rest, 1.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

MAX_SLOPE = 100.0  # slopes grow without bound towards the end of the range of r


def _ones(rewards: jax.Array) -> jax.Array:
    return jnp.ones_like(rewards)


def _hellinger(rewards: jax.Array) -> jax.Array:
    return 1.0 / jnp.square(jnp.maximum(1.0 + rewards, MAX_SLOPE**-0.5))


def _kl(rewards: jax.Array) -> jax.Array:
    return jnp.exp(jnp.minimum(-rewards - 1.0, jnp.log(MAX_SLOPE)))


def _kl_fix(rewards: jax.Array) -> jax.Array:
    return jnp.exp(jnp.minimum(-rewards, jnp.log(MAX_SLOPE)))


def _js(rewards: jax.Array) -> jax.Array:
    # x / (2 - x) is MAX_SLOPE at this x.
    ratio = jnp.exp(jnp.minimum(-rewards, jnp.log(2.0 * MAX_SLOPE / (1.0 + MAX_SLOPE))))
    return ratio / (2.0 - ratio)


# Slopes phi'(r) of rewards (...,), at most MAX_SLOPE; of chi2 without its quadratic term.
SLOPES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "chi2": _ones,
    "hellinger": _hellinger,
    "kl": _kl,
    "kl_fix": _kl_fix,
    "js": _js,
}


def soft_maximum(values: jax.Array, temperature: jax.Array | float) -> jax.Array:
    """The soft value alpha log sum_a exp(Q(s, a) / alpha) (...,) of action values (..., K)."""
    return temperature * jax.nn.logsumexp(values / temperature, axis=-1)


def log_mean_exp(residuals: jax.Array, weights: jax.Array) -> jax.Array:
    """The logarithm of sum_i w_i exp(x_i), (), for weights (B,) that sum to 1; a weight may be 0.

    Its gradient takes each row by its share of the sum. So a batch gives a biased gradient of the
    expectation: with few rows, the largest one counts too much.
    """
    chex.assert_equal_shape([residuals, weights])
    return jax.nn.logsumexp(residuals, b=weights)


def effective_share(residuals: jax.Array, weights: jax.Array) -> jax.Array:
    """How much of the weight of :func:`log_mean_exp` is spread: from 1 (alike) down to 1 / B.

    It is the effective number of rows over what it would be if all residuals were equal.
    """
    chex.assert_equal_shape([residuals, weights])
    shares = weights * jnp.exp(residuals - jnp.max(residuals))
    shares = shares / jnp.sum(shares)
    return jnp.sum(jnp.square(weights)) / jnp.sum(jnp.square(shares))
