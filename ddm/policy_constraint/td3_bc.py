"""TD3+BC: TD3 with a behaviour-cloning term in the policy loss (Fujimoto & Gu 2021, eq. 3-5).

    L_pi = - lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2,   lambda = alpha / mean |Q_1(s, pi(s))|

The second mean is over the batch and the action dimensions; lambda carries no gradient. The paper
standardises observations (`--normalize_observations=standardize`) and does not change rewards.
Networks start as in TD3 here: biases are 0, where the authors' are uniform.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddm import networks
from ddm.off_policy import td3
from ddm.off_policy.td3 import State, act, batch_spec, diagnose
from ddm.types import Batch, Metrics, PRNGKey, check_batch, check_continuous_example, leaf

__all__ = ["Config", "State", "act", "batch_spec", "diagnose", "init", "update"]


class Config(td3.Config):
    """Hyper-parameters of TD3 and the weight of the value term; defaults of the authors' code."""

    # weight of the normalised value against cloning; 0 is behaviour cloning
    alpha: float = leaf(2.5, "[0, inf)")


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous_example(config, batch, batch_spec(config), "td3_bc")
    return td3.init(config, key, batch)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """`policy_delay` critic steps, one policy step, one step of the targets.

    Metrics: ``critic_loss``, ``q_value``, ``reward_max``, ``actor_loss`` and ``bc_loss``, its
    second term.
    """
    check_batch(batch, batch_spec(config), "td3_bc")
    key, noise_key = jax.random.split(state.key)
    state, critic_metrics = td3.critic_steps(config, state, batch, noise_key)
    minibatch = td3.last_minibatch(config, batch)

    def actor_loss(params: Any) -> tuple[jax.Array, Metrics]:
        actions = state.actor.apply(params, minibatch.observations)
        values = networks.first_member(state.critic, minibatch.observations, actions)
        # The authors divide by the bare mean, which is 0 where all values are.
        scale = jnp.maximum(jnp.mean(jnp.abs(values)), 1e-8)
        weight = config.alpha / jax.lax.stop_gradient(scale)
        bc_loss = jnp.mean(jnp.square(actions - minibatch.actions))
        loss = bc_loss - weight * jnp.mean(values)
        return loss, {"actor_loss": loss, "bc_loss": bc_loss}

    state, actor_metrics = td3.actor_step(config, state, actor_loss)
    return state.replace(key=key), {**critic_metrics, **actor_metrics}
