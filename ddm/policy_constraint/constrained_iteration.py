"""Value iteration from logged transitions, with the policy held near the behaviour policy.

    V(s)    = the value of improve(Q(s, .), beta(. | s))
    Q(s, a) <- mean over the logged rows of (s, a) of r + gamma (1 - termination) V(s')

`improve` is greedy under one of the constraints of `CONSTRAINTS`, and beta the empirical policy of
the log. Each update sweeps over the whole log, so that the iteration is exact in the empirical
MDP. A pair that was never logged keeps `initial_value`. This plays the part of the value that a
function approximator would extrapolate. An optimistic value misleads exactly those constraints that
let probability leave the support.

The five rows of the table are the exact, tabular forms of what deep methods approximate: support
constraints (BCQ, Fujimoto et al. 2019; BEAR, Kumar et al. 2019), divergences to the behaviour
policy (BRAC, Wu et al. 2019; KL control, Jaques et al. 2019). `support` with a threshold is the
filter of discrete BCQ (Fujimoto et al. 2019, arXiv 1910.01708, eq. 9) without its networks.

Observations are one-hot rows of S features, those of a Discrete(S) space; others are refused.
"""

from __future__ import annotations

from collections.abc import Callable

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
    choice,
    chosen,
    leaf,
    static,
)


class Config(Configuration):
    """Hyper-parameters of constrained value iteration; the defaults are ours."""

    discount: float = leaf(0.99, "[0, 1]")  # gamma
    # largest divergence in a state, in nats (kl) or mass (total_variation)
    epsilon: float = leaf(0.5, "[0, inf)")
    # price of one nat of divergence, in units of return (kl_penalty)
    weight: float = leaf(0.1, "(0, inf)")
    # support: keeps actions above this share of the likeliest one, in [0, 1); 0: all that were seen
    threshold: float = leaf(0.0, "[0, 1)")
    # share of the uniform policy mixed into the behaviour model
    smoothing: float = leaf(0.0, "[0, 1]")
    initial_value: float = leaf(0.0, "(-inf, inf)")  # of every pair; what is never logged keeps it
    constraint: str = choice(lambda: CONSTRAINTS, "support")  # of the greedy policy
    num_actions: int = static(0, "[0, inf)")  # size of the discrete action space; required


class State(struct.PyTreeNode):
    """Everything that training changes."""

    action_values: jax.Array  # (S, A)
    values: jax.Array  # (S,) of the constrained policy
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
    """Constant tables over the states that the observations have columns for.

    Raises:
      InputError: continuous actions, no `num_actions`, or observations that are not one-hot rows.
    """
    check_batch(batch, batch_spec(config), "constrained_iteration")
    tables.check_table_batch(
        "constrained_iteration", batch.observations, batch.actions, config.num_actions
    )
    num_states, num_actions = batch.observations.shape[1], config.num_actions
    return State(
        action_values=jnp.full((num_states, num_actions), config.initial_value, jnp.float32),
        values=jnp.full((num_states,), config.initial_value, jnp.float32),
        policy=jnp.full((num_states, num_actions), 1.0 / num_actions, jnp.float32),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One sweep: backup of every logged pair, then improvement of every state.

    Metrics: ``residual``, the largest change of an action value; ``q_value``, mean Q(s, a) of
    the logged pairs; ``divergence``, mean total variation distance between the policy and the
    behaviour model at logged states.
    """
    check_batch(batch, batch_spec(config), "constrained_iteration")
    num_states, num_actions = state.action_values.shape
    tables.check_table_batch(
        "constrained_iteration", batch.observations, batch.actions, num_actions, num_states
    )
    states = tables.state_ids(batch.observations)
    next_values = state.values[tables.state_ids(batch.next_observations)]
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)
    action_values = tables.pair_means(states, batch.actions, targets, state.action_values)
    counts = tables.pair_counts(states, batch.actions, num_states, num_actions)
    behavior = tables.empirical_policy(counts)
    behavior = (1.0 - config.smoothing) * behavior + config.smoothing / num_actions
    improved = chosen(config, "constraint")(config, action_values, behavior)
    distances = 0.5 * jnp.sum(jnp.abs(improved.policy - behavior), axis=-1)
    metrics = {
        "residual": jnp.max(jnp.abs(action_values - state.action_values)),
        "q_value": jnp.mean(action_values[states, batch.actions]),
        "divergence": jnp.mean(distances[states]),
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
    """The likeliest action of the constrained policy, or a sample from it."""
    del config
    return tables.choose(state.policy, observation, key, deterministic), policy_state


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-probability (B,) of actions; minus infinity for one that the policy excludes."""
    del config
    return jnp.log(state.policy[tables.state_ids(observations), actions])


# The constraints: (config, action values (S, A), behaviour (S, A)) -> policy and values.
Constraint = Callable[[Config, jax.Array, jax.Array], improvement.Improved]


def _none(config: Config, action_values: jax.Array, behavior: jax.Array) -> improvement.Improved:
    del config, behavior
    return improvement.greedy(action_values)


def _support(config: Config, action_values: jax.Array, behavior: jax.Array) -> improvement.Improved:
    # Relative to the likeliest action, so that some action passes any threshold below 1.
    relative = behavior / jnp.max(behavior, axis=-1, keepdims=True)
    return improvement.support(action_values, relative, config.threshold)


def _kl(config: Config, action_values: jax.Array, behavior: jax.Array) -> improvement.Improved:
    return improvement.kl_constraint(action_values, behavior, config.epsilon)


def _kl_penalty(
    config: Config, action_values: jax.Array, behavior: jax.Array
) -> improvement.Improved:
    return improvement.kl_penalty(action_values, behavior, config.weight)


def _total_variation(
    config: Config, action_values: jax.Array, behavior: jax.Array
) -> improvement.Improved:
    return improvement.total_variation(action_values, behavior, config.epsilon)


CONSTRAINTS: dict[str, Constraint] = {
    "none": _none,
    "support": _support,
    "kl": _kl,
    "kl_penalty": _kl_penalty,
    "total_variation": _total_variation,
}
