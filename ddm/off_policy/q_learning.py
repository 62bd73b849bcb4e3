"""Q-learning with a table (Watkins 1989; Watkins & Dayan 1992, eq. 1), on mini-batches.

    Q(s, a) <- Q(s, a) + lr * mean over the rows of (s, a) of
               [r + gamma (1 - termination) max_a' Q(s', a') - Q(s, a)]

A batch updates all its pairs at once from the table before it. Where a pair has several rows
their temporal differences are averaged, not added, so that a pair moves by at most `learning_rate`
of the way to its target, whatever the batch size. With one row per batch it is Watkins's rule.

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
    """Hyper-parameters of Q-learning."""

    # share of the way to the target; 1 where nothing is random
    learning_rate: float = leaf(0.1, "[0, 1]")
    discount: float = leaf(0.99, "[0, 1]")  # gamma
    # probability of a random action in a non-deterministic `act`
    exploration: float = leaf(0.1, "[0, 1]")
    initial_value: float = leaf(0.0, "(-inf, inf)")  # of every pair; what is never seen keeps it
    num_actions: int = static(0, "[0, inf)")  # size of the discrete action space; required


class State(struct.PyTreeNode):
    """Everything that training changes."""

    action_values: jax.Array  # (S, A)
    step: jax.Array  # () int32, updates done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    return BatchSpec(
        fields=TRANSITION_FIELDS, one_hot_observations=True, num_actions=config.num_actions
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A constant table over the states that the observations have columns for.

    Raises:
      InputError: continuous actions, no `num_actions`, or observations that are not
        one-hot rows.
    """
    check_batch(batch, batch_spec(config), "q_learning")
    tables.check_table_batch("q_learning", batch.observations, batch.actions, config.num_actions)
    shape = (batch.observations.shape[1], config.num_actions)
    return State(
        action_values=jnp.full(shape, config.initial_value, jnp.float32),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of the pairs in `batch` towards their targets.

    Metrics: ``critic_loss``, the mean squared temporal difference, and ``q_value``, mean Q(s, a),
    both before the step.
    """
    check_batch(batch, batch_spec(config), "q_learning")
    num_states, num_actions = state.action_values.shape
    tables.check_table_batch(
        "q_learning", batch.observations, batch.actions, num_actions, num_states
    )
    states = tables.state_ids(batch.observations)
    next_states = tables.state_ids(batch.next_observations)
    next_values = jnp.max(state.action_values, axis=-1)[next_states]
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)
    values = state.action_values[states, batch.actions]
    errors = tables.pair_means(
        states, batch.actions, targets - values, jnp.zeros_like(state.action_values)
    )
    metrics = {
        "critic_loss": jnp.mean(jnp.square(targets - values)),
        "q_value": jnp.mean(values),
    }
    action_values = state.action_values + config.learning_rate * errors
    return state.replace(action_values=action_values, step=state.step + 1), metrics


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The first of the best actions, or epsilon-greedy."""
    policy = improvement.epsilon_greedy(state.action_values, config.exploration).policy
    return tables.choose(policy, observation, key, deterministic), policy_state
