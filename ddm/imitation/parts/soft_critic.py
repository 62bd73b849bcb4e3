"""Soft action values and their policy at a fixed temperature, for both kinds of actions.

    discrete:    V(s) = alpha log sum_a exp(Q(s, a) / alpha)        pi = softmax(Q / alpha)
    continuous:  V(s) = min_i Q_i(s, a) - alpha log pi(a | s),      a ~ pi(. | s)

with one sample of a SAC actor, which ascends V. IQ-Learn and SQIL differ in how Q is learned.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.imitation.parts import absorbing
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    check_actions,
    check_example,
    check_vectors,
    leaf,
    network,
    static,
)

# Of demonstrations, which need no rewards.
STEP_FIELDS = ("observations", "actions", "next_observations", "terminations")


class Config(Configuration):
    """Hyper-parameters of critic and policy."""

    actor_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size; continuous actions
    critic_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size
    temperature: float = leaf(0.01, "(0, inf)")  # alpha, in units of the learned reward
    discount: float = leaf(0.99, "[0, 1)")  # gamma
    target_rate: float = leaf(0.005, "(0, 1]")  # of the moving average of the critic targets
    # floor of the policy's log std; continuous actions
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    log_std_max: float = leaf(2.0, "(-inf, inf)")  # ceiling of the policy's log standard deviation
    # absorbing transitions that each termination brings; used with `absorbing`
    absorbing_copies: float = leaf(1.0, "[0, inf)")
    num_actions: int = static(0, "[0, inf)")  # size of a discrete action space
    num_critics: int = static(2, "[1, inf)")  # members of the critic ensemble
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # relu layers
    layer_norm: bool = static(False)  # in the critics
    # terminations lead to a state whose value is learned, see `parts/absorbing.py`
    absorbing: bool = static(False)
    actor_network: NetworkFn | None = (
        network()
    )  # in place of :func:`actor_network`; continuous actions
    critic_network: NetworkFn | None = network()  # in place of :func:`critic_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: Any  # a `networks.Trainable`; the empty tuple for discrete actions
    critic: networks.Tracked
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def step_spec(config: Config) -> BatchSpec:
    """Transitions without rewards."""
    return BatchSpec(fields=STEP_FIELDS, num_actions=config.num_actions)


def actor_network(config: Config, action_size: int) -> networks.TanhGaussianPolicy:
    """The policy's network for continuous actions, SAC's.

    Called with observations (..., *O), and the floor and the ceiling of the log standard
    deviations; returns a distribution with `sample`, `sample_and_log_prob` and `mode`.
    """
    return networks.TanhGaussianPolicy(config.hidden_sizes, action_size)


def critic_network(config: Config, action_size: int) -> networks.Network:
    """The ensemble of Q_i.

    Discrete actions: called with observations (B, *O); returns (E, B, K). Continuous: called with
    observations and actions (B, A); returns (E, B).
    """
    if config.num_actions:
        return networks.DiscreteActionValue(
            config.hidden_sizes, action_size, config.num_critics, config.layer_norm
        )
    return networks.ActionValue(config.hidden_sizes, config.num_critics, config.layer_norm)


def init(config: Config, key: PRNGKey, batch: Batch, name: str) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: naming the algorithm; actions of the other kind, or images.
    """
    check_example(batch, step_spec(config), name)
    check_actions(batch, config.num_actions, name)
    check_vectors(config, batch, name)
    key, actor_key, critic_key = jax.random.split(key, 3)
    observations = observed(config, batch.observations[:1])
    make_critic = config.critic_network or critic_network
    actor: Any = ()
    if config.num_actions:
        critic = make_critic(config, config.num_actions)
        params = critic.init(critic_key, observations)
    else:
        actions = batch.actions[:1]
        critic = make_critic(config, actions.shape[-1])
        params = critic.init(critic_key, observations, actions)
        policy = (config.actor_network or actor_network)(config, actions.shape[-1])
        bounds = config.log_std_min, config.log_std_max
        actor = networks.trainable(policy, policy.init(actor_key, observations, *bounds))
    return State(
        actor=actor,
        critic=networks.tracked(critic, params),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """A sample of the policy; its mode if `deterministic`, for discrete actions the best one."""
    observation = observed(config, observation)
    if not config.num_actions:
        policy = policy_at(config, state.actor, observation)
        return (policy.mode() if deterministic else policy.sample(seed=key)), policy_state
    scores = jnp.min(state.critic(observation[None]), axis=0)[0] / config.temperature
    action = jnp.argmax(scores) if deterministic else jax.random.categorical(key, scores)
    return action.astype(jnp.int32), policy_state


def observed(config: Config, observations: jax.Array) -> jax.Array:
    """Observations as the networks read them: with the indicator of the absorbing state, if any."""
    return absorbing.observe(observations) if config.absorbing else observations


def steps(config: Config, batch: Batch, key: PRNGKey, *, own: bool = False) -> Batch:
    """Transitions as the losses read them: with absorbing ones, if there are any."""
    if not config.absorbing:
        return batch
    return absorbing.extend(
        batch, key, config.absorbing_copies, num_actions=config.num_actions, random_actions=own
    )


def action_values(config: Config, critic: networks.Tracked, params: Any, batch: Batch) -> jax.Array:
    """Q_i(s, a), (E, B), of the batch's actions under other parameters."""
    if not config.num_actions:
        return critic.apply(params, batch.observations, batch.actions)
    values = critic.apply(params, batch.observations)
    return ops.of_actions(values, jnp.broadcast_to(batch.actions, values.shape[:-1]))


def policy_at(
    config: Config, actor: networks.Trainable, observations: jax.Array, params: Any = None
) -> networks.TanhGaussian:
    """The distribution pi(. | s) of continuous actions; with other parameters in a loss."""
    params = actor.params if params is None else params
    return actor.apply(params, observations, config.log_std_min, config.log_std_max)


def values(
    config: Config, state: State, params: Any, observations: jax.Array, key: PRNGKey
) -> jax.Array:
    """V(s), (B,), of the present policy under other parameters of the critic."""
    if config.num_actions:
        each = jnp.min(state.critic.apply(params, observations), axis=0)
        return ops.matching.soft_maximum(each, config.temperature)
    policy = policy_at(config, state.actor, observations)
    actions, log_probs = policy.sample_and_log_prob(seed=key)
    each = state.critic.apply(params, observations, actions)
    return jnp.min(each, axis=0) - config.temperature * log_probs


def improve(
    config: Config, state: State, observations: jax.Array, key: PRNGKey
) -> tuple[State, Metrics]:
    """One step of the actor on V(s); discrete actions need none.

    Metrics: ``entropy`` of the policy, in nats (a sample estimate for continuous actions); with an
    actor ``actor_loss``.
    """
    if config.num_actions:
        scores = jnp.min(state.critic(observations), axis=0) / config.temperature
        log_probs = jax.nn.log_softmax(scores)
        return state, {"entropy": -jnp.mean(jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1))}

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        policy = policy_at(config, state.actor, observations, params)
        actions, log_probs = policy.sample_and_log_prob(seed=key)
        each = state.critic(observations, actions)
        loss = jnp.mean(config.temperature * log_probs - jnp.min(each, axis=0))
        return loss, {"actor_loss": loss, "entropy": -jnp.mean(log_probs)}

    actor, metrics = networks.minimize(loss_fn, state.actor, config.actor_learning_rate)
    return state.replace(actor=actor), metrics
