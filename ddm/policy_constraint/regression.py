"""Weighted regression: what AWR, AWAC, CRR, IQL and one-step improvement have in common.

    L_pi = - mean_i w(A(s_i, a_i)) log pi(a_i | s_i)

The policy is fitted to the log by likelihood, and the weights say which of its actions. They
differ in where the advantage A comes from and in the weight. Actions are real vectors, for a
Gaussian with a tanh mean, or indices, for a softmax; the critics follow suit.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ddm import networks, ops
from ddm.types import Batch, Metrics, PRNGKey, check_actions, static


class Config(struct.PyTreeNode):
    """Hyper-parameters of the policy and the critics."""

    actor_learning_rate: float = 3e-4  # Adam's step size
    value_learning_rate: float = 3e-4  # Adam's step size of V and Q
    actor_decay_steps: int = 0  # steps of the policy's cosine schedule; 0: constant
    discount: float = 0.99  # gamma
    target_rate: float = 0.005  # tau of the moving average of the targets
    log_std_min: float = -5.0  # floor of the policy's log standard deviation
    log_std_max: float = 2.0  # ceiling of the policy's log standard deviation
    dropout_rate: float = static(0.0)  # in the policy
    num_critics: int = static(2)  # members of the critic ensemble
    hidden_sizes: tuple[int, ...] = static((256, 256))  # relu layers
    layer_norm: bool = static(False)  # in V and Q
    num_actions: int = static(0)  # size of a discrete action space; 0: real vectors


def actor_network(config: Config, action_size: int) -> networks.Network:
    """pi(a | s): a Gaussian with one learned width an action dimension, or a softmax."""
    if config.num_actions > 0:
        return networks.CategoricalPolicy(
            config.hidden_sizes, config.num_actions, dropout_rate=config.dropout_rate
        )
    return networks.GaussianPolicy(
        config.hidden_sizes,
        action_size,
        dropout_rate=config.dropout_rate,
        kernel_init=networks.orthogonal(),
    )


def critic_network(config: Config) -> networks.Network:
    """The ensemble of Q_i(s, a)."""
    shared = (config.num_critics, config.layer_norm, networks.orthogonal())
    if config.num_actions > 0:
        return networks.DiscreteActionValue(config.hidden_sizes, config.num_actions, *shared)
    return networks.ActionValue(config.hidden_sizes, *shared)


def value_network(config: Config) -> networks.StateValue:
    """V(s)."""
    return networks.StateValue(config.hidden_sizes, config.layer_norm, networks.orthogonal())


def init_actor(config: Config, key: PRNGKey, batch: Batch, name: str) -> networks.Trainable:
    """A fresh policy for the shapes in `batch`.

    Raises:
      InputError: actions of another kind than `num_actions` says.
    """
    check_actions(batch, config.num_actions, name)
    action_size = config.num_actions or batch.actions.shape[-1]
    network = actor_network(config, action_size)
    params = network.init(key, batch.observations[:1], *_bounds(config))
    return networks.trainable(params, optax.adam(config.actor_learning_rate))


def init_critic(config: Config, key: PRNGKey, batch: Batch) -> networks.Trainable:
    """Fresh critics for the shapes in `batch`."""
    params = critic_network(config).init(key, batch.observations[:1], batch.actions[:1])
    return networks.trainable(params, optax.adam(config.value_learning_rate))


def init_value(config: Config, key: PRNGKey, batch: Batch) -> networks.Trainable:
    """A fresh V for the shapes in `batch`."""
    params = value_network(config).init(key, batch.observations[:1])
    return networks.trainable(params, optax.adam(config.value_learning_rate))


def policy_at(
    config: Config, params: Any, observations: jax.Array, dropout_key: PRNGKey | None = None
) -> Any:
    """The distribution pi(. | s) at observations (..., O); dropout needs a key."""
    dropout: dict[str, Any] = {}
    if dropout_key is not None and config.dropout_rate > 0.0:
        dropout = {"deterministic": False, "rngs": {"dropout": dropout_key}}
    network = actor_network(config, networks.output_size(params))
    return network.apply(params, observations, *_bounds(config), **dropout)


def actor_step(
    config: Config,
    actor: networks.Trainable,
    batch: Batch,
    weights: jax.Array,
    step: jax.Array,
    dropout_key: PRNGKey | None = None,
) -> tuple[networks.Trainable, Metrics]:
    """One step of the policy towards the logged actions, by weights (B,).

    Metrics: ``actor_loss``; ``weight``, the mean weight of a logged action.
    """

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        policy = policy_at(config, params, batch.observations, dropout_key)
        loss = -jnp.mean(weights * policy.log_prob(batch.actions))
        return loss, {"actor_loss": loss, "weight": jnp.mean(weights)}

    rate = ops.cosine_decay(config.actor_learning_rate, step, config.actor_decay_steps)
    return networks.minimize(loss_fn, actor, optax.adam(rate))


def critic_step(
    config: Config, critic: networks.Trainable, batch: Batch, targets: jax.Array
) -> tuple[networks.Trainable, Metrics]:
    """One step of the critics towards targets (B,).

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a) over members.
    """

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        values = critic_network(config).apply(params, batch.observations, batch.actions)
        loss = ops.squared_td_error(values, targets)
        return loss, {"critic_loss": loss, "q_value": jnp.mean(values)}

    return networks.minimize(loss_fn, critic, optax.adam(config.value_learning_rate))


def act(
    config: Config,
    params: Any,
    observation: jax.Array,
    key: PRNGKey,
    *,
    deterministic: bool = False,
) -> jax.Array:
    """The policy's mode, or a sample; real actions are clipped to their box."""
    policy = policy_at(config, params, observation)
    action = policy.mode() if deterministic else policy.sample(seed=key)
    return action if config.num_actions > 0 else jnp.clip(action, -1.0, 1.0)


def _bounds(config: Config) -> tuple[jax.Array | float, ...]:
    return () if config.num_actions > 0 else (config.log_std_min, config.log_std_max)
