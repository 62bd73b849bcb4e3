"""Behaviour cloning with a table: maximum likelihood in closed form.

    pi(a | s) = (N(s, a) + c) / (N(s) + c A)

with the counts N of the whole log and a pseudo-count c (0 for maximum likelihood, 1 for Laplace's
rule; any c is the mean under a symmetric Dirichlet prior). A state that was never visited gets the
uniform policy. One update is the whole training.

Observations are one-hot rows of S features, those of a Discrete(S) space; others are refused.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from ddm.ops import tables
from ddm.types import (
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
    """Hyper-parameters of tabular behaviour cloning."""

    # imagined visits of every pair; 0: maximum likelihood
    pseudo_count: float = leaf(0.0, "[0, inf)")
    num_actions: int = static(0, "[0, inf)")  # size of the discrete action space; required


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: jax.Array  # (S, A) probabilities
    step: jax.Array  # () int32, updates done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Observations and actions of the whole log."""
    return BatchSpec(
        fields=("observations", "actions"),
        whole_dataset=True,
        one_hot_observations=True,
        num_actions=config.num_actions,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """The uniform policy over the states that the observations have columns for.

    Raises:
      InputError: continuous actions, no `num_actions`, or observations that are not
        one-hot rows.
    """
    check_batch(batch, batch_spec(config), "tabular_bc")
    tables.check_table_batch("tabular_bc", batch.observations, batch.actions, config.num_actions)
    shape = (batch.observations.shape[1], config.num_actions)
    return State(
        policy=jnp.full(shape, 1.0 / config.num_actions, jnp.float32),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """The policy of maximum likelihood for the rows of `batch`.

    Metrics: ``loss``, the mean negative log-likelihood, and ``unvisited``, the share of states
    without a row.
    """
    check_batch(batch, batch_spec(config), "tabular_bc")
    num_states, num_actions = state.policy.shape
    tables.check_table_batch(
        "tabular_bc", batch.observations, batch.actions, num_actions, num_states
    )
    states = tables.state_ids(batch.observations)
    counts = tables.pair_counts(states, batch.actions, num_states, num_actions)
    policy = tables.empirical_policy(counts, config.pseudo_count)
    metrics = {
        "loss": -jnp.mean(jnp.log(policy[states, batch.actions])),
        "unvisited": jnp.mean(jnp.sum(counts, axis=-1) == 0.0),
    }
    return state.replace(policy=policy, step=state.step + 1), metrics


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The most frequent action, or a sample."""
    del config
    return tables.choose(state.policy, observation, key, deterministic), policy_state


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-probability (B,) of actions; minus infinity for one that the table excludes."""
    del config
    return jnp.log(state.policy[tables.state_ids(observations), actions])
