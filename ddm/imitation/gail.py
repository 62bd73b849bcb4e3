"""GAIL: generative adversarial imitation learning (Ho & Ermon 2016, 1606.03476), with PPO.

    max_D   E_E log D(x) + E_pi log(1 - D(x))
    max_pi  E_pi sum_t gamma^t r(x_t),   r = -log(1 - D) = softplus(h)

At the optimum of D the policy descends the Jensen-Shannon divergence of its occupancy from the
expert's. Cloning matches actions at the expert's states; this matches states, too, so a policy
returns to them after its own mistakes. It needs the environment, but neither its rewards nor the
expert.

An update takes `discriminator_steps` steps of the discriminator, each on `batch_size` rows of the
log and as many of the policy's own last steps. Then PPO (:mod:`ddm.on_policy.ppo`) learns from the
same steps, with the rewards of the discriminator in place of the environment's. `step` counts the
steps of the discriminator.

- `discriminator_input`: `ss` is GAIfO (Torabi et al. 2018), which needs no actions of the expert.
- `reward`: the other divergences and shapes of :mod:`ddm.ops.occupancy_matching`.
- `absorbing`: what follows a termination is worth gamma r_abs / (1 - gamma), with the
  discriminator's reward r_abs of the absorbing state. Without it an end is worth 0, and the sign of
  the reward decides whether episodes shall be long or short.

From the authors' code: PPO in place of TRPO, several smaller steps of the discriminator in place of
one on all rows, a gradient penalty, absorbing states. They choose between `gail` and `gail_neg` by
task. Nothing is standardised inside: `--normalize_observations` does it, by the log's statistics.

    collector = ddm.Collector.create(environment, gail.collect_spec(config))
    learner, metrics = ddm.fit_online(gail, config, collector, key, 400, log=demonstrations)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks
from ddm.imitation.parts import occupancy
from ddm.imitation.parts.inner_ppo import act, diagnose, log_prob, resolve
from ddm.imitation.parts.occupancy import EXPERT, OWN, discriminator_network
from ddm.networks import heads
from ddm.networks.heads import policy_network
from ddm.on_policy import ppo
from ddm.on_policy.parts import actor_critic, windows
from ddm.on_policy.parts.actor_critic import value_network
from ddm.on_policy.ppo import collect_spec
from ddm.types import Batch, BatchSpec, Metrics, PRNGKey, leaf, static

__all__ = [
    "Config", "State", "act", "batch_spec", "collect_spec", "diagnose", "discriminator_network",
    "init", "log_prob", "policy_network", "resolve", "update", "value_network",
]  # fmt: skip


class Config(ppo.Config, occupancy.OccupancyConfig):
    """Hyper-parameters of the discriminator and of PPO."""

    discount: float = leaf(0.99, "[0, 1)")  # gamma
    discriminator_steps: int = static(4, "[1, inf)")  # of an update


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: actor_critic.State
    discriminator: networks.Trainable
    step: jax.Array  # () int32, steps of the discriminator done
    key: PRNGKey


def batch_spec(config: Config) -> dict[str, BatchSpec]:
    """Rows of the log, and the last steps of every copy of the environment."""
    steps = config.discriminator_steps
    own = ppo.batch_spec(config)
    return {
        OWN: dataclasses.replace(own, minibatches=steps),
        EXPERT: occupancy.expert_spec(config, steps),
    }


def init(config: Config, key: PRNGKey, batch: Mapping[str, Batch]) -> State:
    """A fresh policy and a fresh discriminator.

    Raises:
      InputError: a source is missing, or demonstrations of another environment; a head that does
        not explore, or does not fit the actions; images without an encoder.
    """
    occupancy.check_sources(batch, batch_spec(config), "gail", example=True)
    key, policy_key, discriminator_key = jax.random.split(key, 3)
    own = batch[OWN]
    policy = actor_critic.init(config, policy_key, own, "gail", ppo.clipped_adam, ppo.clipped_adam)
    rows = windows.flatten(own)
    size = heads.action_size(config, rows)
    return State(
        policy=policy,
        discriminator=occupancy.init(config, discriminator_key, rows, size),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Mapping[str, Batch]) -> tuple[State, Metrics]:
    """Steps of the discriminator, then PPO with its rewards on the policy's own steps.

    Metrics: those of :func:`ddm.on_policy.ppo.update`, whose ``return`` is that of the
    discriminator's reward; those of :func:`ddm.imitation.parts.occupancy.compare`; ``reward`` and
    ``reward_spread``, mean and standard deviation of the discriminator's reward.
    """
    spec = batch_spec(config)
    occupancy.check_sources(batch, spec, "gail", example=False)
    expert, own = batch[EXPERT], batch[OWN]
    key, draw_key, fit_key = jax.random.split(state.key, 3)
    expert = occupancy.minibatches(expert, config.discriminator_steps)
    compared = draw_rows(draw_key, own, expert.observations.shape[:2])
    discriminator, found = occupancy.fit(config, state.discriminator, expert, compared, fit_key)
    rewards, worth = rewards_of(config, discriminator, own)
    policy, metrics = ppo.update(config, state.policy, own.replace(rewards=worth))
    state = state.replace(
        policy=policy,
        discriminator=discriminator,
        step=state.step + config.discriminator_steps,
        key=key,
    )
    return state, {**metrics, **found, **occupancy.reward_metrics(rewards)}


def draw_rows(key: PRNGKey, own: Batch, shape: tuple[int, ...]) -> Batch:
    """Own steps at random, leaves (*shape, ...), from windows (N, T, ...)."""
    rows = windows.flatten(own)
    picked = jax.random.randint(key, shape, 0, rows.rewards.shape[0], jnp.int32)
    return windows.take(rows, picked)


def rewards_of(
    config: Config, discriminator: networks.Trainable, own: Batch
) -> tuple[jax.Array, jax.Array]:
    """The discriminator's rewards (N, T) of own steps, and the same with what follows an end."""
    rows = windows.flatten(own)
    shape = own.rewards.shape
    if not config.absorbing:
        rewards = occupancy.rewards(config, discriminator, rows).reshape(shape)
        return rewards, rewards
    rows = occupancy.with_indicator(rows)
    rewards = occupancy.rewards(config, discriminator, rows).reshape(shape)
    [staying] = occupancy.rewards(config, discriminator, occupancy.staying(rows))
    after = config.discount / (1.0 - config.discount) * staying  # for ever, from the next step on
    return rewards, rewards + jnp.where(own.terminations, after, 0.0)
