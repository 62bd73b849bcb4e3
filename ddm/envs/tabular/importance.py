"""Exact moments of importance-sampling estimators over a finite MDP.

The return of a target policy is estimated from episodes of a behaviour policy. With the ratios
rho_t = pi(a_t | s_t) / beta(a_t | s_t) and the weight w = prod_t rho_t of an episode,

    IS   = w * sum_t discount^t r_t                      (the weighted return)
    PDIS = sum_t discount^t (prod_{k <= t} rho_k) r_t    (per decision; Precup et al. 2000)

give one random number per episode. Its spread grows with the horizon as fast as E_beta[rho^2]^H.
Its first two moments follow from a recursion over the steps to go. So one knows how many episodes
an estimate needs before drawing any.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import struct

from ddm.envs.tabular.mdp import MDP, SparseTabularMDP, check_policy
from ddm.errors import InputError


class ImportanceMoments(struct.PyTreeNode):
    """Moments of one episode's weight and estimates, all scalars.

    The means of the estimates equal `value`, and that of the weight equals one, unless the target
    takes actions that the behaviour never takes: then they differ, and the difference is the bias.
    """

    value: jax.Array  # E_pi[G]: the target's expected return
    return_square: jax.Array  # E_pi[G^2]: for sampling from the target itself
    weight_mean: jax.Array  # E_beta[w]
    weight_square: jax.Array  # E_beta[w^2]
    is_mean: jax.Array  # E_beta[w G]
    is_square: jax.Array  # E_beta[(w G)^2]
    pdis_mean: jax.Array  # E_beta[PDIS]
    pdis_square: jax.Array  # E_beta[PDIS^2]

    @property
    def weight_variance(self) -> jax.Array:
        """Variance of an episode's weight under the behaviour."""
        return self.weight_square - self.weight_mean**2

    @property
    def effective_sample_share(self) -> jax.Array:
        """E[w]^2 / E[w^2]: the effective sample size of many episodes, as a share of them.

        It is 1 / E[w^2] where the behaviour takes every action that the target takes.
        """
        return self.weight_mean**2 / self.weight_square

    @property
    def on_policy_deviation(self) -> jax.Array:
        """Standard deviation of the return of an episode of the target."""
        return _deviation(self.value, self.return_square)

    @property
    def is_deviation(self) -> jax.Array:
        """Standard deviation of IS from one episode of the behaviour."""
        return _deviation(self.is_mean, self.is_square)

    @property
    def pdis_deviation(self) -> jax.Array:
        """Standard deviation of PDIS from one episode of the behaviour."""
        return _deviation(self.pdis_mean, self.pdis_square)


def importance_moments(
    mdp: MDP, target: jax.Array, behavior: jax.Array, horizon: int
) -> ImportanceMoments:
    """Exact moments of IS and PDIS, by dynamic programming; jitted, vmappable over policies.

    With h steps to go, ratios squared and expectations under the behaviour,

        W_h(s) = E[rho^2 W_{h-1}(s')]
        M_h(s) = E[rho^2 (r W_{h-1} + discount M_{h-1})(s')]
        Z_h(s) = E[rho^2 (r^2 W_{h-1} + 2 discount r M_{h-1} + discount^2 Z_{h-1})(s')]
        D_h(s) = E[rho^2 (r^2 + 2 discount r Y_{h-1} + discount^2 D_{h-1})(s')]

    are the second moments of the weight, its product with the return, IS and PDIS, where Y is the
    mean of PDIS. A terminal state ends the product: after it ratios are one and rewards zero. If
    rewards depend on the next state, their squares are averaged, not their mean squared.

    Args:
      mdp: the process; rewards are a function of (state, action, next state).
      target: (S, A) policy whose return is estimated.
      behavior: (S, A) policy that draws the episodes.
      horizon: steps after which an episode is cut, at least 0.

    Returns:
      The moments.

    Raises:
      InputError: a policy of another shape, or a negative horizon.
    """
    target = check_policy(mdp, target, "target")
    behavior = check_policy(mdp, behavior, "behavior")
    if horizon < 0:
        raise InputError(f"horizon is {horizon}, expected at least 0")
    return _importance_moments(mdp, target, behavior, horizon)


@functools.partial(jax.jit, static_argnames="horizon")
def _importance_moments(mdp, target, behavior, horizon):
    ratios = jnp.where(behavior > 0.0, target / jnp.where(behavior > 0.0, behavior, 1.0), 0.0)
    once, twice = behavior * ratios, behavior * ratios**2  # twice is pi^2 / beta
    first = _moments_of_return(mdp, target, horizon)
    weighed = _moments_of_return(mdp, once, horizon)
    squared = _moments_of_return(mdp, twice, horizon)
    pdis_mean, pdis_square = _moments_per_decision(mdp, once, twice, horizon)
    return ImportanceMoments(
        value=mdp.initial @ first[1],
        return_square=mdp.initial @ first[2],
        weight_mean=mdp.initial @ weighed[0],
        weight_square=mdp.initial @ squared[0],
        is_mean=mdp.initial @ weighed[1],
        is_square=mdp.initial @ squared[2],
        pdis_mean=mdp.initial @ pdis_mean,
        pdis_square=mdp.initial @ pdis_square,
    )


def _moments_of_return(
    mdp: MDP, factors: jax.Array, horizon: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """E[w], E[w G] and E[w G^2], each (S,), for weights whose factors, times beta, are given."""

    def step(moments, _):
        weight, mean, square = moments
        discount = mdp.discount
        new_mean = _following(mdp, weight, 1) + discount * _following(mdp, mean)
        new_square = (
            _following(mdp, weight, 2)
            + 2.0 * discount * _following(mdp, mean, 1)
            + discount**2 * _following(mdp, square)
        )
        return (
            jnp.where(mdp.terminal, 1.0, jnp.sum(factors * _following(mdp, weight), axis=-1)),
            jnp.where(mdp.terminal, 0.0, jnp.sum(factors * new_mean, axis=-1)),
            jnp.where(mdp.terminal, 0.0, jnp.sum(factors * new_square, axis=-1)),
        ), None

    zero = jnp.zeros_like(factors[:, 0])
    return jax.lax.scan(step, (zero + 1.0, zero, zero), length=horizon)[0]


def _moments_per_decision(
    mdp: MDP, once: jax.Array, twice: jax.Array, horizon: int
) -> tuple[jax.Array, jax.Array]:
    """Mean and second moment (S,) of PDIS."""
    ones = jnp.ones_like(once[:, 0])

    def step(moments, _):
        mean, square = moments
        discount = mdp.discount
        new_mean = _following(mdp, ones, 1) + discount * _following(mdp, mean)
        new_square = (
            _following(mdp, ones, 2)
            + 2.0 * discount * _following(mdp, mean, 1)
            + discount**2 * _following(mdp, square)
        )
        return (
            jnp.where(mdp.terminal, 0.0, jnp.sum(once * new_mean, axis=-1)),
            jnp.where(mdp.terminal, 0.0, jnp.sum(twice * new_square, axis=-1)),
        ), None

    return jax.lax.scan(step, (0.0 * ones, 0.0 * ones), length=horizon)[0]


def _following(mdp: MDP, values: jax.Array, power: int = 0) -> jax.Array:
    """(S, A) mean of reward^power * values(next state)."""
    if power == 0:
        return mdp.expected_next(values)
    if isinstance(mdp, SparseTabularMDP):
        flow = mdp.probabilities * mdp.rewards**power
        return mdp.replace(probabilities=flow).expected_next(values)
    if mdp.rewards.shape[-1] == 1:  # without an (S, A, S) array of products
        return mdp.rewards[..., 0] ** power * mdp.expected_next(values)
    return mdp.replace(transitions=mdp.transitions * mdp.rewards**power).expected_next(values)


def _deviation(mean: jax.Array, square: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.maximum(square - mean**2, 0.0))
