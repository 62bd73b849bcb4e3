"""DAC: discriminator-actor-critic (Kostrikov et al. 2019, arXiv 1809.02925), with SAC.

    max_D  E_E log D(s, a) + E_replay log(1 - D(s, a)) - lambda (||grad h|| - 1)^2
    SAC on the replay with r = h(s, a) of the present discriminator

GAIL off policy: the replay of old steps stands for the policy's own occupancy, without importance
weights. It needs far fewer steps of the environment. Rewards are computed anew for each sampled
row, never stored.

An end is not worth 0 but leads to an absorbing state, of which the critics learn the value like
that of any other (:mod:`ddm.imitation.parts.absorbing`). Its action is 0 and without entropy; the
policy does not learn there. A truncated episode leads nowhere: its value goes on.

An update is a block: `block_size` steps of the discriminator on as many mini-batches, then
`block_size` steps of SAC on the same rows; as many steps of the environment come before it.

From the authors' code: SAC in place of TD3; blocks of a fixed length in place of an episode's, and
the same rows for both parts of a block; a learned width in place of exploration noise; no halving
of the policy's step size, no late start of the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.experience import CollectSpec
from ddm.imitation.parts import absorbing, occupancy
from ddm.imitation.parts.occupancy import EXPERT, OWN, discriminator_network
from ddm.off_policy import sac
from ddm.off_policy.sac import actor_network, critic_network
from ddm.ops import occupancy_matching as matching
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    PyTree,
    check_continuous,
    choice,
    leaf,
    static,
)

__all__ = [
    "Config", "State", "act", "actor_network", "batch_spec", "collect_spec", "critic_network",
    "diagnose", "discriminator_network", "init", "update",
]  # fmt: skip


class Config(sac.Config, occupancy.OccupancyConfig):
    """Hyper-parameters of the discriminator (the authors') and of SAC."""

    discriminator_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    discriminator_entropy_weight: float = leaf(0.0, "[0, inf)")  # of an unsure discriminator
    discount: float = leaf(0.99, "[0, 1)")  # gamma
    # from the logit, see ddm.ops.occupancy_matching; a function in place of a name
    reward: str = choice(matching.REWARDS, "airl")
    block_size: int = static(50, "[1, inf)")  # steps of each part of an update
    discriminator_hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # tanh layers


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: sac.State
    discriminator: networks.Trainable
    step: jax.Array  # () int32, steps of the discriminator done, and as many of SAC
    key: PRNGKey


def batch_spec(config: Config) -> dict[str, BatchSpec]:
    """Rows of the log, and transitions of the replay."""
    return {
        OWN: BatchSpec(fields=TRANSITION_FIELDS, minibatches=config.block_size),
        EXPERT: occupancy.expert_spec(config, config.block_size),
    }


def collect_spec(config: Config) -> CollectSpec:
    """A step of the environment for each step of SAC, after 1,000 random ones as the authors'."""
    return CollectSpec(steps_per_update=config.block_size, random_steps=1_000)


def init(config: Config, key: PRNGKey, batch: Mapping[str, Batch]) -> State:
    """Fresh networks; with absorbing states, observations have one feature more.

    Raises:
      InputError: a source is missing, or demonstrations of another environment; integer actions,
        or images.
    """
    occupancy.check_sources(batch, batch_spec(config), "dac", example=True)
    own = batch[OWN]
    check_continuous(own, "dac")
    key, policy_key, discriminator_key = jax.random.split(key, 3)
    discriminator = occupancy.init(config, discriminator_key, own, own.actions.shape[-1])
    rows = occupancy.with_indicator(own) if config.absorbing else own
    return State(
        policy=sac.init(config, policy_key, rows),
        discriminator=discriminator,
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Mapping[str, Batch]) -> tuple[State, Metrics]:
    """A block of steps of the discriminator, then one of SAC.

    Metrics, means over the block: those of :func:`ddm.off_policy.sac.update`, those of
    :func:`ddm.imitation.parts.occupancy.compare`, ``reward`` and ``reward_spread``, mean and
    standard deviation of the discriminator's reward.
    """
    occupancy.check_sources(batch, batch_spec(config), "dac", example=False)
    key, fit_key = jax.random.split(state.key)
    expert, own = (occupancy.minibatches(batch[name], config.block_size) for name in (EXPERT, OWN))
    discriminator, found = occupancy.fit(config, state.discriminator, expert, own, fit_key)
    policy, metrics = jax.lax.scan(
        lambda policy, rows: policy_step(config, policy, discriminator, rows), state.policy, own
    )
    state = state.replace(
        policy=policy, discriminator=discriminator, step=state.step + config.block_size, key=key
    )
    return state, {**jax.tree.map(jnp.mean, metrics), **found}


def policy_step(
    config: Config, policy: sac.State, discriminator: networks.Trainable, own: Batch
) -> tuple[sac.State, Metrics]:
    """One step of SAC with the discriminator's rewards on rows (B, ...) of the environment."""
    key, absorbing_key, target_key, actor_key = jax.random.split(policy.key, 4)
    living = occupancy.with_indicator(own) if config.absorbing else own
    rows = absorbing.extend(own, absorbing_key) if config.absorbing else own
    rows = rows.replace(rewards=occupancy.rewards(config, discriminator, rows))
    targets = critic_targets(config, policy, rows, target_key)

    def critic_loss(params: Any) -> tuple[jax.Array, Metrics]:
        values = policy.critic.apply(params, rows.observations, rows.actions)
        loss = ops.squared_td_error(values, targets)
        return loss, {"critic_loss": loss, "q_value": jnp.mean(values)}

    critic, critic_metrics = networks.minimize(
        critic_loss, policy.critic, config.critic_learning_rate
    )
    policy = policy.replace(critic=critic)
    actor, actor_metrics = networks.minimize(
        lambda params: sac.actor_loss(config, policy, params, living, actor_key),
        policy.actor,
        config.actor_learning_rate,
    )
    policy = policy.replace(
        actor=actor,
        critic=networks.follow(critic, config.target_rate),
        temperature=sac.temperature_step(config, policy, actor_metrics["entropy"], living),
        step=policy.step + 1,
        key=key,
    )
    others = {
        "temperature": sac.temperature(policy),
        "reward_max": ops.largest_reward(rows.rewards),
        **occupancy.reward_metrics(rows.rewards),
    }
    return policy, {**critic_metrics, **actor_metrics, **others}


def critic_targets(config: Config, policy: sac.State, rows: Batch, key: PRNGKey) -> jax.Array:
    """Targets (B,); in the absorbing state the action is 0 and has no entropy."""
    if not config.absorbing:
        return sac.critic_targets(config, policy, rows, key)
    ended = rows.next_observations[:, -1] == 1.0  # in the absorbing state
    following = sac.policy_at(config, policy.actor, rows.next_observations)
    actions, log_probs = following.sample_and_log_prob(seed=key)
    actions = jnp.where(ended[:, None], 0.0, actions)
    bonuses = jnp.where(ended, 0.0, -sac.temperature(policy) * log_probs)
    values = jnp.min(policy.critic.target(rows.next_observations, actions), axis=0)
    soft_values = values + config.backup_entropy * bonuses
    return ops.td_target(rows.rewards, config.discount, rows.terminations, soft_values)


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """A sample of the policy, or tanh of its mean."""
    seen = absorbing.observe(observation) if config.absorbing else observation
    return sac.act(config, state.policy, seen, key, policy_state, deterministic=deterministic)


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the discriminator has collapsed, and those of SAC."""
    return [*occupancy.collapsed(metrics), *sac.diagnose(config, metrics)]
