"""ReBRAC: TD3+BC with the penalty in the critic as well (Tarasov et al. 2023, arXiv 2305.09836).

    y    = r + gamma (1 - termination) (min_i Qbar_i(s', a~) - beta_2 |a~ - a'|^2)
    L_Q  = sum_i (Q_i(s, a) - y)^2
    L_pi = - lambda min_i Q_i(s, pi(s)) + beta_1 |pi(s) - a|^2

a~ is the smoothed action of the target policy, a' the logged next action, and lambda is
1 / mean |min_i Q_i(s, pi(s))|, without gradient. The penalties are sums over action dimensions,
where TD3+BC has a mean: with A dimensions, its alpha is 1 / (A beta_1). Rewards and observations
are not changed, except on AntMaze (rewards times 100, gamma 0.999).

The pieces are TD3's, and so are their differences from the authors' code. Layer norm stands before
the relu (theirs: after it). Last layers start at the usual scale (theirs: 1e-3 and 3e-3), and
biases at 0 (theirs: 0.1). The policy's target follows the policy of this step (theirs: of the step
before). The defaults are the authors' for locomotion, with batches of 1024. They choose beta_1 and
beta_2 for each dataset, mostly from 0.001 to 0.1 and from 0 to 0.5. Elsewhere they have step sizes
of 3e-4 and batches of 256.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddm import ops
from ddm.off_policy import td3
from ddm.off_policy.td3 import State, act
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    check_batch,
    check_continuous_example,
    leaf,
    static,
)

__all__ = ["Config", "State", "act", "batch_spec", "diagnose", "init", "update"]


class Config(td3.Config):
    """Hyper-parameters of TD3 and the weights of the penalties; the authors' for locomotion."""

    actor_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    critic_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # beta_1: penalty of the policy, per unit of normalised value
    actor_bc_weight: float = leaf(0.01, "[0, inf)")
    # beta_2: penalty of the target, in units of return
    critic_bc_weight: float = leaf(0.01, "[0, inf)")
    hidden_sizes: tuple[int, ...] = static((256, 256, 256), "[1, inf)")  # relu layers
    layer_norm: bool = static(True)  # in the critics
    normalize_q: bool = static(True)  # divide the policy's values by their mean size


def batch_spec(config: Config) -> BatchSpec:
    """Transitions with the next action; one mini-batch for each critic step of the period."""
    fields = (*TRANSITION_FIELDS, "next_actions")
    return BatchSpec(fields=fields, minibatches=config.policy_delay)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous_example(config, batch, batch_spec(config), "rebrac")
    return td3.init(config, key, batch)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """`policy_delay` critic steps, one policy step, one step of the targets.

    Metrics: ``critic_loss``; ``q_value``; ``reward_max``, the largest size of a reward in the
    batch; ``next_bc_loss``, mean |a~ - a'|^2; ``actor_loss``; ``bc_loss``, mean |pi(s) - a|^2.
    """
    check_batch(batch, batch_spec(config), "rebrac")
    key, noise_key = jax.random.split(state.key)
    targets, target_metrics = critic_targets(config, state, batch, noise_key)
    state, critic_metrics = td3.fit_critics(config, state, batch, targets)
    rows = td3.last_minibatch(config, batch)

    def actor_loss(params: Any) -> tuple[jax.Array, Metrics]:
        actions = state.actor.apply(params, rows.observations)
        values = jnp.min(state.critic(rows.observations, actions), axis=0)
        bc_loss = jnp.mean(_squared_distances(actions, rows.actions))
        loss = config.actor_bc_weight * bc_loss - _value_scale(config, values) * jnp.mean(values)
        return loss, {"actor_loss": loss, "bc_loss": bc_loss}

    state, actor_metrics = td3.actor_step(config, state, actor_loss)
    return state.replace(key=key), {**target_metrics, **critic_metrics, **actor_metrics}


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """A sentence if values exceed what rewards, the penalty and the discount allow."""
    penalty = config.critic_bc_weight * metrics.get("next_bc_loss", 0.0)
    return ops.values_beyond_rewards(config.discount, metrics, bonus=penalty)


def critic_targets(
    config: Config, state: State, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """Targets (B,) of TD3 less the penalty, with its mean before the weight."""
    next_actions = td3.smoothed_actions(config, state, batch, key)
    next_values = jnp.min(state.critic.target(batch.next_observations, next_actions), axis=0)
    penalties = _squared_distances(next_actions, batch.next_actions)
    next_values = next_values - config.critic_bc_weight * penalties
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)
    return targets, {"next_bc_loss": jnp.mean(penalties)}


def _value_scale(config: Config, values: jax.Array) -> jax.Array | float:
    """The lambda that gives values a mean size of 1."""
    if not config.normalize_q:
        return 1.0
    # The authors divide by the bare mean, which is 0 where all values are.
    return 1.0 / jax.lax.stop_gradient(jnp.maximum(jnp.mean(jnp.abs(values)), 1e-8))


def _squared_distances(one: jax.Array, other: jax.Array) -> jax.Array:
    """Squared distances (B,) of actions (B, A): the sum over dimensions."""
    return jnp.sum(jnp.square(one - other), axis=-1)
