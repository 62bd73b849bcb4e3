"""CQL: conservative Q-learning on top of SAC (Kumar et al. 2020, arXiv 2006.04779).

    L_Q = sum_i [ (Q_i(s, a) - y)^2 + alpha P_i(s) ]

``penalty`` names P, or is a function of your own:

- ``entropy``, CQL(H), eq. 4: log integral exp Q(s, a') da' - Q(s, a). The integral is estimated by
  importance sampling (appendix F) from uniform actions, pi(. | s) and pi(. | s'), the last valued
  at s as in the authors' code.
- ``kl``, CQL(rho), with the policy as rho: log E_{a' ~ pi} exp Q(s, a') - Q(s, a).
- ``expected``, eq. 2 with mu = pi: E_{a' ~ pi} Q(s, a') - Q(s, a). The value of the policy is
  bounded from below (theorem 3.2).
- ``pointwise``, eq. 1 with mu = pi: E_{a' ~ pi} Q(s, a'). Every Q is bounded from below (theorem
  3.1), and so the values are lower than need be.

With `lagrange`, alpha is a dual variable that steers the mean of P to `target_gap` between
`alpha_min` and `alpha_max`.

Conventions where papers and codes differ: the squared error has no factor 1/2, so alpha here is
twice the paper's, as in the authors' code; the target leaves out the entropy term
(`backup_entropy=0`); the integral is a mean over samples, not a sum, so a gap here is the
authors' gap minus log(3 `num_samples`), and it estimates the same number for every
`num_samples`. Temperature, policy and critic losses all see the parameters before the step.

The unit of a Lagrange gap. Over N = 30 samples the authors steer weight * (gap + log N) to their
threshold. They have a fixed weight and a dual variable that starts at 1; here the dual variable is
the product of the two and starts at `alpha`. Their threshold t at weight w is a `target_gap` of t /
w - log 30: the default, 1 - log 30 = -2.4, is their AntMaze setting (w = 5, t = 5), and w = 1, t =
5 is 1.6. JaxCQL and Cal-QL steer the gap itself: their threshold g is g - log 30 here, so 0.8
becomes -2.6. Values that do not depend on the action have a gap of log 2 for each action dimension:
a target above that turns the penalty off from the first step.

From the authors' code: two layers of 256, not three (`hidden_sizes`); they step the temperature
first, at the policy's step size of 1e-4; the likelihood of their cloning steps (`bc_steps`, 40,000
there) clamps the policy's means to 9; the policy's last layer starts at 1e-3 of the scale; the dual
variable is clamped in the loss, not in its parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddm import networks, ops
from ddm.lower_bound.parts import penalties
from ddm.lower_bound.parts.penalties import PenaltyFn
from ddm.off_policy import sac
from ddm.off_policy.sac import act, batch_spec
from ddm.types import (
    Batch,
    Metrics,
    PRNGKey,
    check_batch,
    check_continuous_example,
    choice,
    chosen,
    leaf,
    static,
)

__all__ = ["Config", "State", "act", "batch_spec", "diagnose", "init", "update"]

# The authors' for AntMaze, a weight of 5 and a gap of 5 over 30 samples, in this module's unit.
TARGET_GAP = 1.0 - math.log(30.0)


class PenaltyConfig(sac.Config):
    """Hyper-parameters of SAC and of the penalty, which COMBO has too."""

    # Adam's step size; the paper's 3e-5 is slower
    actor_learning_rate: float = leaf(1e-4, "[0, inf)")
    backup_entropy: float = leaf(0.0, "[0, inf)")  # weight of the entropy term in the critic target
    # weight of the penalty; with `lagrange`, where the dual variable starts, inside its bounds
    alpha: float = leaf(5.0, "[0, inf)")
    alpha_min: float = leaf(1e-6, "(0, inf)", at_most="alpha_max")  # floor of a learned alpha
    alpha_max: float = leaf(1e6, "(0, inf)")  # ceiling of a learned alpha, the authors'
    penalty_temperature: float = leaf(1.0, "(0, inf)")  # of the soft maximum over actions
    # gap that the dual variable steers to, a log-mean, see above; used with `lagrange`
    target_gap: float = leaf(TARGET_GAP, "(-inf, inf)")
    # Adam's step size of log alpha; used with `lagrange`
    alpha_learning_rate: float = leaf(3e-4, "[0, inf)")
    num_samples: int = static(10, "[1, inf)")  # actions from each of the three sources
    lagrange: bool = static(False)  # learn alpha
    max_target_backup: bool = static(False)  # back up the best of `num_samples` actions, not one


class Config(PenaltyConfig):
    """Hyper-parameters; defaults of the authors' locomotion runs."""

    penalty: str | PenaltyFn = choice(penalties.PENALTIES, "entropy")  # P(s), see above
    # first steps in which the policy is cloned; authors: 40,000 on locomotion
    bc_steps: int = leaf(0, "[0, inf)")


class State(sac.State):
    """SAC's state and the dual variable."""

    alpha: networks.Trainable  # its parameter is log alpha, ()


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous_example(config, batch, batch_spec(config), "cql")
    return with_dual(config, sac.init(config, key, batch))


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of temperature, policy, critics, dual variable and targets.

    Metrics: SAC's, and ``gap``, P (mean over members and batch); ``alpha``, its weight.
    """
    check_batch(batch, batch_spec(config), "cql")
    key, target_key, actor_key, sample_key = jax.random.split(state.key, 4)
    actor, actor_metrics = networks.minimize(
        lambda params: _actor_loss(config, state, params, batch, actor_key),
        state.actor,
        config.actor_learning_rate,
    )
    targets = critic_targets(config, state, batch, target_key)
    actions, log_densities = penalised_actions(config, state, batch, sample_key)
    weight = penalty_weight(config, state)
    penalty = chosen(config, "penalty")

    def critic_loss(params: Any) -> tuple[jax.Array, Metrics]:
        every_action = jnp.concatenate([batch.actions[:, None, :], actions], axis=1)
        values = state.critic.apply(params, batch.observations, every_action)
        data_values, sampled_values = values[..., 0], values[..., 1:]
        gaps = penalty(config, sampled_values, log_densities, data_values)
        error = ops.squared_td_error(data_values, targets)
        loss = error + weight * jnp.sum(jnp.mean(gaps, axis=1))
        q_value = jnp.mean(data_values)
        return loss, {"critic_loss": error, "q_value": q_value, "gap": jnp.mean(gaps)}

    critic, critic_metrics = networks.minimize(
        critic_loss, state.critic, config.critic_learning_rate
    )
    state = state.replace(
        actor=actor,
        critic=networks.follow(critic, config.target_rate),
        temperature=sac.temperature_step(config, state, actor_metrics["entropy"], batch),
        alpha=alpha_step(config, state, critic_metrics["gap"]),
        step=state.step + 1,
        key=key,
    )
    others = {
        "temperature": sac.temperature(state),
        "alpha": jnp.asarray(weight, jnp.float32),
        "reward_max": ops.largest_reward(batch.rewards),
    }
    return state, {**critic_metrics, **actor_metrics, **others}


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if a dual variable is at a bound, or values exceed what rewards allow.

    Args:
      config: one lane's, with numbers.
      metrics: that lane's, means over an interval.
    """
    return [*sac.diagnose(config, metrics), *alpha_at_bound(config, metrics)]


def _actor_loss(
    config: Config, state: State, params: Any, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """SAC's loss; for the first `bc_steps` the value term is the likelihood of the data."""
    policy = sac.policy_at(config, state.actor, batch.observations, params)
    actions, log_probs = policy.sample_and_log_prob(seed=key)
    values = state.critic(batch.observations, actions)
    merit = jnp.where(
        state.step < config.bc_steps, policy.log_prob(batch.actions), jnp.min(values, axis=0)
    )
    loss = jnp.mean(sac.temperature(state) * log_probs - merit)
    return loss, {"actor_loss": loss, "entropy": -jnp.mean(log_probs)}


# Pieces, which COMBO composes with imagined rows.


def with_dual(config: PenaltyConfig, base: sac.State) -> State:
    """SAC's state and a fresh dual variable."""
    log_alpha = networks.log_dual(config.alpha, config.alpha_min, config.alpha_max)
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
    return State(**fields, alpha=networks.trainable(None, log_alpha))


def critic_targets(
    config: PenaltyConfig, state: sac.State, batch: Batch, key: PRNGKey
) -> jax.Array:
    """Targets (B,): SAC's, or with the best of several actions."""
    if not config.max_target_backup:
        return sac.critic_targets(config, state, batch, key)
    policy = sac.policy_at(config, state.actor, batch.next_observations)
    next_actions = policy.sample(seed=key, sample_shape=(config.num_samples,))
    next_actions = jnp.moveaxis(next_actions, 0, 1)
    next_values = state.critic.target(batch.next_observations, next_actions)
    best = jnp.min(jnp.max(next_values, axis=2), axis=0)  # the authors' order: max, then min
    return ops.td_target(batch.rewards, config.discount, batch.terminations, best)


def penalised_actions(
    config: PenaltyConfig, state: sac.State, batch: Batch, key: PRNGKey
) -> tuple[jax.Array, jax.Array]:
    """Actions (B, 3 num_samples, A) at s and their log-densities (B, 3 num_samples).

    They are uniform, of pi(. | s), and of pi(. | s'); all of them are valued at s.
    """
    uniform_key, current_key, next_key = jax.random.split(key, 3)
    rows, action_size = batch.actions.shape
    uniform = jax.random.uniform(
        uniform_key, (config.num_samples, rows, action_size), jnp.float32, -1.0, 1.0
    )
    density = jnp.full(uniform.shape[:2], -action_size * math.log(2.0), jnp.float32)
    actions, log_densities = [uniform], [density]
    for observations, policy_key in (
        (batch.observations, current_key),
        (batch.next_observations, next_key),
    ):
        policy = sac.policy_at(config, state.actor, observations)
        sampled = policy.sample_and_log_prob(seed=policy_key, sample_shape=(config.num_samples,))
        actions.append(sampled[0])
        log_densities.append(sampled[1])
    return (
        jnp.moveaxis(jnp.concatenate(actions), 0, 1),
        jnp.moveaxis(jnp.concatenate(log_densities), 0, 1),
    )


def penalty_weight(config: PenaltyConfig, state: State) -> jax.Array | float:
    """Alpha: the given one, or the dual variable."""
    if not config.lagrange:
        return config.alpha
    return jnp.exp(state.alpha.params)


def alpha_step(config: PenaltyConfig, state: State, gap: jax.Array) -> networks.Trainable:
    """Alpha rises while the gap is above its target: ascent on alpha (gap - target), in bounds."""
    if not config.lagrange:
        return state.alpha
    gradient = -jnp.exp(state.alpha.params) * (gap - config.target_gap)
    bounds = networks.log_bounds(config.alpha_min, config.alpha_max)
    return networks.dual_step(gradient, state.alpha, config.alpha_learning_rate, *bounds)


def alpha_at_bound(config: PenaltyConfig, metrics: Mapping[str, float]) -> list[str]:
    """A sentence if alpha, where it is learned, is at a bound."""
    if not config.lagrange or "alpha" not in metrics or config.alpha_learning_rate <= 0.0:
        return []
    gap = f"the gap of {metrics.get('gap', float('nan')):.3g} stays "
    return networks.dual_at_bound(
        "alpha",
        metrics["alpha"],
        config.alpha_min,
        config.alpha_max,
        below=f"{gap}below target_gap={config.target_gap:.3g} without any penalty, so nothing "
        "keeps values low outside the data; lower target_gap",
        above=f"{gap}above target_gap={config.target_gap:.3g}, and rewards hardly count any more; "
        "raise target_gap",
    )
