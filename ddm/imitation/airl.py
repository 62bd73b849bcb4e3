"""AIRL: adversarial inverse reinforcement learning (Fu et al. 2018, arXiv 1710.11248), with PPO.

    D = exp f / (exp f + pi(a | s)),   f(s, a, s') = g(s, a) + gamma v(s') - v(s)
    h = f - log pi(a | s),   the policy's reward is log D - log(1 - D) = h

GAIL's discriminator is a half everywhere at the end and forgets what it knew. Here the policy's own
probability is taken out of the logit, so that f = log pi_E remains: the soft advantage of the
expert. With `state_only` and deterministic dynamics, g is the reward itself up to a constant, and
can be used elsewhere; g(s, a) is known up to shaping (Ng et al. 1999). The reward h has an entropy
bonus of weight 1 in it.

After a termination nothing follows, and the potential v is 0 there; after a truncation it goes on.
An update takes `discriminator_steps` steps of the reward, then PPO on the same steps, as
:mod:`ddm.imitation.gail` does. `step` counts the steps of the reward.

From the authors' code: PPO in place of TRPO; own steps are those of the present policy, where
theirs mix in those of the last 20 iterations; no weight decay.

    reward = airl.learned_reward(config, state, observations, actions)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ddm import networks
from ddm.imitation.gail import draw_rows
from ddm.imitation.parts import occupancy
from ddm.imitation.parts.inner_ppo import act, diagnose, log_prob, resolve
from ddm.imitation.parts.occupancy import EXPERT, OWN
from ddm.networks import encoders, heads
from ddm.networks.heads import policy_network
from ddm.on_policy import ppo
from ddm.on_policy.parts import actor_critic, windows
from ddm.on_policy.parts.actor_critic import value_network
from ddm.on_policy.ppo import collect_spec
from ddm.ops import occupancy_matching
from ddm.types import (
    Batch,
    BatchSpec,
    Metrics,
    NetworkFn,
    PRNGKey,
    leaf,
    network,
    static,
)

__all__ = [
    "Config", "State", "act", "advantage_of", "batch_spec", "collect_spec", "diagnose", "init",
    "learned_reward", "log_prob", "policy_network", "potential_network", "resolve",
    "reward_network", "update", "value_network",
]  # fmt: skip


class Config(ppo.Config):
    """Hyper-parameters of the reward and of PPO."""

    reward_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size, of g and v
    # largest size of log pi(a | s) in the logit, in nats: the expert's actions can be far off
    log_prob_bound: float = leaf(20.0, "(0, inf)")
    discriminator_steps: int = static(4, "[1, inf)")  # of an update
    state_only: bool = static(True)  # g(s) in place of g(s, a)
    reward_hidden_sizes: tuple[int, ...] = static((32, 32), "[1, inf)")  # tanh layers of g and v
    reward_network: NetworkFn | None = network()  # in place of :func:`reward_network`
    potential_network: NetworkFn | None = network()  # in place of :func:`potential_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: actor_critic.State
    reward: networks.Trainable  # g
    potential: networks.Trainable  # v
    step: jax.Array  # () int32, steps of the reward done
    key: PRNGKey


def batch_spec(config: Config) -> dict[str, BatchSpec]:
    """Transitions of the log without rewards, and the last steps of every copy."""
    steps, own = config.discriminator_steps, ppo.batch_spec(config)
    fields = ("observations", "actions", "next_observations", "terminations")
    return {
        OWN: dataclasses.replace(own, minibatches=steps),
        EXPERT: BatchSpec(fields, steps, num_actions=config.num_actions),
    }


def reward_network(config: Config, action_size: int) -> nn.Module:
    """g: called with observations (B, *O) and, unless `state_only`, actions (B, A); gives (B,)."""
    del action_size
    return networks.OccupancyDiscriminator(config.reward_hidden_sizes, config.encoder)


def potential_network(config: Config, action_size: int) -> nn.Module:
    """v: called with observations (B, *O); gives (B,)."""
    del action_size
    return networks.OccupancyDiscriminator(config.reward_hidden_sizes, config.encoder)


def init(config: Config, key: PRNGKey, batch: Mapping[str, Batch]) -> State:
    """A fresh policy, a fresh reward and a fresh potential.

    Raises:
      InputError: a source is missing, or demonstrations of another environment; a head that does
        not explore, or does not fit the actions; images without an encoder.
    """
    occupancy.check_sources(batch, batch_spec(config), "airl", example=True)
    key, policy_key, reward_key, potential_key = jax.random.split(key, 4)
    own = batch[OWN]
    policy = actor_critic.init(config, policy_key, own, "airl", ppo.clipped_adam, ppo.clipped_adam)
    rows = jax.tree.map(lambda x: x[:1], windows.flatten(own))
    size = heads.action_size(config, rows)
    reward = (config.reward_network or reward_network)(config, size)
    potential = (config.potential_network or potential_network)(config, size)
    seen = _seen_by_reward(config, rows.observations, rows.actions)
    states = encoders.scale_pixels(rows.observations)
    return State(
        policy=policy,
        reward=networks.trainable(reward, reward.init(reward_key, *seen)),
        potential=networks.trainable(potential, potential.init(potential_key, states)),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Mapping[str, Batch]) -> tuple[State, Metrics]:
    """Steps of the reward, then PPO with the logit as reward on the policy's own steps.

    Metrics: those of :func:`ddm.on_policy.ppo.update`, whose ``return`` is that of the reward h;
    ``discriminator_loss``, ``expert_accuracy``, ``own_accuracy``, ``estimated_divergence`` as in
    :func:`ddm.imitation.parts.occupancy.compare`; ``reward`` and ``reward_spread`` of h;
    ``learned_reward``, the mean of g at own steps.
    """
    occupancy.check_sources(batch, batch_spec(config), "airl", example=False)
    expert, own = batch[EXPERT], batch[OWN]
    key, draw_key = jax.random.split(state.key)
    expert = occupancy.minibatches(expert, config.discriminator_steps)
    compared = draw_rows(draw_key, own, expert.observations.shape[:2])
    state, found = jax.lax.scan(
        lambda state, sides: reward_step(config, state, *sides), state, (expert, compared)
    )
    rows = windows.flatten(own)
    rewards = jax.lax.stop_gradient(logits(config, state, rows)).reshape(own.rewards.shape)
    policy, metrics = ppo.update(config, state.policy, own.replace(rewards=rewards))
    learned = learned_reward(config, state, rows.observations, rows.actions)
    state = state.replace(policy=policy, step=state.step + config.discriminator_steps, key=key)
    others = {"learned_reward": jnp.mean(learned), **occupancy.reward_metrics(rewards)}
    return state, {**metrics, **jax.tree.map(jnp.mean, found), **others}


def reward_step(config: Config, state: State, expert: Batch, own: Batch) -> tuple[State, Metrics]:
    """One logistic step of g and v on rows (B, ...) of both sides."""

    def loss(params: tuple[Any, Any]) -> tuple[jax.Array, Metrics]:
        sides = [logits(config, state, rows, params) for rows in (expert, own)]
        return occupancy.compare(occupancy_matching.logistic_loss, *sides)

    params = state.reward.params, state.potential.params
    gradients, metrics = jax.grad(loss, has_aux=True)(params)
    reward, potential = (
        networks.descend(gradient, model, config.reward_learning_rate)
        for gradient, model in zip(gradients, (state.reward, state.potential), strict=True)
    )
    return state.replace(reward=reward, potential=potential), metrics


def logits(
    config: Config, state: State, rows: Batch, params: tuple[Any, Any] | None = None
) -> jax.Array:
    """H = f - log pi(a | s) (B,), with other parameters of g and v in a loss."""
    log_probs = log_prob(config, state, rows.observations, rows.actions)
    bound = config.log_prob_bound
    return advantage_of(config, state, rows, params) - jnp.clip(log_probs, -bound, bound)


def advantage_of(
    config: Config, state: State, rows: Batch, params: tuple[Any, Any] | None = None
) -> jax.Array:
    """F = g + gamma v(s') - v(s) (B,): at the optimum the expert's soft advantage."""
    reward_params, params = params or (state.reward.params, state.potential.params)
    rewards = state.reward.apply(
        reward_params, *_seen_by_reward(config, rows.observations, rows.actions)
    )
    now, following = (
        state.potential.apply(params, encoders.scale_pixels(observations))
        for observations in (rows.observations, rows.next_observations)
    )
    return rewards + config.discount * jnp.where(rows.terminations, 0.0, following) - now


def learned_reward(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """The recovered reward g (B,); with `state_only` actions are not read."""
    return state.reward(*_seen_by_reward(config, observations, actions))


def _seen_by_reward(
    config: Config, observations: jax.Array, actions: jax.Array
) -> tuple[jax.Array, ...]:
    pixels = encoders.scale_pixels(observations)
    return (
        (pixels,) if config.state_only else (pixels, heads.as_vectors(actions, config.num_actions))
    )
