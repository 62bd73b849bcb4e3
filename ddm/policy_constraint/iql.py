"""IQL: implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169).

    L_V  = |tau - 1{u < 0}| u^2,   u = min_i Qbar_i(s, a) - V(s)                       (eq. 5)
    L_Q  = sum_i (Q_i(s, a) - r - gamma (1 - termination) V(s'))^2                     (eq. 6)
    L_pi = - min(exp(beta (min_i Qbar_i(s, a) - V(s))), w_max) log pi(a | s)           (eq. 7)

No value is ever asked for an action outside the data. The order is that of the authors' code:
V, then the policy and the critics with the new V, then the targets. Their reward scaling for
locomotion is `--reward_transform=iql_locomotion`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ddm import networks, ops
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    static,
)


class Config(struct.PyTreeNode):
    """Hyper-parameters; defaults are the authors' for locomotion."""

    actor_learning_rate: float = 3e-4  # Adam's step size
    value_learning_rate: float = 3e-4  # Adam's step size of V and Q
    actor_decay_steps: int = 1_000_000  # steps of the policy's cosine schedule; 0: constant
    discount: float = 0.99  # gamma
    target_rate: float = 0.005  # tau of the moving average of the critic targets
    expectile: float = (
        0.7  # 0.5 evaluates the behaviour policy, towards 1 the best action in the data
    )
    inverse_temperature: float = 3.0  # beta; 0 is behaviour cloning
    max_weight: float = 100.0  # largest weight of a logged action
    log_std_min: float = -5.0  # floor of the policy's log standard deviation
    log_std_max: float = 2.0  # ceiling of the policy's log standard deviation
    dropout_rate: float = static(0.0)  # in the policy; authors: 0.1 for Adroit and Kitchen
    num_critics: int = static(2)  # members of the critic ensemble
    hidden_sizes: tuple[int, ...] = static((256, 256))  # relu layers
    layer_norm: bool = static(False)  # in V and Q


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Trainable
    value: networks.Trainable
    critic: networks.Trainable
    critic_target_params: Any
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    del config
    return BatchSpec(fields=TRANSITION_FIELDS)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`."""
    check_batch(batch, batch_spec(config), "iql")
    key, actor_key, value_key, critic_key = jax.random.split(key, 4)
    observations, actions = batch.observations[:1], batch.actions[:1]
    actor_params = _actor(config, actions.shape[-1]).init(
        actor_key, observations, config.log_std_min, config.log_std_max
    )
    value_params = _value(config).init(value_key, observations)
    critic_params = _critic(config).init(critic_key, observations, actions)
    return State(
        actor=networks.trainable(actor_params, optax.adam(config.actor_learning_rate)),
        value=networks.trainable(value_params, optax.adam(config.value_learning_rate)),
        critic=networks.trainable(critic_params, optax.adam(config.value_learning_rate)),
        critic_target_params=jax.tree.map(jnp.copy, critic_params),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of V, policy, critics and targets.

    Metrics: ``value_loss``, ``critic_loss``, ``actor_loss``; ``value``, mean V(s); ``q_value``,
    mean Q(s, a) over members; ``weight``, mean weight of a logged action.
    """
    check_batch(batch, batch_spec(config), "iql")
    key, dropout_key = jax.random.split(state.key)
    optimizer = optax.adam(config.value_learning_rate)
    target_values = _critic(config).apply(
        state.critic_target_params, batch.observations, batch.actions
    )
    target_values = jnp.min(target_values, axis=0)

    value, value_metrics = networks.minimize(
        lambda params: _value_loss(config, params, batch, target_values), state.value, optimizer
    )
    both = jnp.concatenate([batch.observations, batch.next_observations])
    values, next_values = jnp.split(_value(config).apply(value.params, both), 2)

    rate = ops.cosine_decay(config.actor_learning_rate, state.step, config.actor_decay_steps)
    actor, actor_metrics = networks.minimize(
        lambda params: _actor_loss(config, params, batch, target_values - values, dropout_key),
        state.actor,
        optax.adam(rate),
    )
    critic, critic_metrics = networks.minimize(
        lambda params: _critic_loss(config, params, batch, next_values), state.critic, optimizer
    )
    state = state.replace(
        actor=actor,
        value=value,
        critic=critic,
        critic_target_params=ops.polyak(
            state.critic_target_params, critic.params, config.target_rate
        ),
        step=state.step + 1,
        key=key,
    )
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
    """The policy's mean, or a sample clipped to the action box."""
    network = _actor(config, networks.output_size(state.actor.params))
    policy = network.apply(state.actor.params, observation, config.log_std_min, config.log_std_max)
    action = policy.mode() if deterministic else policy.sample(seed=key)
    return jnp.clip(action, -1.0, 1.0), policy_state


def _actor(config: Config, action_size: int) -> networks.GaussianPolicy:
    return networks.GaussianPolicy(
        config.hidden_sizes,
        action_size,
        dropout_rate=config.dropout_rate,
        kernel_init=networks.orthogonal(),
    )


def _value(config: Config) -> networks.StateValue:
    return networks.StateValue(config.hidden_sizes, config.layer_norm, networks.orthogonal())


def _critic(config: Config) -> networks.ActionValue:
    return networks.ActionValue(
        config.hidden_sizes, config.num_critics, config.layer_norm, networks.orthogonal()
    )


def _value_loss(
    config: Config, params: Any, batch: Batch, target_values: jax.Array
) -> tuple[jax.Array, Metrics]:
    values = _value(config).apply(params, batch.observations)
    loss = jnp.mean(ops.expectile_loss(target_values - values, config.expectile))
    return loss, {"value_loss": loss, "value": jnp.mean(values)}


def _actor_loss(
    config: Config, params: Any, batch: Batch, advantages: jax.Array, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    policy = _actor(config, batch.actions.shape[-1]).apply(
        params,
        batch.observations,
        config.log_std_min,
        config.log_std_max,
        deterministic=config.dropout_rate == 0.0,
        rngs={"dropout": key},
    )
    weights = ops.exponential_weights(advantages, config.inverse_temperature, config.max_weight)
    loss = -jnp.mean(weights * policy.log_prob(batch.actions))
    return loss, {"actor_loss": loss, "weight": jnp.mean(weights)}


def _critic_loss(
    config: Config, params: Any, batch: Batch, next_values: jax.Array
) -> tuple[jax.Array, Metrics]:
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)
    values = _critic(config).apply(params, batch.observations, batch.actions)
    loss = ops.squared_td_error(values, targets)
    return loss, {"critic_loss": loss, "q_value": jnp.mean(values)}
