"""Weighted regression: what AWR, AWAC, CRR, IQL and one-step improvement have in common.

    L_pi = - mean_i w(A(s_i, a_i)) log pi(a_i | s_i)

The policy is fitted to the log by likelihood, and the weights say which logged actions count. They
differ in where the advantage A comes from and in the weight. Actions are real vectors, for a
Gaussian with a tanh mean, or indices, for a softmax; the critics match. The value of a policy's
actions is exact for a softmax. Otherwise it is estimated from samples that are clipped to the box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from ddm import networks, ops
from ddm.types import (
    Batch,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    check_actions,
    check_vectors,
    leaf,
    network,
    static,
)


class PolicyConfig(Configuration):
    """Hyper-parameters of the policy and its values."""

    actor_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size
    value_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size of V and Q
    # steps of the policy's cosine schedule; 0: constant
    actor_decay_steps: int | None = leaf(0, "[0, inf)")
    discount: float = leaf(0.99, "[0, 1]")  # gamma
    # floor of the policy's log standard deviation
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    log_std_max: float = leaf(2.0, "(-inf, inf)")  # ceiling of the policy's log standard deviation
    dropout_rate: float = static(0.0, "[0, 1)")  # in the policy
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # relu layers
    layer_norm: bool = static(False)  # in V and Q
    num_actions: int = static(0, "[0, inf)")  # size of a discrete action space; 0: real vectors
    actor_network: NetworkFn | None = network()  # in place of :func:`actor_network`


class Config(PolicyConfig):
    """Hyper-parameters of the policy and the critics."""

    target_rate: float = leaf(0.005, "(0, 1]")  # tau of the moving average of the targets
    num_critics: int = static(2, "[1, inf)")  # members of the critic ensemble
    critic_network: NetworkFn | None = network()  # in place of :func:`critic_network`


ConfigT = TypeVar("ConfigT", bound=PolicyConfig)
ActorT = TypeVar("ActorT", bound=networks.Trainable)


class PolicyValues(NamedTuple):
    """min_i Q_i(s, .) of the logged action, and of M actions of the policy."""

    logged: jax.Array  # (B,)
    values: jax.Array  # (B, M)
    shares: jax.Array  # (B, M) probability of each of the M actions; they sum to 1


def actor_network(config: PolicyConfig, action_size: int) -> networks.Network:
    """pi(a | s): a Gaussian with one learned width per action dimension, or a softmax.

    Called with observations (..., *O), for real actions also with the floor and the ceiling of the
    log standard deviations; returns a distribution. With `dropout_rate` it is also called with
    `deterministic=False` and a stream of keys named "dropout".
    """
    if config.num_actions > 0:
        return networks.CategoricalPolicy(
            config.hidden_sizes, action_size, dropout_rate=config.dropout_rate
        )
    return networks.GaussianPolicy(
        config.hidden_sizes,
        action_size,
        dropout_rate=config.dropout_rate,
        kernel_init=networks.orthogonal,
    )


def critic_network(config: Config, action_size: int) -> networks.Network:
    """The ensemble of Q_i(s, a).

    Called with observations (B, *O) and actions (B, A) or (B, M, A); returns (E, B) or (E, B, M).
    For discrete actions, with (B,) or none: (E, B), or (E, B, K) of all actions.
    """
    shared = (config.num_critics, config.layer_norm, networks.orthogonal)
    if config.num_actions > 0:
        return networks.DiscreteActionValue(config.hidden_sizes, action_size, *shared)
    return networks.ActionValue(config.hidden_sizes, *shared)


def value_network(config: PolicyConfig, action_size: int) -> networks.StateValue:
    """V(s): called with observations (..., *O); returns (...,)."""
    del action_size
    return networks.StateValue(config.hidden_sizes, config.layer_norm, networks.orthogonal)


def init_actor(config: PolicyConfig, key: PRNGKey, batch: Batch, name: str) -> networks.Trainable:
    """A fresh policy for the shapes in `batch`.

    Raises:
      InputError: actions of another kind than `num_actions` says, or beyond it; images.
    """
    check_actions(batch, config.num_actions, name)
    check_vectors(config, batch, name)
    own = (config.actor_network or actor_network)(config, _action_size(config, batch))
    return networks.trainable(own, own.init(key, batch.observations[:1], *_bounds(config)))


def init_critic(config: Config, key: PRNGKey, batch: Batch) -> networks.Tracked:
    """Fresh critics for the shapes in `batch`."""
    own = (config.critic_network or critic_network)(config, _action_size(config, batch))
    return networks.tracked(own, own.init(key, batch.observations[:1], batch.actions[:1]))


def init_value(config: Any, key: PRNGKey, batch: Batch) -> networks.Trainable:
    """A fresh V for the shapes in `batch`."""
    own = (config.value_network or value_network)(config, _action_size(config, batch))
    return networks.trainable(own, own.init(key, batch.observations[:1]))


def policy_at(
    config: PolicyConfig,
    actor: networks.Trainable,
    observations: jax.Array,
    params: Any = None,
    dropout_key: PRNGKey | None = None,
) -> Any:
    """The distribution pi(. | s) at observations (..., *O).

    Args:
      config: with the bounds of the log standard deviations.
      actor: the policy.
      observations: of any leading shape.
      params: other parameters than the policy's, in a loss or of its target.
      dropout_key: with it, units are dropped.
    """
    dropout: dict[str, Any] = {}
    if dropout_key is not None and config.dropout_rate > 0.0:
        dropout = {"deterministic": False, "rngs": {"dropout": dropout_key}}
    params = actor.params if params is None else params
    return actor.apply(params, observations, *_bounds(config), **dropout)


def policy_values(
    config: Config,
    critic: networks.Trainable,
    policy: Any,
    batch: Batch,
    key: PRNGKey,
    num_samples: int,
) -> PolicyValues:
    """Values at `batch.observations` of the logged action and of the policy's.

    Args:
      config: says which kind of actions there are.
      critic: the ensemble.
      policy: pi(. | s) at those observations.
      batch: with observations and actions.
      key: for samples, if actions are real vectors.
      num_samples: their number M; a softmax has all its actions instead.
    """
    if config.num_actions > 0:
        values = jnp.min(critic(batch.observations), axis=0)
        logged = jnp.take_along_axis(values, batch.actions[:, None], axis=-1)[:, 0]
        return PolicyValues(logged, values, policy.probs)
    samples = policy.sample(seed=key, sample_shape=(num_samples,))
    samples = jnp.clip(jnp.moveaxis(samples, 0, 1), -1.0, 1.0)
    actions = jnp.concatenate([batch.actions[:, None], samples], axis=1)
    values = jnp.min(critic(batch.observations, actions), axis=0)
    values, logged = values[:, 1:], values[:, 0]
    return PolicyValues(logged, values, jnp.full(values.shape, 1.0 / num_samples, values.dtype))


def expected_values(
    config: Config, critic: networks.Tracked, policy: Any, observations: jax.Array, key: PRNGKey
) -> jax.Array:
    """E_{a ~ pi} min_i Qbar_i(s, a), (B,), of the target critics.

    Exact for a softmax, otherwise of one clipped sample.
    """
    if config.num_actions > 0:
        values = jnp.min(critic.target(observations), axis=0)
        return jnp.sum(policy.probs * values, axis=-1)
    actions = jnp.clip(policy.sample(seed=key), -1.0, 1.0)
    return jnp.min(critic.target(observations, actions), axis=0)


def actor_step(
    config: PolicyConfig,
    actor: ActorT,
    batch: Batch,
    weights: jax.Array,
    step: jax.Array,
    dropout_key: PRNGKey | None = None,
) -> tuple[ActorT, Metrics]:
    """One step of the policy towards the logged actions, by weights (B,).

    Metrics: ``actor_loss``; ``weight``, the mean weight of a logged action; ``effective_share``,
    the effective sample size of the weights over that of the batch.
    """
    weight_metrics = {
        "weight": jnp.mean(weights),
        "effective_share": ops.weights.effective_share(weights),
    }

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        policy = policy_at(config, actor, batch.observations, params, dropout_key)
        loss = -jnp.mean(weights * policy.log_prob(batch.actions))
        return loss, {"actor_loss": loss, **weight_metrics}

    rate = ops.cosine_decay(config.actor_learning_rate, step, config.actor_decay_steps)
    return networks.minimize(loss_fn, actor, rate)


def value_step(
    config: PolicyConfig, value: networks.Trainable, observations: jax.Array, targets: jax.Array
) -> tuple[networks.Trainable, Metrics]:
    """One step of V towards targets (B,), by squared error.

    Metrics: ``value_loss``; ``value``, mean V(s).
    """

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        values = value.apply(params, observations)
        loss = jnp.mean(jnp.square(values - targets))
        return loss, {"value_loss": loss, "value": jnp.mean(values)}

    return networks.minimize(loss_fn, value, config.value_learning_rate)


def critic_step(
    config: Config, critic: networks.Tracked, batch: Batch, targets: jax.Array
) -> tuple[networks.Tracked, Metrics]:
    """One step of the critics towards targets (B,), and of their target parameters.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a) over members; ``reward_max``, the largest
    size of a reward in the batch.
    """
    reward_max = ops.largest_reward(batch.rewards)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        values = critic.apply(params, batch.observations, batch.actions)
        loss = ops.squared_td_error(values, targets)
        q_value = jnp.mean(values)
        return loss, {"critic_loss": loss, "q_value": q_value, "reward_max": reward_max}

    stepped, metrics = networks.minimize(loss_fn, critic, config.value_learning_rate)
    return networks.follow(stepped, config.target_rate), metrics


def act(
    config: PolicyConfig,
    actor: networks.Trainable,
    observation: jax.Array,
    key: PRNGKey,
    *,
    deterministic: bool = False,
) -> jax.Array:
    """The policy's mode, or a sample; real actions are clipped to their box."""
    policy = policy_at(config, actor, observation)
    action = policy.mode() if deterministic else policy.sample(seed=key)
    return action if config.num_actions > 0 else jnp.clip(action, -1.0, 1.0)


def resolve(config: ConfigT, num_updates: int) -> ConfigT:
    """The configuration for `num_updates` gradient steps: a schedule that is not set ends there."""
    if config.actor_decay_steps is None:
        return config.replace(actor_decay_steps=num_updates)
    return config


def diagnose(
    config: Any, metrics: Mapping[str, float], weight: Any = "exponential", value: str = "q_value"
) -> list[str]:
    """Sentences if the weights are too sharp for the rewards, or values exceed what these allow.

    Args:
      config: one lane's, with numbers, a discount and the largest weight.
      metrics: that lane's, means over an interval.
      weight: which weights there are.
      value: the metric that holds the mean value.
    """
    return [
        *ops.weights.diagnose(metrics, weight, config.max_weight),
        *ops.values_beyond_rewards(config.discount, metrics, value=value),
    ]


def _action_size(config: PolicyConfig, batch: Batch) -> int:
    return config.num_actions or batch.actions.shape[-1]


def _bounds(config: PolicyConfig) -> tuple[jax.Array | float, ...]:
    return () if config.num_actions > 0 else (config.log_std_min, config.log_std_max)
