"""SAC: soft actor-critic with a learned temperature (Haarnoja et al. 2018, arXiv 1812.05905).

    y       = r + gamma (1 - termination) (min_i Qbar_i(s', a') - alpha log pi(a' | s'))
    L_Q     = sum_i (Q_i(s, a) - y)^2
    L_pi    = alpha log pi(a | s) - min_i Q_i(s, a),   a ~ pi(. | s) reparameterised
    L_alpha = - log alpha (log pi(a | s) + target entropy)

Each update takes the critic step, then the policy step against the new critics, then the
temperature step with the same action sample, then moves the critic targets.

From the authors' code: widths have a floor of -5, as in offline codes, not -20; the temperature has
a floor and a ceiling, because with logged data it can rise or fall without end; biases start at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    # Adam's step size for log alpha; 0 fixes alpha
    temperature_learning_rate: float = leaf(3e-4, "[0, inf)")
    # alpha at the start
    initial_temperature: float = leaf(1.0, "(0, inf)", at_most="temperature_max")
    # its floor; where the policy cannot be less random it falls without end
    temperature_min: float = leaf(1e-6, "(0, inf)", at_most="initial_temperature")
    temperature_max: float = leaf(1e4, "(0, inf)")  # its ceiling; offline it can rise without end
    # entropy the temperature steers to, in nats per action dimension
    target_entropy: float = leaf(-1.0, "(-inf, inf)")
    discount: float = leaf(0.99, "[0, 1]")  # gamma
    target_rate: float = leaf(0.005, "(0, 1]")  # tau of the moving average of the critic targets
    # floor of the policy's log std; authors -20, offline codes -5
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    log_std_max: float = leaf(2.0, "(-inf, inf)")  # ceiling of the policy's log standard deviation
    # weight of the entropy term in the critic target; 0 leaves it out
    backup_entropy: float = leaf(1.0, "[0, inf)")
    num_critics: int = static(2, "[1, inf)")  # members of the critic ensemble
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # relu layers
    layer_norm: bool = static(False)  # in the critics
    actor_network: NetworkFn | None = network()  # in place of :func:`actor_network`
    critic_network: NetworkFn | None = network()  # in place of :func:`critic_network`


Regularizer = Callable[[Any, jax.Array], tuple[jax.Array, Metrics]]


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Trainable
    critic: networks.Tracked
    temperature: networks.Trainable  # its parameter is log alpha, ()
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    del config
    return BatchSpec(fields=TRANSITION_FIELDS)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous_example(config, batch, batch_spec(config), "sac")
    key, actor_key, critic_key = jax.random.split(key, 3)
    observations, actions = batch.observations[:1], batch.actions[:1]
    actor = (config.actor_network or actor_network)(config, actions.shape[-1])
    critic = (config.critic_network or critic_network)(config, actions.shape[-1])
    bounds = config.log_std_min, config.log_std_max
    log_temperature = jnp.log(jnp.asarray(config.initial_temperature, jnp.float32))
    return State(
        actor=networks.trainable(actor, actor.init(actor_key, observations, *bounds)),
        critic=networks.tracked(critic, critic.init(critic_key, observations, actions)),
        temperature=networks.trainable(None, log_temperature),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of critics, policy, temperature and targets.

    Metrics: ``critic_loss``; ``q_value``, mean over members and batch; ``reward_max``, the largest
    size of a reward in the batch; ``actor_loss``; ``entropy``, the sample estimate -log pi;
    ``temperature``.
    """
    check_batch(batch, batch_spec(config), "sac")
    return step(config, state, batch)


def step(
    config: Config, state: State, batch: Batch, regularizer: Regularizer | None = None
) -> tuple[State, Metrics]:
    """The update, for SAC and for methods that add a term to its critic loss.

    Args:
      config: of SAC.
      state: of SAC.
      batch: transitions.
      regularizer: (the critics' parameters, their values (E, B) of the logged actions) -> (a term
        of their loss, its metrics).
    """
    key, target_key, actor_key = jax.random.split(state.key, 3)
    targets = critic_targets(config, state, batch, target_key)

    def critic_loss(params: Any) -> tuple[jax.Array, Metrics]:
        values = state.critic.apply(params, batch.observations, batch.actions)
        loss = ops.squared_td_error(values, targets)
        metrics = {"critic_loss": loss, "q_value": jnp.mean(values)}
        if regularizer is None:
            return loss, metrics
        added, others = regularizer(params, values)
        return loss + added, {**metrics, **others}

    critic, critic_metrics = networks.minimize(
        critic_loss, state.critic, config.critic_learning_rate
    )
    state = state.replace(critic=critic)
    actor, actor_metrics = networks.minimize(
        lambda params: actor_loss(config, state, params, batch, actor_key),
        state.actor,
        config.actor_learning_rate,
    )
    state = state.replace(
        actor=actor,
        critic=networks.follow(critic, config.target_rate),
        temperature=temperature_step(config, state, actor_metrics["entropy"], batch),
        step=state.step + 1,
        key=key,
    )
    others = {"temperature": temperature(state), "reward_max": ops.largest_reward(batch.rewards)}
    return state, {**critic_metrics, **actor_metrics, **others}


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
    policy = policy_at(config, state.actor, observation)
    return (policy.mode() if deterministic else policy.sample(seed=key)), policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the temperature is at a bound, or values exceed what rewards allow.

    Args:
      config: one lane's, with numbers.
      metrics: that lane's, means over an interval.
    """
    bonus = config.backup_entropy * metrics.get("temperature", 0.0) * metrics.get("entropy", 0.0)
    return [
        *temperature_at_bound(config, metrics),
        *ops.values_beyond_rewards(config.discount, metrics, bonus=bonus),
    ]


# Pieces, which SAC's descendants compose with their own critic loss.


def actor_network(config: Config, action_size: int) -> networks.TanhGaussianPolicy:
    """The policy's network.

    Called with observations (..., *O), and the floor and the ceiling of the log standard
    deviations; returns a distribution with `sample`, `sample_and_log_prob`, `log_prob` and `mode`.
    """
    return networks.TanhGaussianPolicy(config.hidden_sizes, action_size)


def critic_network(config: Config, action_size: int) -> networks.ActionValue:
    """The ensemble of Q_i(s, a).

    Called with observations (B, *O) and actions (B, A) or (B, M, A); returns (E, B) or (E, B, M).
    """
    del action_size
    return networks.ActionValue(config.hidden_sizes, config.num_critics, config.layer_norm)


def policy_at(
    config: Config, actor: networks.Trainable, observations: jax.Array, params: Any = None
) -> networks.TanhGaussian:
    """The distribution pi(. | s); with other parameters than the policy's in a loss."""
    params = actor.params if params is None else params
    return actor.apply(params, observations, config.log_std_min, config.log_std_max)


def temperature(state: State) -> jax.Array:
    """alpha, a positive scalar."""
    return jnp.exp(state.temperature.params)


def critic_targets(config: Config, state: State, batch: Batch, key: PRNGKey) -> jax.Array:
    """Targets (B,): the minimum over target critics, with the configured entropy term."""
    policy = policy_at(config, state.actor, batch.next_observations)
    next_actions, log_probs = policy.sample_and_log_prob(seed=key)
    next_values = state.critic.target(batch.next_observations, next_actions)
    soft_values = (
        jnp.min(next_values, axis=0) - config.backup_entropy * temperature(state) * log_probs
    )
    return ops.td_target(batch.rewards, config.discount, batch.terminations, soft_values)


def actor_loss(
    config: Config, state: State, params: Any, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """Alpha log pi(a | s) - min_i Q_i(s, a) of the policy `params`, with its entropy."""
    policy = policy_at(config, state.actor, batch.observations, params)
    actions, log_probs = policy.sample_and_log_prob(seed=key)
    values = state.critic(batch.observations, actions)
    loss = jnp.mean(temperature(state) * log_probs - jnp.min(values, axis=0))
    return loss, {"actor_loss": loss, "entropy": -jnp.mean(log_probs)}


def temperature_at_bound(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """A sentence if the temperature, where it is learned, is at a bound."""
    if "temperature" not in metrics or config.temperature_learning_rate <= 0.0:
        return []
    entropy = f"the policy's entropy of {metrics.get('entropy', float('nan')):.3g} nats stays "
    return networks.dual_at_bound(
        "temperature",
        metrics["temperature"],
        config.temperature_min,
        config.temperature_max,
        below=entropy + "above its target without any reward for it, as where values hardly tell "
        "actions apart or log_std_min keeps it wide; lower log_std_min, or raise target_entropy or "
        "actor_learning_rate",
        above=entropy + "below its target, as that of a policy at the bounds of its actions does; "
        "raise log_std_min, or lower actor_learning_rate or target_entropy",
    )


def temperature_step(
    config: Config, state: State, entropy: jax.Array, batch: Batch
) -> networks.Trainable:
    """One dual step between its bounds: alpha rises while the entropy is below its target.

    The gradient is that of - log alpha (log pi + target), as in the authors' code, not of the
    paper's eq. 18 with alpha itself: the same sign, and a step that does not scale with alpha.
    """
    gap = entropy - config.target_entropy * batch.actions.shape[-1]
    bounds = networks.log_bounds(config.temperature_min, config.temperature_max)
    rate = config.temperature_learning_rate
    return networks.dual_step(gap, state.temperature, rate, *bounds)
