"""Policy improvement on tables of action values: greedy, soft, and held near a behaviour policy.

Each operator maps action values (..., A) to an improved policy and the state values that a backup
should use. All work elementwise on the leading axes, so they are used both by exact solvers of an
MDP and by updates from samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

_BISECTIONS = 60  # halvings of a bracket in log space: past the resolution of float64


class Improved(NamedTuple):
    """What an improvement step returns."""

    policy: jax.Array  # (..., A) probabilities
    values: jax.Array  # (...,) state values for the next backup


Improvement = Callable[[jax.Array], Improved]


def greedy(action_values: jax.Array) -> Improved:
    """The first maximising action; V = max Q."""
    return _among(action_values, jnp.ones_like(action_values))


def epsilon_greedy(action_values: jax.Array, epsilon: jax.Array | float) -> Improved:
    """Greedy, with a share epsilon spread over all actions; V is the mean of Q under it."""
    uniform = 1.0 / action_values.shape[-1]
    policy = (1.0 - epsilon) * greedy(action_values).policy + epsilon * uniform
    return Improved(policy, _expectation(policy, action_values))


def soft_greedy(action_values: jax.Array, temperature: jax.Array | float) -> Improved:
    """Maximum entropy: pi ~ exp(Q / T) and V = T log sum exp(Q / T) at temperature T."""
    return kl_penalty(action_values, jnp.ones_like(action_values), temperature)


def kl_penalty(
    action_values: jax.Array, behavior: jax.Array, weight: jax.Array | float
) -> Improved:
    """max_pi E_pi[Q] - weight * KL(pi || behavior), in closed form.

    pi ~ behavior * exp(Q / weight) and V = weight * log sum behavior * exp(Q / weight). Where the
    behaviour has no mass the policy has none.

    Args:
      action_values: (..., A).
      behavior: (..., A), non-negative; its rows need not sum to one (see :func:`soft_greedy`).
      weight: scalar above 0.
    """
    chex.assert_equal_shape([action_values, behavior])
    exponents = action_values / weight + jnp.log(behavior)
    return Improved(
        jax.nn.softmax(exponents, axis=-1), weight * jax.nn.logsumexp(exponents, axis=-1)
    )


def support(
    action_values: jax.Array, behavior: jax.Array, threshold: jax.Array | float = 0.0
) -> Improved:
    """Greedy among the actions that the behaviour takes with more than `threshold`.

    Ties go to the action that the behaviour prefers. Some action must pass the threshold.
    """
    chex.assert_equal_shape([action_values, behavior])
    return _among(action_values, jnp.where(behavior > threshold, behavior, 0.0))


def kl_constraint(
    action_values: jax.Array, behavior: jax.Array, epsilon: jax.Array | float
) -> Improved:
    """max_pi E_pi[Q] subject to KL(pi || behavior) <= epsilon in every state.

    pi ~ behavior * exp(Q / eta), with eta by bisection; it is greedy inside the support where the
    greedy policy satisfies the constraint. An action without behaviour mass would make the
    divergence infinite.
    """
    chex.assert_equal_shape([action_values, behavior])
    inside = behavior > 0.0
    best = jnp.max(jnp.where(inside, action_values, -jnp.inf), axis=-1, keepdims=True)
    gaps = jnp.where(inside, best - action_values, jnp.inf)
    # The nearest of all greedy policies: the behaviour, conditioned on optimal actions.
    optimal_mass = jnp.sum(jnp.where(gaps <= 0.0, behavior, 0.0), axis=-1, keepdims=True)
    nearest = jnp.where(gaps <= 0.0, behavior, 0.0) / optimal_mass
    spread = jnp.max(jnp.where(inside, gaps, 0.0), axis=-1, keepdims=True)
    scale = jnp.where(spread > 0.0, spread, 1.0)

    def tilted(log_eta: jax.Array) -> jax.Array:
        exponents = jnp.where(inside, -gaps / (scale * jnp.exp(log_eta)), -jnp.inf)
        return jax.nn.softmax(exponents + jnp.log(behavior), axis=-1)

    def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        near = kl_divergence(tilted(middle), behavior)[..., None] <= epsilon
        return jnp.where(near, low, middle), jnp.where(near, middle, high)

    ends = jnp.full_like(spread, -15.0), jnp.full_like(spread, 15.0)
    _, log_eta = jax.lax.fori_loop(0, _BISECTIONS, halve, ends)
    policy = jnp.where(-jnp.log(optimal_mass) <= epsilon, nearest, tilted(log_eta))
    return Improved(policy, _expectation(policy, action_values))


def total_variation(
    action_values: jax.Array, behavior: jax.Array, epsilon: jax.Array | float
) -> Improved:
    """max_pi E_pi[Q] subject to half the l1 distance to the behaviour <= epsilon.

    Mass epsilon moves from the worst actions to the best one, whether or not the behaviour ever
    takes that: the divergence is finite off the support. Ties stay with the behaviour.
    """
    chex.assert_equal_shape([action_values, behavior])
    is_best = action_values >= jnp.max(action_values, axis=-1, keepdims=True)
    removable = jnp.where(is_best, 0.0, behavior)
    removed = _fill(removable, action_values, jnp.broadcast_to(epsilon, removable.shape[:-1]))
    moved = jnp.sum(removed, axis=-1, keepdims=True)
    policy = behavior - removed + moved * _first_of(jnp.where(is_best, 1.0 + behavior, 0.0))
    return Improved(policy, _expectation(policy, action_values))


def spibb(action_values: jax.Array, behavior: jax.Array, uncertain: jax.Array) -> Improved:
    """Pi_b-SPIBB (Laroche et al. 2019, algorithm 1): the behaviour wherever data is scarce.

    Args:
      action_values: (..., A).
      behavior: (..., A) baseline policy.
      uncertain: (..., A) bool, the pairs with too few observations; the policy takes them exactly
        as often as the behaviour, and puts the rest on the best of the other actions.
    """
    chex.assert_equal_shape([action_values, behavior, uncertain])
    kept = jnp.where(uncertain, behavior, 0.0)
    free = 1.0 - jnp.sum(kept, axis=-1, keepdims=True)
    best = _among(action_values, (~uncertain).astype(action_values.dtype)).policy
    # Where every pair is uncertain the free mass is 0, except for rounding.
    policy = jnp.where(jnp.all(uncertain, axis=-1, keepdims=True), behavior, kept + free * best)
    return Improved(policy, _expectation(policy, action_values))


def spibb_bounded(action_values: jax.Array, behavior: jax.Array, uncertain: jax.Array) -> Improved:
    """Pi_<=b-SPIBB: uncertain actions at most as often as the behaviour takes them.

    The mass fills the actions from the best down, each up to its bound: the behaviour's
    probability where `uncertain`, one elsewhere.
    """
    chex.assert_equal_shape([action_values, behavior, uncertain])
    bounds = jnp.where(uncertain, behavior, 1.0)
    policy = _fill(bounds, -action_values, jnp.ones(bounds.shape[:-1], bounds.dtype))
    return Improved(policy, _expectation(policy, action_values))


def expectile(action_values: jax.Array, behavior: jax.Array, level: jax.Array | float) -> Improved:
    """The behaviour, valued by an expectile of Q under it (IQL; Kostrikov et al. 2021, eq. 5).

    The expectile is the best (above 0.5; the worst, below) of all means that weigh the actions
    above some threshold by `level` and the others by 1 - level.
    """
    chex.assert_equal_shape([action_values, behavior])
    above = action_values[..., :, None] > action_values[..., None, :]  # [action, threshold]
    weights = jnp.where(above, level, 1.0 - level) * behavior[..., :, None]
    means = jnp.sum(weights * action_values[..., :, None], axis=-2) / jnp.sum(weights, axis=-2)
    values = jnp.where(level >= 0.5, jnp.max(means, axis=-1), jnp.min(means, axis=-1))
    return Improved(behavior, values)


def advantage_weighted(
    action_values: jax.Array,
    values: jax.Array,
    behavior: jax.Array,
    inverse_temperature: jax.Array | float,
    maximum: jax.Array | float = 100.0,
) -> jax.Array:
    """Policy (..., A) ~ behavior * min(exp(inverse_temperature * (Q - V)), maximum)."""
    chex.assert_equal_shape([action_values, behavior])
    advantages = action_values - values[..., None]
    weights = behavior * jnp.exp(jnp.minimum(inverse_temperature * advantages, jnp.log(maximum)))
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def kl_divergence(policy: jax.Array, behavior: jax.Array) -> jax.Array:
    """KL(policy || behavior) (...,) of tables (..., A); infinite where the support is left."""
    chex.assert_equal_shape([policy, behavior])
    log_ratio = jnp.log(jnp.where(policy > 0.0, policy, 1.0)) - jnp.log(
        jnp.where(policy > 0.0, behavior, 1.0)
    )
    return jnp.sum(policy * log_ratio, axis=-1)


def _expectation(policy: jax.Array, action_values: jax.Array) -> jax.Array:
    # Infinite values of impossible actions must not count.
    return jnp.sum(jnp.where(policy > 0.0, policy * action_values, 0.0), axis=-1)


def _among(action_values: jax.Array, preference: jax.Array) -> Improved:
    """Greedy among actions of positive preference, ties to the most preferred."""
    allowed = jnp.where(preference > 0.0, action_values, -jnp.inf)
    values = jnp.max(allowed, axis=-1)
    return Improved(_first_of(jnp.where(allowed >= values[..., None], preference, 0.0)), values)


def _first_of(preference: jax.Array) -> jax.Array:
    """One-hot of the first largest entry."""
    return jax.nn.one_hot(
        jnp.argmax(preference, axis=-1), preference.shape[-1], dtype=preference.dtype
    )


def _fill(bounds: jax.Array, costs: jax.Array, mass: jax.Array) -> jax.Array:
    """Spreads `mass` (...,) over entries bounded by `bounds` (..., A), cheapest first."""
    order = jnp.argsort(costs, axis=-1)
    sorted_bounds = jnp.take_along_axis(bounds, order, axis=-1)
    before = jnp.cumsum(sorted_bounds, axis=-1) - sorted_bounds
    taken = jnp.clip(mass[..., None] - before, 0.0, sorted_bounds)
    return jnp.take_along_axis(taken, jnp.argsort(order, axis=-1), axis=-1)
