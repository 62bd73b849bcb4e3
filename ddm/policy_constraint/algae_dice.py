"""AlgaeDICE: policy gradients from arbitrary experience (Nachum et al. 2019, arXiv 1912.02074).

The paper's objective, with the convex f and its conjugate f*,

    max_pi min_nu (1 - gamma) E[nu(s_0, a_0)] + beta E_D[f*(delta / beta)],
    delta = r + gamma nu(s', a') - nu(s, a),

is the return less beta times the f-divergence of pi's discounted occupancy from the data. At its
inner optimum f*' of the scaled residual is the ratio of pi's occupancy to the data's, so that the
policy needs no importance weights. What is implemented is the form of the authors' code, with
f*(x) = |x|^p / p. There alpha multiplies the first term, where the paper's beta is in the second.
This is the objective times a constant, with alpha = beta^(p - 1). Most of the bootstrap comes from
target networks:

    delta_i = r + gamma (1 - termination) (nu_i'(s', a') - tau log pi(a' | s')) - nu_i(s, a)
    nu_i'   = kappa nu_i + (1 - kappa) min_j nubar_j,    a' ~ pi(. | s'),  a_0 ~ pi(. | s_0)
    L_nu    = sum_i mean f*(delta_i) + alpha (1 - gamma) mean nu_i(s_0, a_0)
    L_pi    = - mean_i mean [w_i delta_i + alpha (1 - gamma) nu_i(s_0, a_0)] + orthogonality
    w_i     = max(delta_i, 0)^(p - 1), without gradient

The gradient of L_nu flows through the share kappa of the bootstrap (`online_share`), and not
through the target; that of L_pi flows through a' and a_0 in all terms. With kappa = 1 and without
the entropy term tau this is the paper's objective; with the authors' kappa = 0.05 the residuals
are ratios for a discount of kappa gamma, and nu is close to a Q-function. The critics nu are
called `critic` in the state, as they estimate the value of pi for the reward less
(alpha times the ratio)^(1 / (p - 1)). The temperature tau learns as SAC's does here.

One `update` is `policy_delay` critic steps on consecutive mini-batches, then a step of the policy,
the temperature and the targets, as in the authors' code. The policy is SAC's here: its log std is
clipped to its range (theirs is squashed by a tanh), and its layers start uniform (theirs start
orthogonal). The penalty that keeps features orthogonal is theirs. It needs a discount below 1
(their form for the average reward is not implemented), and every batch needs first observations of
episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddm import networks, ops
from ddm.off_policy import sac
from ddm.off_policy.sac import State, act
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

MAX_RESIDUAL = 1e6  # above it a residual weighs no more in the policy's loss


class Config(sac.Config):
    """Hyper-parameters of SAC and of the objective; defaults of the authors' code."""

    actor_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    critic_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # Adam's step size for log tau; 0 fixes tau
    temperature_learning_rate: float = leaf(1e-3, "[0, inf)")
    initial_temperature: float = leaf(1.0, "(0, inf)")  # tau at the start
    # weight of the entropy term in the residual; 0 leaves it out
    backup_entropy: float = leaf(1.0, "[0, inf)")
    discount: float = leaf(0.99, "[0, 1)")  # gamma, below 1
    # of the moving average of the critic targets, once per period
    target_rate: float = leaf(0.005, "(0, 1]")
    # weight of the initial states; the paper's to the power of p - 1
    alpha: float = leaf(0.01, "[0, inf)")
    exponent: float = leaf(1.5, "[1, inf)")  # p of f*(x) = |x|^p / p, above 1; lower counts as 1
    online_share: float = leaf(0.05, "[0, 1]")  # kappa of the bootstrap; 1 is the paper's objective
    # of the policy's squared products of different features
    orthogonal_weight: float = leaf(1e-4, "[0, inf)")
    policy_delay: int = static(2, "[1, inf)")  # critic steps per policy step


def batch_spec(config: Config) -> BatchSpec:
    """Transitions and initial observations; one mini-batch for each critic step."""
    fields = (*TRANSITION_FIELDS, "initial_observations")
    return BatchSpec(fields=fields, minibatches=config.policy_delay)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous_example(config, batch, batch_spec(config), "algae_dice")
    return sac.init(config, key, batch)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """`policy_delay` critic steps, one step of policy, temperature and targets.

    Metrics: ``critic_loss``, ``q_value``, mean nu(s, a) over members, and ``density_ratio``, the
    mean of w / alpha, all of the period's last mini-batch; ``reward_max``, the largest size of a
    reward in the batch; ``actor_loss``; ``entropy``, the sample estimate -log pi at next
    observations; ``temperature``.
    """
    check_batch(batch, batch_spec(config), "algae_dice")
    key, actor_key, *critic_keys = jax.random.split(state.key, config.policy_delay + 2)
    shares = [
        jax.tree.map(lambda rows, i=i: jnp.split(rows, config.policy_delay)[i], batch)
        for i in range(config.policy_delay)
    ]
    critic_metrics: Metrics = {}
    for share, critic_key in zip(shares, critic_keys, strict=True):
        critic, critic_metrics = networks.minimize(
            lambda params, share=share, state=state, critic_key=critic_key: critic_loss(
                config, state, params, share, critic_key
            ),
            state.critic,
            config.critic_learning_rate,
        )
        state = state.replace(critic=critic)
    actor, actor_metrics = networks.minimize(
        lambda params: actor_loss(config, state, params, shares[-1], actor_key),
        state.actor,
        config.actor_learning_rate,
    )
    state = state.replace(
        actor=actor,
        temperature=sac.temperature_step(config, state, actor_metrics["entropy"], batch),
        critic=networks.follow(state.critic, config.target_rate),
        step=state.step + config.policy_delay,
        key=key,
    )
    others = {
        "temperature": sac.temperature(state),
        "reward_max": ops.largest_reward(batch.rewards),
    }
    return state, {**critic_metrics, **actor_metrics, **others}


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the temperature is at a bound, or values exceed what rewards allow.

    Args:
      config: one lane's, with numbers.
      metrics: that lane's, means over an interval.
    """
    # Without the entropy in the residual nothing here depends on the temperature.
    found = sac.temperature_at_bound(config, metrics) if config.backup_entropy > 0.0 else []
    entropy = config.backup_entropy * metrics.get("temperature", 0.0) * metrics.get("entropy", 0.0)
    # The density ratio takes at least this off a reward.
    ratio = config.alpha * metrics.get("density_ratio", 0.0)
    cost = ratio ** (1.0 / max(config.exponent - 1.0, 1e-3)) if ratio > 0.0 else 0.0
    bonus = abs(entropy) + cost
    return found + ops.values_beyond_rewards(config.discount, metrics, bonus=bonus)


def residuals(
    config: Config, state: State, actor_params: Any, critic_params: Any, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The residuals delta (E, B) and values nu(s, a) (E, B), and log pi(a' | s') (B,)."""
    policy = sac.policy_at(config, state.actor, batch.next_observations, actor_params)
    next_actions, log_probs = policy.sample_and_log_prob(seed=key)
    online = state.critic.apply(critic_params, batch.next_observations, next_actions)
    target = state.critic.target(batch.next_observations, next_actions)
    target = jnp.broadcast_to(jnp.min(target, axis=0), online.shape)
    bootstrap = config.online_share * online + (1.0 - config.online_share) * target
    entropy = config.backup_entropy * sac.temperature(state) * log_probs[None]
    bootstrap = bootstrap - entropy
    # Not `ops.td_target`, which stops the gradient.
    bootstrap = jnp.where(batch.terminations[None], 0.0, bootstrap)
    backups = batch.rewards[None] + config.discount * bootstrap
    values = state.critic.apply(critic_params, batch.observations, batch.actions)
    return backups - values, values, log_probs


def initial_values(
    config: Config, state: State, actor_params: Any, critic_params: Any, batch: Batch, key: PRNGKey
) -> jax.Array:
    """The term alpha (1 - gamma) nu_i(s_0, a_0), (E, B), at actions of the policy."""
    policy = sac.policy_at(config, state.actor, batch.initial_observations, actor_params)
    actions = policy.sample(seed=key)
    values = state.critic.apply(critic_params, batch.initial_observations, actions)
    return config.alpha * (1.0 - config.discount) * values


def critic_loss(
    config: Config, state: State, params: Any, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """L_nu, the sum over critics of the mean over the batch."""
    next_key, initial_key = jax.random.split(key)
    deltas, values, _ = residuals(config, state, state.actor.params, params, batch, next_key)
    initial = initial_values(config, state, state.actor.params, params, batch, initial_key)
    exponent = _exponent(config)
    costs = jnp.abs(deltas) ** exponent / exponent
    loss = jnp.sum(jnp.mean(costs + initial, axis=1))
    metrics = {
        "critic_loss": loss,
        "q_value": jnp.mean(values),
        "density_ratio": jnp.mean(_weights(config, deltas)) / jnp.maximum(config.alpha, 1e-8),
    }
    return loss, metrics


def actor_loss(
    config: Config, state: State, params: Any, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """L_pi, with the critics as they are."""
    next_key, initial_key = jax.random.split(key)
    deltas, _, log_probs = residuals(config, state, params, state.critic.params, batch, next_key)
    initial = initial_values(config, state, params, state.critic.params, batch, initial_key)
    gain = jnp.mean(_weights(config, deltas) * deltas + initial)
    loss = config.orthogonal_weight * ops.orthogonality_penalty(params) - gain
    return loss, {"actor_loss": loss, "entropy": -jnp.mean(log_probs)}


def _weights(config: Config, deltas: jax.Array) -> jax.Array:
    """f*' of the residuals where it is above 0: alpha times the ratio of occupancies."""
    positive = jnp.clip(jax.lax.stop_gradient(deltas), 0.0, MAX_RESIDUAL)
    return positive ** (_exponent(config) - 1.0)


def _exponent(config: Config) -> jax.Array:
    return jnp.maximum(config.exponent, 1.0)  # below, f* is not convex and its slopes are infinite
