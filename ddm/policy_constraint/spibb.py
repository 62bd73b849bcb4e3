"""SPIBB: safe policy improvement with baseline bootstrapping (Laroche et al. 2019).

    uncertain(s, a) = N(s, a) < N_wedge
    pi = argmax_pi E_pi[Q]  subject to, for every uncertain pair,
         pi(a | s)  = beta(a | s)     Pi_b   (algorithm 1; the default)
         pi(a | s) <= beta(a | s)     Pi_<=b (`bounded`)
    Q(s, a) <- mean over the logged rows of (s, a) of r + gamma (1 - termination) E_pi[Q(s', .)]

Where data is scarce the policy does what the baseline did; elsewhere it is greedy. With high
probability, given by N_wedge, Pi_b is not worse than the baseline. At N_wedge = 0 it is value
iteration in the empirical MDP, at infinity the baseline.

Three deviations: the baseline is the empirical policy of the log (the authors are given it, and
later estimate it: Simao et al. 2020); one sweep of the backup follows each improvement (they
evaluate each policy until convergence, which has the same fixed point); and pairs without data,
whose estimated reward and future are 0 in the authors' code, keep the initial value of 0.

Observations are one-hot rows of S features, those of a Discrete(S) space; others are refused.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from ddm import ops
from ddm.ops import improvement, tables
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    leaf,
    static,
)


class Config(Configuration):
    """Hyper-parameters of SPIBB."""

    discount: float = leaf(0.99, "[0, 1]")  # gamma
    # N_wedge: pairs with fewer rows follow the baseline; authors: 5 to 100
    min_count: float = leaf(5.0, "[0, inf]")
    bounded: bool = static(False)  # Pi_<=b: uncertain actions may also be taken less often
    num_actions: int = static(0, "[0, inf)")  # size of the discrete action space; required


class State(struct.PyTreeNode):
    """Everything that training changes."""

    action_values: jax.Array  # (S, A)
    values: jax.Array  # (S,) of the improved policy
    policy: jax.Array  # (S, A) probabilities
    step: jax.Array  # () int32, sweeps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """All transitions."""
    return BatchSpec(
        fields=TRANSITION_FIELDS,
        whole_dataset=True,
        one_hot_observations=True,
        num_actions=config.num_actions,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Tables of zeros over the states that the observations have columns for.

    Raises:
      InputError: continuous actions, no `num_actions`, or observations that are not
        one-hot rows.
    """
    check_batch(batch, batch_spec(config), "spibb")
    tables.check_table_batch("spibb", batch.observations, batch.actions, config.num_actions)
    num_states, num_actions = batch.observations.shape[1], config.num_actions
    return State(
        action_values=jnp.zeros((num_states, num_actions), jnp.float32),
        values=jnp.zeros((num_states,), jnp.float32),
        policy=jnp.full((num_states, num_actions), 1.0 / num_actions, jnp.float32),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One sweep: backup of every logged pair, then improvement of every state.

    Metrics: ``residual``, the largest change of an action value; ``q_value``, mean Q(s, a) of
    the logged pairs; ``uncertain``, the share of logged rows whose pair follows the baseline.
    """
    check_batch(batch, batch_spec(config), "spibb")
    num_states, num_actions = state.action_values.shape
    tables.check_table_batch("spibb", batch.observations, batch.actions, num_actions, num_states)
    states = tables.state_ids(batch.observations)
    next_values = state.values[tables.state_ids(batch.next_observations)]
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)
    action_values = tables.pair_means(states, batch.actions, targets, state.action_values)
    counts = tables.pair_counts(states, batch.actions, num_states, num_actions)
    uncertain = counts < config.min_count
    improve = improvement.spibb_bounded if config.bounded else improvement.spibb
    improved = improve(action_values, tables.empirical_policy(counts), uncertain)
    metrics = {
        "residual": jnp.max(jnp.abs(action_values - state.action_values)),
        "q_value": jnp.mean(action_values[states, batch.actions]),
        "uncertain": jnp.mean(uncertain[states, batch.actions]),
    }
    state = state.replace(
        action_values=action_values,
        values=improved.values,
        policy=improved.policy,
        step=state.step + 1,
    )
    return state, metrics


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The likeliest action of the improved policy, or a sample from it."""
    del config
    return tables.choose(state.policy, observation, key, deterministic), policy_state


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-probability (B,) of actions; minus infinity for one that the policy excludes."""
    del config
    return jnp.log(state.policy[tables.state_ids(observations), actions])
