"""The forms of CQL's penalty P(s), whose gradient pushes values down (Kumar et al. 2020).

A form sees the values of sampled actions in the order of `cql.penalised_actions`: `num_samples`
uniform ones, as many of pi(. | s), and as many of pi(. | s').
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddm import ops

# (config, sampled values (E, B, 3 num_samples), their log-densities (B, 3 num_samples), values of
# the logged actions (E, B)) -> P (E, B); the samples as `penalised_actions` orders them
PenaltyFn = Callable[[Any, jax.Array, jax.Array, jax.Array], jax.Array]


def entropy_gap(
    config: Any, sampled: jax.Array, log_densities: jax.Array, logged: jax.Array
) -> jax.Array:
    """CQL(H): the soft maximum over all actions, minus the logged action's value."""
    return ops.logsumexp_gap(sampled, log_densities, logged, config.penalty_temperature)


def kl_gap(
    config: Any, sampled: jax.Array, log_densities: jax.Array, logged: jax.Array
) -> jax.Array:
    """CQL(rho): the soft maximum under the policy, minus the logged action's value."""
    own = of_policy(config, sampled)
    return ops.logsumexp_gap(
        own, jnp.zeros_like(log_densities[:, : own.shape[-1]]), logged, config.penalty_temperature
    )


def expected_gap(
    config: Any, sampled: jax.Array, log_densities: jax.Array, logged: jax.Array
) -> jax.Array:
    """Eq. 2: the policy's value minus the logged action's."""
    del log_densities
    return jnp.mean(of_policy(config, sampled), axis=-1) - logged


def policy_value(
    config: Any, sampled: jax.Array, log_densities: jax.Array, logged: jax.Array
) -> jax.Array:
    """Eq. 1: the policy's value."""
    del log_densities, logged
    return jnp.mean(of_policy(config, sampled), axis=-1)


def of_policy(config: Any, sampled: jax.Array) -> jax.Array:
    """Those of the sampled values that belong to actions of pi(. | s)."""
    return sampled[..., config.num_samples : 2 * config.num_samples]


PENALTIES: dict[str, PenaltyFn] = {
    "entropy": entropy_gap,
    "kl": kl_gap,
    "expected": expected_gap,
    "pointwise": policy_value,
}
