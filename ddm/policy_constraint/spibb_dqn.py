"""SPIBB-DQN: safe policy improvement beyond tables (Laroche et al. 2019, section 4.2).

    B(s) = {a: N(s, a) < N_wedge}
    y    = r + gamma (1 - termination) [ sum over a in B(s') of beta(a | s') Qbar(s', a)
                       + (1 - sum over a in B(s') of beta(a | s')) max over a not in B(s') of Qbar ]
    L_Q  = h(Q(s, a) - y),   h Huber's loss

Where data is scarce the policy does what the baseline beta did. The rest of its probability goes to
the best other action. At N_wedge = 0 it is DQN, at infinity the baseline. On one-hot observations,
with a counted baseline and a wide `huber_width`, its fixed point is that of the tabular `spibb`.

Pseudo-counts N come from a table, ``grid`` or ``one_hot``, or from a function: see
`parts/pseudo_counts.py`. A limit N_wedge between whole numbers, such as 4.5, is less sensitive to
the noise of counts that are made from batches.

The baseline is ``cloned`` by likelihood while Q is learned (the authors clone first, or are given
it), ``counted``, N(s, .) over its sum, or a function from observations to probabilities (B, K).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.policy_constraint.parts import discrete, pseudo_counts
from ddm.policy_constraint.parts.pseudo_counts import TableFn
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    check_example,
    choice,
    leaf,
    static,
)


class Config(discrete.Config, pseudo_counts.Config):
    """Hyper-parameters; the discount, step sizes and target are those of discrete BCQ."""

    # N_wedge: pairs with fewer rows follow the baseline; authors: 5 to 100
    min_count: float = leaf(5.0, "[0, inf]")
    # the baseline; or a function of observations (B, O) to probabilities (B, K)
    behavior: str | TableFn = choice(("cloned", "counted"), "cloned")
    bounded: bool = static(False)  # Pi_<=b: uncertain actions may also be taken less often
    double_q: bool = static(False)  # Q chooses the action that Qbar values


class State(struct.PyTreeNode):
    """Everything that training changes."""

    counts: pseudo_counts.Counts | None  # None where a function counts
    behavior: discrete.Clone | None  # None unless cloned
    critic: networks.Tracked
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    return BatchSpec(
        fields=TRANSITION_FIELDS,
        one_hot_observations=config.count == "one_hot",
        num_actions=config.num_actions,
    )


def prepare(config: Config, dataset: Any) -> Config:
    """The number of logged transitions, where it is not set."""
    if config.dataset_size:
        return config
    return config.replace(dataset_size=dataset.num_transitions)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`, and an empty table.

    Raises:
      InputError: continuous actions; no `num_actions`; a table without `dataset_size`.
    """
    check_example(batch, batch_spec(config), "spibb_dqn")
    discrete.check(config, batch, "spibb_dqn")
    key, behavior_key, critic_key = jax.random.split(key, 3)
    cloned = config.behavior == "cloned"
    return State(
        counts=pseudo_counts.init(config, config.num_actions, batch, "spibb_dqn"),
        behavior=discrete.init_behavior(config, behavior_key, batch) if cloned else None,
        critic=discrete.init_critic(config, critic_key, batch),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of counts, clone, critic and target.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a); ``reward_max``, of the batch;
    ``uncertain``, the share of logged rows whose pair follows the baseline; with a cloned baseline
    ``behavior_loss``, in nats, and ``behavior_progress``, what about the last 900 updates took off
    it.
    """
    check_batch(batch, batch_spec(config), "spibb_dqn")
    metrics: Metrics = {}
    if state.counts is not None:
        state = state.replace(counts=pseudo_counts.count(config, state.counts, batch))
    if state.behavior is not None:
        behavior, metrics = discrete.behavior_step(config, state.behavior, batch)
        state = state.replace(behavior=behavior)

    next_values = state.critic.target(batch.next_observations)[0]
    chooses = state.critic(batch.next_observations)[0] if config.double_q else next_values
    policy = improved_policy(config, state, batch.next_observations, chooses)
    critic, critic_metrics = discrete.critic_step(
        config, state.critic, batch, jnp.sum(policy * next_values, axis=-1)
    )
    counts = ops.of_actions(counts_at(config, state, batch.observations), batch.actions)
    uncertain = _uncertain(config, counts).astype(jnp.float32)
    step = state.step + 1
    state = state.replace(critic=discrete.follow(config, critic, step), step=step)
    return state, {**metrics, **critic_metrics, "uncertain": jnp.mean(uncertain)}


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
    observations = observation[None]
    [policy] = improved_policy(config, state, observations, state.critic(observations)[0])
    if deterministic:
        return jnp.argmax(policy).astype(jnp.int32), policy_state
    return jax.random.categorical(key, jnp.log(policy)).astype(jnp.int32), policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the clone has not converged, or values exceed what rewards allow."""
    return discrete.diagnose(config, metrics)


def improved_policy(
    config: Config, state: State, observations: jax.Array, values: jax.Array
) -> jax.Array:
    """Probabilities (B, K): the baseline on uncertain pairs, greedy by `values` on others."""
    uncertain = _uncertain(config, counts_at(config, state, observations))
    improve = ops.improvement.spibb_bounded if config.bounded else ops.improvement.spibb
    return improve(values, behavior_at(config, state, observations), uncertain).policy


def counts_at(config: Config, state: State, observations: jax.Array) -> jax.Array:
    """Pseudo-counts (B, K) of all actions at observations (B, O)."""
    return pseudo_counts.at(config, state.counts, observations)


def behavior_at(config: Config, state: State, observations: jax.Array) -> jax.Array:
    """The baseline's probabilities (B, K) at observations (B, O)."""
    if callable(config.behavior):
        return config.behavior(observations)
    if state.behavior is None:
        return ops.tables.empirical_policy(counts_at(config, state, observations))
    return jax.nn.softmax(state.behavior.policy(observations))


def _uncertain(config: Config, counts: jax.Array) -> jax.Array:
    # A count equal to the limit may be rounded to below it, because it is computed from a share.
    return counts < config.min_count * (1.0 - 1e-5)
