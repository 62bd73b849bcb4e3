"""Exact returns of learned policies in finite MDPs: make the policy a table, solve one system."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ddm.envs.tabular import MDP, expected_return
from ddm.errors import InputError
from ddm.evaluation import policy as policy_lib
from ddm.evaluation.matching import check_actions
from ddm.evaluation.policy import Policy
from ddm.types import Discrete

_TOLERANCE = 1e-3  # of the sum of a row of probabilities


def policy_table(
    policy: Policy,
    features: jax.Array,
    num_actions: int,
    *,
    deterministic: bool = True,
    lanes: bool = False,
) -> jax.Array:
    """What a policy does in each state of a finite MDP.

    Args:
      policy: a policy without memory over discrete actions; with `lanes`, its config and state
        have a leading axis L.
      features: (S, F) observation of each state, in the environment's units.
      num_actions: A.
      deterministic: the policy's mode; False for its probabilities, which needs its algorithm to
        have `log_prob(config, state, observations, actions)`.
      lanes: whether the policy has the leading axis.

    Returns:
      (S, A) probabilities, or (L, S, A); one-hot rows where `deterministic`.

    Raises:
      InputError: the policy has memory, continuous actions or another number of actions, or no
        `log_prob` where one is needed.
    """
    features = jnp.asarray(features)
    name = _name(policy)
    if not deterministic and not hasattr(policy.algorithm, "log_prob"):
        raise InputError(
            f"{name} has no log_prob, so its probabilities are unknown: use deterministic=True"
        )
    _check_kind(policy.lane(0) if lanes else policy, features, num_actions, name)
    policy = policy if lanes else policy_lib.with_lane_axis(policy)
    table = _tables(policy, features, num_actions, deterministic)
    if not isinstance(table, Tracer):
        error = np.abs(np.sum(table, axis=-1, dtype=float) - 1.0).max()
        if not error <= _TOLERANCE:
            raise InputError(
                f"{name}: the probabilities of {num_actions} actions miss a sum of one by "
                f"{error:.3g}; does the policy have another number of actions?"
            )
    return table if lanes else table[0]


def exact_return(
    policy: Policy,
    mdp: MDP,
    features: jax.Array | None = None,
    *,
    deterministic: bool = True,
    horizon: int | None = None,
    lanes: bool = False,
) -> jax.Array:
    """Expected discounted return of a policy from the MDP's initial distribution, without sampling.

    Args:
      policy: as in :func:`policy_table`.
      mdp: the process; its discount is used for the return.
      features: (S, F) observation of each state; None for one-hot, as `TabularEnvironment` has it.
      deterministic: evaluate the policy's mode instead of its probabilities.
      horizon: steps after which an episode is cut; None for never.
      lanes: whether the policy has a leading axis of lanes.

    Returns:
      Scalar, or (L,) with `lanes`.

    Raises:
      InputError: see :func:`policy_table`.
    """
    features = jnp.eye(mdp.num_states, dtype=jnp.float32) if features is None else features
    table = policy_table(
        policy, features, mdp.num_actions, deterministic=deterministic, lanes=lanes
    )
    table = table.astype(mdp.initial.dtype)
    evaluate = functools.partial(expected_return, mdp, horizon=horizon)
    return jax.vmap(evaluate)(table) if lanes else evaluate(table)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _tables(policy, features, num_actions, deterministic):
    """(L, S, A)."""
    make = _modes if deterministic else _probabilities
    return policy_lib.map_lanes(lambda lane: make(lane, features, num_actions), policy)


def _modes(policy: Policy, features: jax.Array, num_actions: int) -> jax.Array:
    key = jax.random.key(0)  # the mode does not depend on it
    actions = jax.vmap(lambda row: policy(row, key, deterministic=True)[0])(features)
    return jax.nn.one_hot(actions, num_actions, dtype=jnp.float32)


def _probabilities(policy: Policy, features: jax.Array, num_actions: int) -> jax.Array:
    num_states = features.shape[0]
    observations = jnp.repeat(features, num_actions, axis=0)
    actions = jnp.tile(jnp.arange(num_actions, dtype=jnp.int32), num_states)
    if policy.normalization is not None:
        observations = policy.normalization.normalize_observations(observations)
        actions = policy.normalization.normalize_actions(actions)
    log_probs = policy.algorithm.log_prob(policy.config, policy.state, observations, actions)
    return jnp.exp(log_probs).reshape(num_states, num_actions)


def _check_kind(policy: Policy, features: jax.Array, num_actions: int, name: str) -> None:
    """Refuses a policy that cannot be a table, before anything is computed."""
    if jax.tree.leaves(policy.initial_state()):
        raise InputError(f"{name} has memory, so it is no table of states and actions")
    if isinstance(policy.action_space, Discrete):
        check_actions(policy, "the table", Discrete(num_actions))
    action, _ = jax.eval_shape(
        lambda policy, row: policy(row, jax.random.key(0)), policy, features[0]
    )
    if action.shape or not jnp.issubdtype(action.dtype, jnp.integer):
        raise InputError(
            f"{name} returns actions of {action.dtype} and shape {action.shape}, "
            "expected one index, as for discrete actions"
        )


def _name(policy: Policy) -> str:
    return getattr(policy.algorithm, "__name__", str(policy.algorithm)).rpartition(".")[2]
