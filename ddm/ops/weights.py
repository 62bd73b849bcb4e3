"""Weights of weighted regression, as functions of advantages.

The policy that improves most on the behaviour policy at a given KL divergence from it is
pi(a | s) ~ beta(a | s) exp(A(s, a) / temperature) (Peters et al. 2010). Fitted to the log by
likelihood, every row gets a weight that grows with its advantage. All functions here have the
arguments of :class:`WeightFn`, and no gradient passes through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp


class WeightFn(Protocol):
    """advantages (B,), an inverse temperature, the largest weight -> weights (B,), 0 or more."""

    def __call__(
        self,
        advantages: jax.Array,
        inverse_temperature: jax.Array | float,
        maximum: jax.Array | float,
    ) -> jax.Array:
        """Weights (B,)."""
        ...


def exponential(
    advantages: jax.Array, inverse_temperature: jax.Array | float, maximum: jax.Array | float
) -> jax.Array:
    """Regression weights min(exp(inverse_temperature * advantage), maximum).

    The exponent is bounded, not the result, so that neither the value nor a gradient overflows.

    Args:
      advantages: (B,).
      inverse_temperature: scalar; 0 weighs all rows alike.
      maximum: scalar above 0, the largest weight.

    Returns:
      (B,) weights, without gradient.
    """
    chex.assert_rank(advantages, 1)
    exponents = jnp.minimum(inverse_temperature * advantages, jnp.log(maximum))
    return jax.lax.stop_gradient(jnp.exp(exponents))


def binary(
    advantages: jax.Array, inverse_temperature: jax.Array | float, maximum: jax.Array | float
) -> jax.Array:
    """1 where the advantage is above 0, else 0 (Wang et al. 2020, eq. 3).

    The temperature and the maximum do not matter.
    """
    chex.assert_rank(advantages, 1)
    del inverse_temperature, maximum
    return jax.lax.stop_gradient((advantages > 0.0).astype(advantages.dtype))


def softmax(
    advantages: jax.Array, inverse_temperature: jax.Array | float, maximum: jax.Array | float
) -> jax.Array:
    """B times the softmax of inverse_temperature * advantage over the batch, at most `maximum`.

    Normalised by the batch itself, as in the AWAC authors' code: a constant added to all
    advantages does not matter, and the mean weight is 1 where no weight is cut.
    """
    chex.assert_rank(advantages, 1)
    shares = jax.nn.softmax(inverse_temperature * advantages)
    weights = jnp.minimum(advantages.shape[0] * shares, maximum)
    return jax.lax.stop_gradient(weights)


def uniform(
    advantages: jax.Array, inverse_temperature: jax.Array | float, maximum: jax.Array | float
) -> jax.Array:
    """1 for every row: behaviour cloning."""
    chex.assert_rank(advantages, 1)
    del inverse_temperature, maximum
    return jnp.ones_like(advantages)


def effective_share(weights: jax.Array) -> jax.Array:
    """(sum w)^2 / (B sum w^2): the effective sample size of Kish (1965) over the batch's.

    Args:
      weights: (B,), 0 or more.

    Returns:
      Scalar in [0, 1]: 1 for equal weights, 1 / B where one row has all, 0 where none has any.
    """
    chex.assert_rank(weights, 1)
    scaled = weights / jnp.maximum(jnp.max(weights), 1e-30)  # squares do not overflow
    squares = jnp.maximum(jnp.sum(jnp.square(scaled)), 1e-30)
    return jnp.square(jnp.sum(scaled)) / (weights.shape[0] * squares)


# Below this share the policy is fitted to so few rows that it ignores the rest of the log; a batch
# of 256 then counts as 13.
SMALL_SHARE = 0.05
# While the temperature grades actions, exponential weights have a mean near 1. If their mean is
# this share of the largest weight, nearly every weight is either the largest one or near 0.
SATURATED = 0.2
LARGE_MEAN = 5.0


def diagnose(
    metrics: Mapping[str, float], weight: Any = "exponential", maximum: float = float("inf")
) -> list[str]:
    """A sentence if few rows have all the weight, or the temperature does not grade the weights.

    Args:
      metrics: means over an interval, with ``effective_share`` and ``weight``, the mean weight.
      weight: the configuration's choice, which decides the advice in the sentence.
      maximum: the largest weight.
    """
    share, mean = metrics.get("effective_share", 1.0), metrics.get("weight", 1.0)
    graded = weight in ("exponential", exponential)
    if share < SMALL_SHARE:
        start = (
            f"effective_share={share:.2g}: the policy is fitted to so few rows of each batch that "
            "most of the log is lost on it"
        )
    elif graded and mean >= max(SATURATED * maximum, LARGE_MEAN):
        start = (
            f"effective_share={share:.2g} and weight={mean:.3g}: nearly every logged action has "
            f"the largest weight, max_weight={maximum:g}, or almost none"
        )
    else:
        return []
    if weight in ("binary", binary):
        return [f"{start}, as few exceed the baseline; take baseline=mean, or weight=exponential"]
    return [
        f"{start}, as advantages are large beside the temperature; scale rewards down "
        "(--reward_scale, or --reward_transform=return_range), or lower inverse_temperature"
    ]


WEIGHTS: dict[str, WeightFn] = {
    "exponential": exponential,
    "binary": binary,
    "softmax": softmax,
    "uniform": uniform,
}
