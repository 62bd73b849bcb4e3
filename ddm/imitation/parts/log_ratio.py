"""The two players of ValueDICE: a policy, and nu, whose residuals are log ratios of occupancies.

    x(s, a, s') = nu(s, a) - gamma nu(s', a'),   a' ~ pi(. | s')

Discrete actions: the mean over a' is exact, and the policy's gradient comes through it. Continuous
ones: one sample of a SAC actor.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddm import networks, ops
from ddm.imitation.parts import absorbing, interpolation
from ddm.networks import heads
from ddm.types import Batch, PRNGKey


def actor_network(config: Any, action_size: int) -> networks.Network:
    """The policy's network: SAC's; a softmax over K discrete actions.

    Called with observations (B, *O), and for continuous actions with the floor and the ceiling of
    the log standard deviations; returns a distribution.
    """
    if config.num_actions:
        return networks.CategoricalPolicy(config.hidden_sizes, action_size)
    return networks.TanhGaussianPolicy(config.hidden_sizes, action_size)


def critic_network(config: Any, action_size: int) -> networks.Network:
    """The function nu, an ensemble with one member.

    Discrete actions: called with observations (B, *O); returns (1, B, K). Continuous: called with
    observations and actions (B, A); returns (1, B).
    """
    sizes, start = config.hidden_sizes, networks.orthogonal
    if config.num_actions:
        return networks.DiscreteActionValue(sizes, action_size, 1, kernel_init=start)
    return networks.ActionValue(sizes, 1, kernel_init=start)


def policy_at(config: Any, actor: networks.Trainable, params: Any, observations: jax.Array) -> Any:
    """The distribution pi(. | s) at observations (..., *O)."""
    return actor.apply(params, observations, *bounds(config))


def bounds(config: Any) -> tuple[Any, ...]:
    """What the policy's network is called with, beside observations."""
    return () if config.num_actions else (config.log_std_min, config.log_std_max)


class Players(NamedTuple):
    """Both networks at the parameters that a loss is taken at."""

    config: Any
    actor: networks.Trainable
    critic: networks.Trainable
    actor_params: Any
    critic_params: Any

    def policy(self, observations: jax.Array) -> Any:
        """The distribution pi(. | s)."""
        return policy_at(self.config, self.actor, self.actor_params, observations)

    def nu(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        """Values nu (B,) of pairs."""
        if self.config.num_actions:
            values = self.critic.apply(self.critic_params, observations)[0]
            return ops.of_actions(values, actions)
        return self.critic.apply(self.critic_params, observations, actions)[0]

    def nu_of_policy(self, observations: jax.Array, key: PRNGKey) -> jax.Array:
        """nu(s, pi), (B,): the mean over actions if discrete, else that of one sample."""
        policy = self.policy(observations)
        if self.config.num_actions:
            values = self.critic.apply(self.critic_params, observations)[0]
            return jnp.sum(jax.nn.softmax(policy.logits) * values, axis=-1)
        return self.nu(observations, policy.sample(seed=key))

    def residuals(self, rows: Batch, key: PRNGKey) -> jax.Array:
        """The log ratios nu(s, a) - gamma nu(s', pi), (B,)."""
        following = self.nu_of_policy(rows.next_observations, key)
        following = jnp.where(rows.terminations, 0.0, following)
        return self.nu(rows.observations, rows.actions) - self.config.discount * following

    def slope_penalty(self, expert: Batch, own: Batch | None, key: PRNGKey) -> jax.Array:
        """The penalty on nu's slopes between demonstrated and own pairs, and those that follow.

        Without own rows, the policy's actions at demonstrated states take their place; with
        discrete actions, whose values have slopes in observations only, other demonstrated states.
        """
        point_key, key, *keys = jax.random.split(key, 4)
        others = expert if own is None else own
        if self.config.num_actions:
            if own is None:
                others = jax.tree.map(lambda rows: jnp.roll(rows, 1, axis=0), expert)
            return interpolation.slope_penalty(
                lambda points: jnp.moveaxis(self.critic.apply(self.critic_params, points), -1, 1),
                jnp.concatenate([expert.observations, expert.next_observations]),
                jnp.concatenate([others.observations, others.next_observations]),
                point_key,
            )
        pairs = networks.concatenate_inputs(expert.observations, expert.actions)
        if own is None:
            other_pairs = self._pairs_of_policy(expert.observations, key)
        else:
            other_pairs = networks.concatenate_inputs(own.observations, own.actions)
        following = self._pairs_of_policy(expert.next_observations, keys[0])
        others_following = self._pairs_of_policy(others.next_observations, keys[1])
        size = expert.observations.shape[-1]
        return interpolation.slope_penalty(
            lambda points: self.nu(points[:, :size], points[:, size:]),
            jnp.concatenate([pairs, following]),
            jnp.concatenate([other_pairs, others_following]),
            point_key,
        )

    def _pairs_of_policy(self, observations: jax.Array, key: PRNGKey) -> jax.Array:
        """Inputs (B, O + A) of nu, of which the policy learns nothing."""
        actions = jax.lax.stop_gradient(self.policy(observations).sample(seed=key))
        return networks.concatenate_inputs(observations, actions)

    def action_error(self, rows: Batch) -> jax.Array:
        """Mean squared error of the policy's mode, (); the error rate for discrete actions."""
        modes = self.policy(rows.observations).mode()
        if self.config.num_actions:
            return jnp.mean((modes != rows.actions).astype(jnp.float32))
        heads.check_same_actions(modes, rows.actions, "value_dice")
        return jnp.mean(jnp.square(modes - rows.actions))


def observed(config: Any, observations: jax.Array) -> jax.Array:
    """Observations as the networks read them: with the indicator of the absorbing state, if any."""
    return absorbing.observe(observations) if config.absorbing else observations


def steps(config: Any, batch: Batch, key: PRNGKey, *, own: bool = False) -> Batch:
    """Transitions as the losses read them: with absorbing ones, if there are any."""
    if not config.absorbing:
        return batch
    first = batch.initial_observations
    batch = absorbing.extend(
        batch, key, config.absorbing_copies, num_actions=config.num_actions, random_actions=own
    )
    return batch if first is None else batch.replace(initial_observations=absorbing.observe(first))
