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
from ddm.ops import convergence, updates
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
    critic_network: NetworkFn | None = network()  # in place of :func:`critic_network`
    behavior_network: NetworkFn | None = network()  # in place of :func:`behavior_network`


class Clone(struct.PyTreeNode):
    """The learned behaviour policy, and how far its training has converged."""

    policy: networks.Trainable
    tracker: convergence.Convergence


def critic_network(config: Config, num_actions: int) -> networks.Network:
    """Q(s, .), an ensemble with one member: called with observations (B, *O); returns (1, B, K)."""
    return networks.DiscreteActionValue(config.hidden_sizes, num_actions, 1)


def behavior_network(config: Config, num_actions: int) -> networks.Network:
    """Logits i(s, .) of the clone: called with observations (B, *O); returns (B, K)."""
    return networks.ActionScores(config.hidden_sizes, num_actions)


def check(config: Config, batch: Batch, name: str) -> None:
    """Refuses continuous actions, images, and a number of actions that is missing or too small.

    Raises:
      InputError: naming the algorithm and the field.
    """
    if config.num_actions < 1:
        raise InputError(f"{name}: needs num_actions, the number of discrete actions")
    check_actions(batch, config.num_actions, name)
    check_vectors(config, batch, name)


def init_critic(config: Config, key: PRNGKey, batch: Batch) -> networks.Tracked:
    """A fresh critic for the shapes in `batch`."""
    critic = (config.critic_network or critic_network)(config, config.num_actions)
    return networks.tracked(critic, critic.init(key, batch.observations[:1]))


def init_behavior(config: Config, key: PRNGKey, batch: Batch) -> Clone:
    """A fresh clone for the shapes in `batch`."""
    policy = (config.behavior_network or behavior_network)(config, config.num_actions)
    params = policy.init(key, batch.observations[:1])
    return Clone(networks.trainable(policy, params), convergence.start())


def behavior_step(config: Config, clone: Clone, batch: Batch) -> tuple[Clone, Metrics]:
    """One step of the clone.

    Metrics: ``behavior_loss``, the negative log-likelihood in nats; ``behavior_progress``, what
    about the last 900 updates took off it.
    """

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        logits = clone.policy.apply(params, batch.observations)
        loss = -jnp.mean(ops.of_actions(jax.nn.log_softmax(logits), batch.actions))
        penalty = config.logit_penalty * jnp.mean(jnp.square(logits))
        return loss + penalty, {"behavior_loss": loss}

    policy, metrics = networks.minimize(loss_fn, clone.policy, config.behavior_learning_rate)
    tracker = convergence.observe(clone.tracker, metrics["behavior_loss"])
    metrics = {**metrics, "behavior_progress": convergence.progress(tracker)}
    return Clone(policy, tracker), metrics


def critic_step(
    config: Config, critic: networks.Tracked, batch: Batch, next_values: jax.Array
) -> tuple[networks.Tracked, Metrics]:
    """One step of the critic, given values (B,) of the next observations.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a) over the batch; ``reward_max``, the largest
    size of a reward in it.
    """
    reward_max = ops.largest_reward(batch.rewards)
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        values = ops.of_actions(critic.apply(params, batch.observations)[0], batch.actions)
        loss = jnp.mean(optax.huber_loss(values, targets, delta=config.huber_width))
        q_value = jnp.mean(values)
        return loss, {"critic_loss": loss, "q_value": q_value, "reward_max": reward_max}

    return networks.minimize(loss_fn, critic, config.learning_rate)


def follow(config: Config, critic: networks.Tracked, step: jax.Array) -> networks.Tracked:
    """The critic with its target after update number `step`: a moving average, or a copy."""
    target_params = updates.follow(
        critic.target_params, critic.params, step, config.target_rate, config.target_period
    )
    return critic.replace(target_params=target_params)


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
