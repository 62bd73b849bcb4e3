"""Conservative Q-learning with a table and discrete actions (Kumar et al. 2020, eq. 4, CQL(H)).

    L = mean over rows of 1/2 (Q(s, a) - y)^2 + alpha (log sum_a' exp Q(s, a') - Q(s, a))
    y = r + gamma (1 - termination) max_a' Q(s', a')

by plain gradient descent. The penalty pushes all values of a visited state down and those of the
logged actions up. Its gradient, alpha (softmax Q(s, .) - beta(. | s)) summed over the rows of a
state, never vanishes for an action that was not logged there: such values fall without limit, as
-log(steps); compare decisions, not values, there. A rare action is pulled hard as well: it gets
only a share beta(a | s) of the squared error, but the softmax's whole share of the penalty.

The paper's 1/2 stands before the squared error. The targets follow the table at every step; there
is no second table, and gradients do not pass through them. The loss is a mean over rows, so that a
pair's step is `learning_rate` times its share of the batch: descent is stable below
2 / (1 + alpha / 2).

Observations are one-hot rows of S features, those of a Discrete(S) space; others are refused.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from ddm import ops
from ddm.ops import tables
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
    """Hyper-parameters of tabular CQL."""

    learning_rate: float = leaf(1.0, "[0, inf)")  # of gradient descent on the mean over rows
    discount: float = leaf(0.99, "[0, 1]")  # gamma
    # weight of the penalty, in units of return; 0 is Q-learning
    alpha: float = leaf(0.1, "[0, inf)")
    initial_value: float = leaf(0.0, "(-inf, inf)")  # of every pair
    whole_dataset: bool = static(False)  # every step on all transitions, not on a mini-batch
    num_actions: int = static(0, "[0, inf)")  # size of the discrete action space; required


class State(struct.PyTreeNode):
    """Everything that training changes."""

    action_values: jax.Array  # (S, A)
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    return BatchSpec(
        fields=TRANSITION_FIELDS,
        whole_dataset=config.whole_dataset,
        one_hot_observations=True,
        num_actions=config.num_actions,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A constant table over the states that the observations have columns for.

    Raises:
      InputError: continuous actions, no `num_actions`, or observations that are not
        one-hot rows.
    """
    check_batch(batch, batch_spec(config), "tabular_cql")
    tables.check_table_batch("tabular_cql", batch.observations, batch.actions, config.num_actions)
    shape = (batch.observations.shape[1], config.num_actions)
    return State(
        action_values=jnp.full(shape, config.initial_value, jnp.float32),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of gradient descent.

    Metrics, all before the step: ``critic_loss``, half the mean squared temporal difference;
    ``gap``, the penalty without its weight; ``q_value``, mean Q(s, a).
    """
    check_batch(batch, batch_spec(config), "tabular_cql")
    num_states, num_actions = state.action_values.shape
    tables.check_table_batch(
        "tabular_cql", batch.observations, batch.actions, num_actions, num_states
    )
    next_states = tables.state_ids(batch.next_observations)
    next_values = jnp.max(state.action_values, axis=-1)[next_states]
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)
    states = tables.state_ids(batch.observations)
    gradient, metrics = jax.grad(_loss, argnums=1, has_aux=True)(
        config, state.action_values, states, batch.actions, targets
    )
    action_values = state.action_values - config.learning_rate * gradient
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
    """The first of the best actions; nothing is random."""
    del config, key, deterministic
    return tables.greedy(state.action_values, observation), policy_state


def _loss(
    config: Config,
    action_values: jax.Array,
    states: jax.Array,
    actions: jax.Array,
    targets: jax.Array,
) -> tuple[jax.Array, Metrics]:
    values = action_values[states, actions]
    critic_loss = 0.5 * jnp.mean(jnp.square(values - targets))
    gap = jnp.mean(jax.nn.logsumexp(action_values, axis=-1)[states] - values)
    metrics = {"critic_loss": critic_loss, "gap": gap, "q_value": jnp.mean(values)}
    return critic_loss + config.alpha * gap, metrics
