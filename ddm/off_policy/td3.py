"""TD3: twin delayed deep deterministic policy gradient (Fujimoto et al. 2018, algorithm 1).

    y   = r + gamma (1 - termination) min_i Qbar_i(s', clip(pibar(s') + clip(noise)))
    L_Q = sum_i (Q_i(s, a) - y)^2
    L_pi = - Q_1(s, pi(s)), and all targets, once every `policy_delay` critic steps

One `update` is one period of that delay: `policy_delay` critic steps on consecutive mini-batches,
then one policy step on the last of them. The update has no conditional branch, because under `vmap`
both sides of a branch would be computed. The targets do not change during the period, so one
forward pass gives their values for all its mini-batches. Difference from the authors' code: biases
start at 0, as everywhere in this library, not uniform like the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    check_batch,
    check_continuous_example,
    leaf,
    network,
    static,
)


class Config(Configuration):
    """Hyper-parameters; defaults are those of the authors' code."""

    actor_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size
    critic_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size
    discount: float = leaf(0.99, "[0, 1]")  # gamma
    # tau of the moving average of both targets, once per period
    target_rate: float = leaf(0.005, "(0, 1]")
    # standard deviation of the smoothing noise, in action units
    target_noise: float = leaf(0.2, "[0, inf)")
    target_noise_clip: float = leaf(0.5, "[0, inf)")  # bound of that noise
    # standard deviation added by a non-deterministic `act`
    exploration_noise: float = leaf(0.1, "[0, inf)")
    policy_delay: int = static(2, "[1, inf)")  # critic steps per policy step
    num_critics: int = static(2, "[1, inf)")  # members of the critic ensemble
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # relu layers
    layer_norm: bool = static(False)  # in the critics
    actor_network: NetworkFn | None = network()  # in place of :func:`actor_network`
    critic_network: NetworkFn | None = network()  # in place of :func:`critic_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Tracked
    critic: networks.Tracked
    step: jax.Array  # () int32, critic gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions; one mini-batch for each critic step of the period."""
    return BatchSpec(fields=TRANSITION_FIELDS, minibatches=config.policy_delay)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous_example(config, batch, batch_spec(config), "td3")
    key, actor_key, critic_key = jax.random.split(key, 3)
    observations, actions = batch.observations[:1], batch.actions[:1]
    actor = (config.actor_network or actor_network)(config, actions.shape[-1])
    critic = (config.critic_network or critic_network)(config, actions.shape[-1])
    return State(
        actor=networks.tracked(actor, actor.init(actor_key, observations)),
        critic=networks.tracked(critic, critic.init(critic_key, observations, actions)),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """`policy_delay` critic steps, one policy step, one step of the targets.

    Metrics: ``critic_loss`` and ``q_value`` (mean over members and batch), both of the period's
    last mini-batch; ``reward_max``, the largest size of a reward in the batch; ``actor_loss``.
    """
    check_batch(batch, batch_spec(config), "td3")
    key, noise_key = jax.random.split(state.key)
    state, critic_metrics = critic_steps(config, state, batch, noise_key)
    observations = last_minibatch(config, batch).observations

    def actor_loss(params: Any) -> tuple[jax.Array, Metrics]:
        actions = state.actor.apply(params, observations)
        loss = -jnp.mean(networks.first_member(state.critic, observations, actions))
        return loss, {"actor_loss": loss}

    state, actor_metrics = actor_step(config, state, actor_loss)
    return state.replace(key=key), {**critic_metrics, **actor_metrics}


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """pi(s), with Gaussian exploration noise unless `deterministic`."""
    action = state.actor(observation)
    if not deterministic:
        noise = config.exploration_noise * jax.random.normal(key, action.shape, action.dtype)
        action = jnp.clip(action + noise, -1.0, 1.0)
    return action, policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """A sentence if values exceed what rewards and discount allow."""
    return ops.values_beyond_rewards(config.discount, metrics)


# Pieces, which TD3's descendants compose with their own policy loss.


def actor_network(config: Config, action_size: int) -> networks.DeterministicPolicy:
    """pi(s): called with observations (..., *O); returns actions (..., A) in (-1, 1)."""
    return networks.DeterministicPolicy(config.hidden_sizes, action_size)


def critic_network(config: Config, action_size: int) -> networks.ActionValue:
    """The ensemble of Q_i(s, a): called with (B, *O) and (B, A); returns (E, B)."""
    del action_size
    return networks.ActionValue(config.hidden_sizes, config.num_critics, config.layer_norm)


def smoothed_actions(config: Config, state: State, batch: Batch, key: PRNGKey) -> jax.Array:
    """The target policy's next actions (B, A) with clipped noise (eq. 14)."""
    next_actions = state.actor.target(batch.next_observations)
    draw = jax.random.normal(key, next_actions.shape, next_actions.dtype)
    noise = config.target_noise * draw
    noise = jnp.clip(noise, -config.target_noise_clip, config.target_noise_clip)
    return jnp.clip(next_actions + noise, -1.0, 1.0)


def critic_targets(config: Config, state: State, batch: Batch, key: PRNGKey) -> jax.Array:
    """Targets (B,) with target policy smoothing and the minimum over the ensemble (eq. 14)."""
    next_actions = smoothed_actions(config, state, batch, key)
    next_values = jnp.min(state.critic.target(batch.next_observations, next_actions), axis=0)
    return ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)


def critic_steps(config: Config, state: State, batch: Batch, key: PRNGKey) -> tuple[State, Metrics]:
    """`policy_delay` critic steps, each on its share of the batch's rows."""
    return fit_critics(config, state, batch, critic_targets(config, state, batch, key))


def fit_critics(
    config: Config, state: State, batch: Batch, targets: jax.Array
) -> tuple[State, Metrics]:
    """`policy_delay` critic steps towards targets (B,) of all the batch's rows."""

    def critic_loss(
        params: Any, observations: jax.Array, actions: jax.Array, targets: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        values = state.critic.apply(params, observations, actions)
        loss = ops.squared_td_error(values, targets)
        return loss, {"critic_loss": loss, "q_value": jnp.mean(values)}

    critic, metrics = state.critic, {}
    rows = (batch.observations, batch.actions, targets)
    for share in zip(*(jnp.split(each, config.policy_delay) for each in rows), strict=True):
        critic, metrics = networks.minimize(
            lambda params, share=share: critic_loss(params, *share),
            critic,
            config.critic_learning_rate,
        )
    metrics = {**metrics, "reward_max": ops.largest_reward(batch.rewards)}
    return state.replace(critic=critic, step=state.step + config.policy_delay), metrics


def last_minibatch(config: Config, batch: Batch) -> Batch:
    """The rows of the period's last critic step, on which the policy is improved."""
    return jax.tree.map(lambda rows: jnp.split(rows, config.policy_delay)[-1], batch)


def actor_step(config: Config, state: State, actor_loss: networks.LossFn) -> tuple[State, Metrics]:
    """One policy step and one step of both targets."""
    actor, metrics = networks.minimize(actor_loss, state.actor, config.actor_learning_rate)
    actor, critic = (networks.follow(each, config.target_rate) for each in (actor, state.critic))
    return state.replace(actor=actor, critic=critic), metrics
