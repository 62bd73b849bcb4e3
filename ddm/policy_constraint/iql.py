"""IQL: implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169).

    L_V  = |tau - 1{u < 0}| u^2,   u = min_i Qbar_i(s, a) - V(s)                       (eq. 5)
    L_Q  = sum_i (Q_i(s, a) - r - gamma (1 - termination) V(s'))^2                     (eq. 6)
    L_pi = - min(exp(beta (min_i Qbar_i(s, a) - V(s))), w_max) log pi(a | s)           (eq. 7)

No value of an action outside the data is ever used. The order is that of the authors' code: V, then
the policy and the critics with the new V, then the targets. Their reward scaling for locomotion is
`--reward_transform=iql_locomotion`. From their code: the policy's cosine schedule ends with the run
(theirs after 1,000,000 steps, whatever its length; without a runner to resolve it, the rate is
constant), and only hidden layers start orthogonal, not the last ones. Discrete actions
(`num_actions`) have a softmax policy and critics with one output per action; the equations are the
same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.policy_constraint.parts import regression
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    check_batch,
    check_example,
    leaf,
    network,
)


class Config(regression.Config):
    """Hyper-parameters; defaults are the authors' for locomotion (dropout 0.1 for Adroit)."""

    # Steps of the policy's cosine schedule; not set: those of the run; 0: constant.
    actor_decay_steps: int | None = leaf(None, "[0, inf)")
    # 0.5 evaluates the behaviour policy, towards 1 the best action in the data
    expectile: float = leaf(0.7, "(0, 1)")
    inverse_temperature: float = leaf(3.0, "[0, inf)")  # beta; 0 is behaviour cloning
    max_weight: float = leaf(100.0, "(0, inf]")  # largest weight of a logged action
    value_network: NetworkFn | None = network()  # in place of `regression.value_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Trainable
    value: networks.Trainable
    critic: networks.Tracked
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    return BatchSpec(fields=TRANSITION_FIELDS, num_actions=config.num_actions)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: actions of another kind than `num_actions` says.
    """
    check_example(batch, batch_spec(config), "iql")
    key, actor_key, value_key, critic_key = jax.random.split(key, 4)
    actor = regression.init_actor(config, actor_key, batch, "iql")
    return State(
        actor=actor,
        value=regression.init_value(config, value_key, batch),
        critic=regression.init_critic(config, critic_key, batch),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of V, policy, critics and targets.

    Metrics: ``value_loss``, ``critic_loss``, ``actor_loss``; ``value``, mean V(s); ``q_value``,
    mean Q(s, a) over members; ``reward_max``, the largest size of a reward in the batch;
    ``weight``, mean weight of a logged action; ``effective_share``, their effective sample size
    over that of the batch.
    """
    check_batch(batch, batch_spec(config), "iql")
    key, dropout_key = jax.random.split(state.key)
    target_values = jnp.min(state.critic.target(batch.observations, batch.actions), axis=0)

    def value_loss(params: Any) -> tuple[jax.Array, Metrics]:
        values = state.value.apply(params, batch.observations)
        loss = jnp.mean(ops.expectile_loss(target_values - values, config.expectile))
        return loss, {"value_loss": loss, "value": jnp.mean(values)}

    value, value_metrics = networks.minimize(value_loss, state.value, config.value_learning_rate)
    both = jnp.concatenate([batch.observations, batch.next_observations])
    values, next_values = jnp.split(value(both), 2)

    weights = ops.weights.exponential(
        target_values - values, config.inverse_temperature, config.max_weight
    )
    actor, actor_metrics = regression.actor_step(
        config, state.actor, batch, weights, state.step, dropout_key
    )
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)
    critic, critic_metrics = regression.critic_step(config, state.critic, batch, targets)
    state = state.replace(actor=actor, value=value, critic=critic, step=state.step + 1, key=key)
    return state, {**value_metrics, **actor_metrics, **critic_metrics}


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The policy's mode, or a sample clipped to the action box."""
    action = regression.act(config, state.actor, observation, key, deterministic=deterministic)
    return action, policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the weights are too sharp for the rewards, or values exceed what these allow."""
    return regression.diagnose(config, metrics)


def resolve(config: Config, num_updates: int) -> Config:
    """A policy's schedule that is not set ends with the run."""
    return regression.resolve(config, num_updates)
