"""A prior p over discrete actions and gains D over it: their policy, and what is backed up.

    pi ~ p exp(D / c),   V = c log sum_a p(a | s) exp(D(s, a) / c),   log pi = log p + (D - V) / c

At c = 0 the policy takes the best actions alone, with equal shares, and V is their gain. Form psi
backs up V. Form q backs up Q = D + c log p, and pays c (log pi - log p) in the reward. See
`kl_control.py`. All functions are of log p (..., K) and D (..., K).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddm import ops
from ddm.types import Configuration, choice, chosen, leaf

BackupFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Config(Configuration):
    """Hyper-parameters of the policy and of the backup."""

    # c, in units of the reward: price of a nat of divergence
    kl_weight: float = leaf(0.5, "[0, inf)")
    form: str = choice(("psi", "q"), "psi")  # what is backed up, see above
    # Of form q: value of the next state. Or a function of target and online Q (..., K) and the
    # logarithmic mean exponential V (...,) of the target.
    backup: str | BackupFn = choice(lambda: BACKUPS, "max")
    # Of form q: the divergence at the logged action (sample), or its mean (integral).
    kl_calc: str = choice(("sample", "integral"), "sample")


def log_policy(config: Config, log_priors: jax.Array, gains: jax.Array) -> jax.Array:
    """Log pi (..., K); at c = 0 form psi stays on the prior's support."""
    best = jnp.max(gains, axis=-1, keepdims=True)
    if config.form == "psi":
        best = jnp.max(jnp.where(log_priors > -jnp.inf, gains, -jnp.inf), axis=-1, keepdims=True)
    greedy = jnp.where(gains == best, 0.0, -jnp.inf)
    soft = log_priors + gains / _nonzero(config.kl_weight)
    return jax.nn.log_softmax(jnp.where(config.kl_weight > 0.0, soft, greedy))


def divergence(config: Config, log_priors: jax.Array, gains: jax.Array) -> jax.Array:
    """KL(pi || p) (...,) in nats; an impossible action of the prior counts 0."""
    log_policies = log_policy(config, log_priors, gains)
    inside = (log_policies > -jnp.inf) & (log_priors > -jnp.inf)
    gaps = jnp.where(inside, log_policies, 0.0) - jnp.where(inside, log_priors, 0.0)
    return jnp.sum(jnp.exp(log_policies) * gaps, axis=-1)


def soft_value(config: Config, log_priors: jax.Array, gains: jax.Array) -> jax.Array:
    """V (...,), and max D on the prior's support at c = 0."""
    exponents = log_priors + gains / _nonzero(config.kl_weight)
    # The second term is 0 except for rounding: it makes the value exactly 0 without rewards.
    normalisers = jax.nn.logsumexp(exponents, axis=-1) - jax.nn.logsumexp(log_priors, axis=-1)
    greatest = jnp.max(jnp.where(log_priors > -jnp.inf, gains, -jnp.inf), axis=-1)
    return jnp.where(config.kl_weight > 0.0, config.kl_weight * normalisers, greatest)


def backed_up_value(
    config: Config, log_priors: jax.Array, gains: jax.Array, online_gains: jax.Array
) -> jax.Array:
    """Values (...,) of states, of the target's D and the online network's."""
    soft = soft_value(config, log_priors, gains)
    if config.form == "psi":
        return soft
    offset = _scaled(config, log_priors)
    return chosen(config, "backup")(offset + gains, offset + online_gains, soft)


def penalty(
    config: Config, log_priors: jax.Array, gains: jax.Array, actions: jax.Array
) -> jax.Array:
    """What form q adds to the reward of actions (...,), and to turn Q into D."""
    if config.kl_calc == "sample":  # c (log p - log pi) less c log p
        soft = soft_value(config, log_priors, gains)
        # c log pi = c log p + D - V holds also near c = 0, where log pi has no bound.
        scaled = _scaled(config, ops.of_actions(log_priors, actions))
        added = soft - scaled - ops.of_actions(gains, actions)
    else:
        apart = divergence(config, log_priors, gains)
        added = -config.kl_weight * (apart + ops.of_actions(log_priors, actions))
    return jnp.where(config.kl_weight > 0.0, added, 0.0)


BACKUPS: dict[str, BackupFn] = {
    "max": lambda values, online, soft: jnp.max(values, axis=-1),
    "double": lambda values, online, soft: ops.of_actions(values, jnp.argmax(online, axis=-1)),
    "logsumexp": lambda values, online, soft: soft,
}


def _scaled(config: Config, log_priors: jax.Array) -> jax.Array:
    """C log p, also where log p is minus infinity and c is 0."""
    return jnp.where(config.kl_weight > 0.0, _nonzero(config.kl_weight) * log_priors, 0.0)


def _nonzero(weight: jax.Array | float) -> jax.Array:
    return jnp.where(weight > 0.0, weight, 1.0)
