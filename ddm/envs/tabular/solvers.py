"""Exact quantities of a finite MDP, by iteration or by linear solves; jitted, vmappable.

The precision is that of the MDP's arrays: for more than six digits make the MDP under
``jax.enable_x64``. Policies are tables (S, A). Values, action values and visits of
terminal states are zero.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.core import Tracer

from ddm.envs.tabular.mdp import MDP, check_policy
from ddm.errors import InputError
from ddm.ops.improvement import Improvement, greedy


class Solution(struct.PyTreeNode):
    """A fixed point of improvement and backup."""

    values: jax.Array  # (S,)
    action_values: jax.Array  # (S, A)
    policy: jax.Array  # (S, A)
    iterations: jax.Array  # () int32
    residual: jax.Array  # () largest change of a value in the last iteration


def backup(mdp: MDP, values: jax.Array) -> jax.Array:
    """Action values (S, A): r + discount * E[values(s')]."""
    values = jnp.where(mdp.terminal, 0.0, values)
    action_values = mdp.expected_rewards() + mdp.discount * mdp.expected_next(values)
    return jnp.where(mdp.terminal[:, None], 0.0, action_values)


def value_iteration(
    mdp: MDP,
    improve: Improvement = greedy,
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 100_000,
    known: jax.Array | None = None,
    unknown_value: jax.Array | float = 0.0,
) -> Solution:
    """Iterates V <- improve(backup(V)) from zero to its fixed point.

    Args:
      mdp: the process.
      improve: action values -> policy and values; one of `ddm.ops.improvement`, with its other
        arguments bound by `jax.tree_util.Partial`, which keeps them traceable. The default gives
        the optimal policy, `soft_greedy` the maximum-entropy one, the others the fixed points of
        constrained learners.
      tolerance: largest error of a value that is left, by the contraction's bound: the last change
        times discount / (1 - discount). At a discount of one there is no such bound, and the last
        change itself is compared. The iteration also stops at changes below four ulps of the
        largest value.
      max_iterations: stop here in any case; `residual` shows how far it came.
      known: (S, A) bool, pairs whose action value is backed up; None for all.
      unknown_value: the value of the other pairs: a learner's initialisation.

    Returns:
      The fixed point.
    """
    known = jnp.ones((mdp.num_states, mdp.num_actions), bool) if known is None else known
    improve = jax.tree_util.Partial(improve)
    return _value_iteration(mdp, improve, tolerance, max_iterations, known, unknown_value)


@jax.jit
def _value_iteration(mdp, improve, tolerance, max_iterations, known, unknown_value):
    rewards = mdp.expected_rewards()

    def action_values_of(values):
        following = mdp.expected_next(jnp.where(mdp.terminal, 0.0, values))
        action_values = jnp.where(known, rewards + mdp.discount * following, unknown_value)
        return jnp.where(mdp.terminal[:, None], 0.0, action_values)

    def values_of(action_values):
        return jnp.where(mdp.terminal, 0.0, improve(action_values).values)

    # |V_k - V*| <= discount / (1 - discount) |V_k - V_{k-1}|: every improvement is a non-expansion.
    left = jnp.where(mdp.discount < 1.0, 1.0 - mdp.discount, mdp.discount)

    def unfinished(carry):
        values, iterations, residual = carry
        smallest = 4 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
        wrong = (mdp.discount * residual > tolerance * left) & (residual > smallest)
        return (wrong | (iterations == 0)) & (iterations < max_iterations)

    def iterate(carry):
        values, iterations, _ = carry
        new = values_of(action_values_of(values))
        return new, iterations + 1, jnp.max(jnp.abs(new - values))

    start = (
        jnp.zeros(mdp.num_states, rewards.dtype),
        jnp.int32(0),
        jnp.asarray(jnp.inf, rewards.dtype),
    )
    values, iterations, residual = jax.lax.while_loop(unfinished, iterate, start)
    action_values = action_values_of(values)
    return Solution(
        values=values,
        action_values=action_values,
        policy=improve(action_values).policy,
        iterations=iterations,
        residual=residual,
    )


def policy_iteration(mdp: MDP, *, max_iterations: int = 1_000) -> Solution:
    """Alternates exact evaluation and greedy improvement until no action is better.

    An action replaces the policy's only if it is better by more than rounding, so that ties cannot
    cycle. The first policy moves towards terminal states where possible: at a discount of one only
    policies that end have values, and the solution is the best of them.

    Raises:
      InputError: the discount is one, and some states cannot end, or a policy earns more and more
        without end. Under `jit` and `vmap`, such values are not finite instead.
    """
    solution = _policy_iteration(mdp, max_iterations)
    if not isinstance(solution.values, Tracer):
        _check_solved(mdp, solution)
    return solution


@functools.partial(jax.jit, static_argnums=1)
def _policy_iteration(mdp, max_iterations):
    states = jnp.arange(mdp.num_states)

    def unfinished(carry):
        _, _, iterations, changed = carry
        return changed & (iterations < max_iterations)

    def iterate(carry):
        actions, _, iterations, _ = carry
        policy = jax.nn.one_hot(actions, mdp.num_actions, dtype=mdp.initial.dtype)
        values, action_values = evaluate_policy(mdp, policy)
        margin = 64 * jnp.finfo(values.dtype).eps * (1.0 + jnp.max(jnp.abs(action_values)))
        best = jnp.argmax(action_values, axis=-1)
        better = action_values[states, best] > action_values[states, actions] + margin
        return jnp.where(better, best, actions), values, iterations + 1, jnp.any(better)

    start = _ending_policy(mdp)[0], jnp.zeros_like(mdp.initial), jnp.int32(0), jnp.asarray(True)
    actions, values, iterations, _ = jax.lax.while_loop(unfinished, iterate, start)
    action_values = backup(mdp, values)
    return Solution(
        values=values,
        action_values=action_values,
        policy=jax.nn.one_hot(actions, mdp.num_actions, dtype=values.dtype),
        iterations=iterations,
        residual=jnp.max(jnp.abs(jnp.where(mdp.terminal, 0.0, action_values.max(-1)) - values)),
    )


def _check_solved(mdp: MDP, solution: Solution) -> None:
    """Refuses values of policies that never end, at a discount of one."""
    if np.isfinite(np.asarray(solution.values)).all():
        return
    endless = np.flatnonzero(~np.asarray(_ending_policy(mdp, solution.policy > 0)[1]))
    if endless.size:
        raise InputError(
            f"policy_iteration: at a discount of {float(mdp.discount):g} there are no finite "
            f"values, because state {endless[0]} cannot end or earns more the longer it does not: "
            "take a discount below one, or mark the states where the process ends as terminal"
        )


@jax.jit
def evaluate_policy(mdp: MDP, policy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Values (S,) and action values (S, A) of a policy, by one linear solve.

    At a discount of one every state must end sooner or later; else all values are NaN.
    """
    policy = check_policy(mdp, policy)
    rewards = jnp.sum(policy * mdp.expected_rewards(), axis=-1)
    rewards = jnp.where(mdp.terminal, 0.0, rewards)
    identity = jnp.eye(mdp.num_states, dtype=rewards.dtype)
    values = jnp.linalg.solve(identity - mdp.discount * _live_chain(mdp, policy), rewards)
    values = _where_it_ends(mdp, policy, mdp.discount, values)
    return values, backup(mdp, values)


@functools.partial(jax.jit, static_argnames="horizon")
def expected_return(mdp: MDP, policy: jax.Array, horizon: int | None = None) -> jax.Array:
    """Expected discounted return from the initial distribution; differentiable in the policy.

    Args:
      mdp: the process.
      policy: (S, A).
      horizon: steps after which an episode is cut; None for never.

    Returns:
      Scalar.
    """
    if horizon is None:
        return mdp.initial @ evaluate_policy(mdp, policy)[0]
    visits = expected_visits(mdp, policy, horizon=horizon)
    return jnp.sum(visits * mdp.expected_rewards())


@functools.partial(jax.jit, static_argnames="horizon")
def expected_visits(
    mdp: MDP,
    policy: jax.Array,
    *,
    discount: jax.Array | float | None = None,
    horizon: int | None = None,
) -> jax.Array:
    """Sum over time of discount^t P(s_t = s, a_t = a), shape (S, A).

    Args:
      mdp: the process.
      policy: (S, A).
      discount: None for the process's own; 1 counts visits.
      horizon: steps that are counted; None for all. At a discount of one every state must end
        then, as in :func:`evaluate_policy`.
    """
    policy = check_policy(mdp, policy)
    discount = mdp.discount if discount is None else discount
    chain = discount * _live_chain(mdp, policy).T
    start = jnp.where(mdp.terminal, 0.0, mdp.initial)
    if horizon is None:
        identity = jnp.eye(mdp.num_states, dtype=chain.dtype)
        states = jnp.linalg.solve(identity - chain, start)
        states = _where_it_ends(mdp, policy, discount, states)
    else:

        def step(distribution, _):
            return chain @ distribution, distribution

        states = jnp.sum(jax.lax.scan(step, start, length=horizon)[1], axis=0)
    return states[:, None] * policy


def occupancy(mdp: MDP, policy: jax.Array) -> jax.Array:
    """Discounted state-action occupancy (S, A): (1 - discount) times the discounted visits.

    It sums to one where no terminal state is entered; its inner product with the rewards is
    (1 - discount) times the return.
    """
    return (1.0 - mdp.discount) * expected_visits(mdp, policy)


@jax.jit
def reach_probability(mdp: MDP, policy: jax.Array, targets: jax.Array) -> jax.Array:
    """Probability (S,) of ever entering one of `targets` (S,) bool.

    From every state the policy must reach a target or end. Otherwise the linear system is singular:
    use :func:`reach_within`.
    """
    policy = check_policy(mdp, policy)
    chain = mdp.chain(policy)
    stopped = mdp.terminal | targets
    inner = jnp.where(stopped[:, None] | stopped[None, :], 0.0, chain)
    entering = jnp.where(stopped, 0.0, chain @ targets.astype(chain.dtype))
    reached = jnp.linalg.solve(jnp.eye(mdp.num_states, dtype=chain.dtype) - inner, entering)
    return jnp.where(targets, 1.0, reached)


@functools.partial(jax.jit, static_argnames="horizon")
def reach_within(mdp: MDP, policy: jax.Array, targets: jax.Array, horizon: int) -> jax.Array:
    """Probability (S,) of entering one of `targets` (S,) bool within `horizon` steps."""
    policy = check_policy(mdp, policy)
    chain = jnp.where(mdp.terminal[:, None], 0.0, mdp.chain(policy))

    def step(reached, _):
        return jnp.where(targets, 1.0, chain @ reached), None

    return jax.lax.scan(step, targets.astype(chain.dtype), length=horizon)[0]


def _live_chain(mdp: MDP, policy: jax.Array) -> jax.Array:
    """(S, S) transitions between states that are not terminal."""
    dead = mdp.terminal
    return jnp.where(dead[:, None] | dead[None, :], 0.0, mdp.chain(policy))


def _where_it_ends(
    mdp: MDP, policy: jax.Array, discount: jax.Array | float, solved: jax.Array
) -> jax.Array:
    """The result of a linear system; NaN if it has no solution, which the solver may not report."""
    mdp, policy = jax.lax.stop_gradient((mdp, policy))
    solvable = jax.lax.cond(
        jnp.asarray(discount) < 1.0,
        lambda: jnp.asarray(True),
        lambda: jnp.all(_ending_policy(mdp, policy > 0.0)[1]),
    )
    return jnp.where(solvable, solved, jnp.nan)


def _ending_policy(mdp: MDP, allowed: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """Actions (S,) that lead each state nearer to a terminal one, and where this is possible (S,).

    If it is possible in every state, these actions end with probability one. So does a policy that
    takes all of the allowed actions.

    Args:
      mdp: the process.
      allowed: (S, A) bool, the actions that may be taken; None for all.
    """

    def extend(carry):
        found, ends, _ = carry
        chances = mdp.expected_next(ends.astype(mdp.initial.dtype))
        chances = chances if allowed is None else jnp.where(allowed, chances, 0.0)
        new = ~ends & (chances.max(axis=-1) > 0.0)
        found = jnp.where(new, jnp.argmax(chances, axis=-1).astype(found.dtype), found)
        return found, ends | new, jnp.any(new)

    first = jnp.zeros(mdp.num_states, jnp.argmax(mdp.initial).dtype)
    start = first, mdp.terminal, jnp.asarray(True)
    return jax.lax.while_loop(lambda carry: carry[-1], extend, start)[:2]
