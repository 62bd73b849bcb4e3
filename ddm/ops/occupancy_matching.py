"""Matching the occupancy of an expert: rewards and divergences from a discriminator's logit.

A discriminator tells the expert's pairs x (states, or states with actions or successors) from a
policy's own. At its optimum its logit is the log ratio of the two occupancies,

    h = log u,  u = rho_E / rho_pi,  sigmoid(h) = rho_E / (rho_E + rho_pi).

A policy that descends the divergence D_f = E_pi[f(u)] gets the reward r = u f'(u) - f(u), because
-r is the functional derivative of D_f with respect to rho_pi:

    name         f(u)                                  r(h), up to a constant
    reverse_kl   -log u                                h
    forward_kl   u log u                               exp(h)
    js           u log u - (1 + u) log((1 + u) / 2)    log(1 + exp(h))
    chi2         (u - 1)^2                             exp(2 h) - 1
    tv           |u - 1| / 2                           sign(h) / 2

The table of `REWARDS` also has the shapes that papers use: `gail`, -log(1 - D), and `gail_neg`,
log D (Ho & Ermon 2016, by task); `airl`, log D - log(1 - D) (Fu et al. 2018); `fairl`, -h exp(h)
(Ghasemipour et al. 2019), which holds u fixed in E_E[log u]. The value of a Wasserstein critic is
its reward as it stands (`wasserstein`).

`gail` is never below 0 and `gail_neg` never above: where episodes can end they pay for staying, or
for leaving, whatever the expert does. See :mod:`ddm.imitation.parts.absorbing`.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

# (logits (...,), bound of their size where they are exponents) -> rewards (...,)
RewardFn = Callable[[jax.Array, jax.Array | float], jax.Array]
# (logits of the expert's rows, of own ones) -> the losses of both sides, elementwise
LossesFn = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def gail(logits: jax.Array, bound: jax.Array | float = jnp.inf) -> jax.Array:
    """-log(1 - D), at least 0: descends the Jensen-Shannon divergence."""
    del bound
    return jax.nn.softplus(logits)


def gail_neg(logits: jax.Array, bound: jax.Array | float = jnp.inf) -> jax.Array:
    """Log D, at most 0: the generator loss that does not saturate."""
    del bound
    return -jax.nn.softplus(-logits)


def airl(logits: jax.Array, bound: jax.Array | float = jnp.inf) -> jax.Array:
    """Log D - log(1 - D): descends the reverse KL divergence."""
    del bound
    return logits


def fairl(logits: jax.Array, bound: jax.Array | float = jnp.inf) -> jax.Array:
    """-h exp(h): descends the forward KL divergence with the ratio held fixed."""
    bounded = jnp.clip(logits, -bound, bound)
    return -bounded * jnp.exp(bounded)


def forward_kl(logits: jax.Array, bound: jax.Array | float = jnp.inf) -> jax.Array:
    """The ratio u itself."""
    return jnp.exp(jnp.minimum(logits, bound))


def chi2(logits: jax.Array, bound: jax.Array | float = jnp.inf) -> jax.Array:
    """u^2 - 1, of Pearson's divergence."""
    return jnp.expm1(2.0 * jnp.minimum(logits, bound))


def tv(logits: jax.Array, bound: jax.Array | float = jnp.inf) -> jax.Array:
    """A half where the expert is seen more often, minus a half where less."""
    del bound
    return 0.5 * jnp.sign(logits)


REWARDS: dict[str, RewardFn] = {
    "gail": gail,
    "gail_neg": gail_neg,
    "airl": airl,
    "fairl": fairl,
    "reverse_kl": airl,
    "forward_kl": forward_kl,
    "js": gail,
    "chi2": chi2,
    "tv": tv,
    "wasserstein": airl,
}

# Generators f(u), by the names of their rewards.
GENERATORS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "reverse_kl": lambda u: -jnp.log(u),
    "forward_kl": lambda u: u * jnp.log(u),
    "js": lambda u: u * jnp.log(u) - (1.0 + u) * jnp.log(0.5 * (1.0 + u)),
    "chi2": lambda u: jnp.square(u - 1.0),
    "tv": lambda u: 0.5 * jnp.abs(u - 1.0),
}


def f_divergence(name: str, expert: jax.Array, own: jax.Array) -> jax.Array:
    """D_f = sum own f(expert / own) of two tables of positive numbers.

    Args:
      name: one of `GENERATORS`.
      expert: (...) occupancy of the expert.
      own: (...) occupancy of the policy.

    Returns:
      Scalar. `js` is twice the Jensen-Shannon divergence.
    """
    chex.assert_equal_shape([expert, own])
    return jnp.sum(own * GENERATORS[name](expert / own))


def optimal_logits(expert: jax.Array, own: jax.Array) -> jax.Array:
    """Log expert / own, the best discriminator's logits; 0 where neither has mass."""
    chex.assert_equal_shape([expert, own])
    both = (expert > 0.0) | (own > 0.0)
    return jnp.where(both, jnp.log(expert) - jnp.log(jnp.where(both, own, 1.0)), 0.0)


def logistic_loss(expert: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
    """-log D at the expert's logits (...,) and -log(1 - D) at own ones (...,), elementwise."""
    return jax.nn.softplus(-expert), jax.nn.softplus(own)


def critic_loss(expert: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Minus a critic's value at the expert's pairs, and its value at own ones, elementwise.

    The sum of their means is minus the 1-Wasserstein distance, for the best critic with slopes up
    to 1 (Arjovsky et al. 2017).
    """
    return -expert, own


LOSSES: dict[str, LossesFn] = {
    "logistic": logistic_loss,
    "wasserstein": critic_loss,
}


def jensen_shannon(logistic_loss: jax.Array) -> jax.Array:
    """The Jensen-Shannon divergence that a logistic loss (...,) shows, at most log 2.

    max_D E_E log D + E_pi log(1 - D) = 2 JSD - log 4. So it is a lower bound for any discriminator
    (up to sampling), met by the best one, and below 0 for one that is worse than none.

    Args:
      logistic_loss: the mean loss of the expert's pairs plus that of own ones.
    """
    return jnp.log(2.0) - 0.5 * logistic_loss


def bernoulli_entropy(logits: jax.Array) -> jax.Array:
    """Entropy (...,) of D = sigmoid(h), in nats: at most log 2, where D is a half."""
    return jax.nn.softplus(logits) - jax.nn.sigmoid(logits) * logits
