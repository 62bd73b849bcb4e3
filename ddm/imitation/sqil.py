"""SQIL: soft Q-learning with a reward of 1 for demonstrations and 0 for own experience.

    y = r + gamma (1 - termination) Vbar(s'),   r = 1 at demonstrated rows, 0 at own ones
    L = sum_i  mean_E (Q_i(s, a) - y)^2 + lambda mean_own (Q_i(s, a) - y)^2

(Reddy et al. 2020, arXiv 1905.11108, algorithm 1.) There is no model of the reward and no game:
the policy is drawn back to demonstrated states because they lead to rewards. As its own rows become
like the demonstrated ones, both rewards meet in the same states and the signal fades.

Rewards are never negative, so that living on pays in itself where episodes end, whatever was
demonstrated: set `absorbing` there, which gives the absorbing states of demonstrations a reward of
1 as well.

Discrete actions: softmax of Q. Continuous ones: a SAC actor. The temperature is fixed, as in
soft Q-learning. From the authors' code: their target network is copied at intervals (here it is a
moving average); their temperature on Atari and Lunar Lander is 1, and that of the runs of SQIL in
IQ-Learn's code 0.01, which is the default here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddm import networks, ops
from ddm.experience import CollectSpec
from ddm.imitation.parts import soft_critic
from ddm.imitation.parts.soft_critic import State, act
from ddm.types import Batch, Metrics, PRNGKey, Spec, check_batch, leaf

__all__ = [
    "Config", "State", "act", "batch_spec", "collect_spec", "diagnose", "init", "update",
]  # fmt: skip


class Config(soft_critic.Config):
    """Hyper-parameters."""

    own_weight: float = leaf(1.0, "[0, inf)")  # lambda: weight of the error at own rows


def batch_spec(config: Config) -> Spec:
    """Transitions without rewards, of demonstrations and of the policy: as many of each."""
    spec = soft_critic.step_spec(config)
    return {"expert": spec, "own": spec}


def collect_spec(config: Config) -> CollectSpec:
    """One step of the environment for each update."""
    del config
    return CollectSpec(random_steps=1_000)


def init(config: Config, key: PRNGKey, batch: Mapping[str, Batch]) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: actions of the other kind, or images.
    """
    return soft_critic.init(config, key, batch["expert"], "sqil")


def update(config: Config, state: State, batch: Mapping[str, Batch]) -> tuple[State, Metrics]:
    """One step of the critics, of the actor if there is one, and of the targets.

    Metrics: ``critic_loss``; ``q_value`` and ``own_q_value``, mean Q(s, a) of demonstrated and of
    own rows; ``entropy`` in nats; ``actor_loss``.
    """
    for name in ("expert", "own"):
        check_batch(batch[name], soft_critic.step_spec(config), "sqil")
    key, expert_key, own_key, *target_keys, actor_key = jax.random.split(state.key, 6)
    expert = soft_critic.steps(config, batch["expert"], expert_key)
    own = soft_critic.steps(config, batch["own"], own_key, own=True)
    targets = [
        critic_targets(config, state, rows, reward, target_key)
        for rows, reward, target_key in zip((expert, own), (1.0, 0.0), target_keys, strict=True)
    ]

    def critic_loss(params: Any) -> tuple[jax.Array, Metrics]:
        values, own_values = (
            soft_critic.action_values(config, state.critic, params, rows) for rows in (expert, own)
        )
        own_error = ops.squared_td_error(own_values, targets[1])
        loss = ops.squared_td_error(values, targets[0]) + config.own_weight * own_error
        means = {"q_value": jnp.mean(values), "own_q_value": jnp.mean(own_values)}
        return loss, {"critic_loss": loss, **means}

    critic, critic_metrics = networks.minimize(
        critic_loss, state.critic, config.critic_learning_rate
    )
    state = state.replace(critic=critic)
    observations = jnp.concatenate([expert.observations, own.observations])
    state, actor_metrics = soft_critic.improve(config, state, observations, actor_key)
    state = state.replace(
        critic=networks.follow(critic, config.target_rate), step=state.step + 1, key=key
    )
    return state, {**critic_metrics, **actor_metrics}


def critic_targets(
    config: Config, state: State, rows: Batch, reward: float, key: PRNGKey
) -> jax.Array:
    """Targets (B,) at a constant reward."""
    values = soft_critic.values(
        config, state, state.critic.target_params, rows.next_observations, key
    )
    rewards = jnp.full_like(values, reward)
    return ops.td_target(rewards, config.discount, rows.terminations, values)


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """A sentence if values exceed what rewards of 1 allow.

    Args:
      config: one lane's, with numbers.
      metrics: that lane's, means over an interval.
    """
    bonus = config.temperature * metrics.get("entropy", 0.0)
    return ops.values_beyond_rewards(config.discount, {**metrics, "reward_max": 1.0}, bonus=bonus)
