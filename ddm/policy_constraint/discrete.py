"""What Q-learning with a cloned behaviour policy over discrete actions shares.

    L_Q    = mean h(Q(s, a) - r - gamma (1 - termination) v(s')),   h Huber's loss
    L_beta = - mean log beta(a | s) + w mean i(s, .)^2,   beta = softmax of the logits i

The methods differ in v(s'), which they compute from Qbar and beta. Huber's loss estimates means
only where errors are within its width. Where the targets of one pair vary more than that, as in a
random world with large values, its values move towards medians. The width should then grow with the
values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.ops import convergence
from ddm.types import (
    Batch,
    Configuration,
    Metrics,
    PRNGKey,
    check_actions,
    check_vectors,
    leaf,
    static,
)

# A clone has converged if about its last 900 updates gained at most this many nats of likelihood.
SETTLED = 0.01


class Config(Configuration):
    """Hyper-parameters of the critic and of the clone."""

    learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size of the critic
    # Adam's step size of the cloned behaviour policy
    behavior_learning_rate: float = leaf(3e-4, "[0, inf)")
    logit_penalty: float = leaf(1e-2, "[0, inf)")  # w: weight of the clone's squared logits
    # error from which the critic's loss is linear, in reward units
    huber_width: float = leaf(1.0, "(0, inf)")
    discount: float = leaf(0.99, "[0, 1]")  # gamma
    target_rate: float = leaf(0.005, "(0, 1]")  # tau of the moving average of the target
    # updates between two copies to the target; 0: the moving average
    target_period: int = leaf(0, "[0, inf)")
    num_actions: int = static(0, "[0, inf)")  # size of the discrete action space; required
    # relu layers of critic and clone
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")


class Clone(struct.PyTreeNode):
    """The learned behaviour policy, and how far its training has converged."""

    policy: networks.Trainable
    tracker: convergence.Convergence


def critic_network(config: Config) -> networks.DiscreteActionValue:
    """Q(s, .)."""
    return networks.DiscreteActionValue(config.hidden_sizes, config.num_actions, 1)


def behavior_network(config: Config) -> networks.CategoricalPolicy:
    """Logits i(s, .) of the behaviour policy."""
    return networks.CategoricalPolicy(config.hidden_sizes, config.num_actions)


def check(config: Config, batch: Batch, name: str) -> None:
    """Refuses continuous actions, images, and a number of actions that is missing or too small.

    Raises:
      InputError: naming the algorithm and the field.
    """
    if config.num_actions < 1:
        raise InputError(f"{name}: needs num_actions, the number of discrete actions")
    check_actions(batch, config.num_actions, name)
    check_vectors(batch, name)


def init_critic(config: Config, key: PRNGKey, batch: Batch) -> networks.Trainable:
    """A fresh critic for the shapes in `batch`."""
    params = critic_network(config).init(key, batch.observations[:1])
    return networks.trainable(params, optax.adam(config.learning_rate))


def init_behavior(config: Config, key: PRNGKey, batch: Batch) -> Clone:
    """A fresh clone for the shapes in `batch`."""
    params = behavior_network(config).init(key, batch.observations[:1])
    optimizer = optax.adam(config.behavior_learning_rate)
    return Clone(networks.trainable(params, optimizer), convergence.start())


def values_at(config: Config, params: Any, observations: jax.Array) -> jax.Array:
    """Q(s, .), (B, K)."""
    return critic_network(config).apply(params, observations)[0]


def log_behavior_at(config: Config, clone: Clone, observations: jax.Array) -> jax.Array:
    """Log beta(. | s), (B, K)."""
    logits = behavior_network(config).apply(clone.policy.params, observations, method="logits")
    return jax.nn.log_softmax(logits)


def behavior_step(config: Config, clone: Clone, batch: Batch) -> tuple[Clone, Metrics]:
    """One step of the clone.

    Metrics: ``behavior_loss``, the negative log-likelihood in nats; ``behavior_progress``, what
    about the last 900 updates took off it.
    """

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        logits = behavior_network(config).apply(params, batch.observations, method="logits")
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.actions[:, None], axis=1)
        loss = -jnp.mean(log_probs)
        penalty = config.logit_penalty * jnp.mean(jnp.square(logits))
        return loss + penalty, {"behavior_loss": loss}

    optimizer = optax.adam(config.behavior_learning_rate)
    policy, metrics = networks.minimize(loss_fn, clone.policy, optimizer)
    tracker = convergence.observe(clone.tracker, metrics["behavior_loss"])
    metrics = {**metrics, "behavior_progress": convergence.progress(tracker)}
    return Clone(policy, tracker), metrics


def critic_step(
    config: Config, critic: networks.Trainable, batch: Batch, next_values: jax.Array
) -> tuple[networks.Trainable, Metrics]:
    """One step of the critic, given values (B,) of the next observations.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a) over the batch; ``reward_max``, the largest
    size of a reward in it.
    """
    reward_max = ops.largest_reward(batch.rewards)
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        values = critic_network(config).apply(params, batch.observations, batch.actions)[0]
        loss = jnp.mean(optax.huber_loss(values, targets, delta=config.huber_width))
        q_value = jnp.mean(values)
        return loss, {"critic_loss": loss, "q_value": q_value, "reward_max": reward_max}

    return networks.minimize(loss_fn, critic, optax.adam(config.learning_rate))


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the clone still learns, or values exceed what rewards and discount allow."""
    found = ops.values_beyond_rewards(config.discount, metrics)
    if metrics.get("behavior_progress", 0.0) <= SETTLED:
        return found
    return [
        *found,
        "the cloned behaviour policy still learns: its likelihood rose by "
        f"{metrics['behavior_progress']:.3f} nats in about the last 900 updates, so the actions it "
        "calls likely are not yet those of the data; train longer, or raise behavior_learning_rate",
    ]
