"""COMBO: conservative offline model-based policy optimisation (Yu et al. 2021, arXiv 2102.08363).

    L_Q = sum_i [ E_mix (Q_i(s, a) - y)^2
                  + beta (E_{s ~ rho} log integral exp Q_i(s, a') da' - E_real Q_i(s, a)) ]

SAC in a learned model that is believed, as in MBPO, with the penalty of CQL on the values: they
fall where the policy and the model lead, and rise at the pairs of the log. So nothing has to say
how unsure the model is. Logged pairs only are raised, not all pairs of a batch: this is what makes
imagined pairs fall. Beta is `alpha`, as in :mod:`ddm.lower_bound.cql`, whose conventions hold here
but for the order of the steps, with the dual variable and the unit of its gap. With weight 0 this
is MBPO to the bit.

Its choices. rho, the states whose values fall: all states of a batch, or those of the model
(`rho_states`). The actions of imagined episodes: the policy's, or uniform ones (`rollout_actions`).
OfflineRL-Kit's settings for halfcheetah / hopper / walker2d: `rollout_length` 5 / 5 / 1; beta 0.5 /
5 / 5 on medium, 0.5 on medium-replay, 5 on medium-expert.

From that code: a step takes the critics first and then the policy, as SAC does here; two layers of
256, not three (`hidden_sizes`). Its soft maximum is over three actions, one of each kind, and the
mean of `num_samples` of these counts, for a reshape of the samples is not kept; here it is over all
of them, which is closer to the integral (`--num_samples=1` has the expectation of theirs). The
paper has a factor 1/2 on the squared error, which that code and this one leave out, so its beta of
1 is 2 here. A step takes 12 times the arithmetic of SAC's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddm import networks, ops
from ddm.errors import InputError
from ddm.lower_bound import cql
from ddm.model_based import dynamics
from ddm.model_based.parts import branched
from ddm.model_based.parts.branched import PARTS, BehaviorFn, State, act, batch_spec, own_actions
from ddm.off_policy import sac
from ddm.types import Batch, Metrics, PRNGKey, Stage, check_batch, choice, chosen, leaf, static

__all__ = [
    "PARTS", "Config", "State", "act", "batch_spec", "diagnose", "init", "notes", "prepare",
    "stages", "update",
]  # fmt: skip

prepare, notes = dynamics.prepare, dynamics.notes

# (mixed batch, number of real rows, which come first) -> rows whose values fall
StatesFn = Callable[[Batch, int], Batch]


def mixed_states(batch: Batch, num_real: int) -> Batch:
    """All rows."""
    del num_real
    return batch


def imagined_states(batch: Batch, num_real: int) -> Batch:
    """The model's rows."""
    return jax.tree.map(lambda x: x[num_real:], batch)


def uniform_actions(
    config: Config, policy: sac.State, observations: jax.Array, key: PRNGKey
) -> jax.Array:
    """Actions (B, A) that know nothing of the policy but their shape."""
    like = sac.policy_at(config, policy.actor, observations).mode()
    return jax.random.uniform(key, like.shape, like.dtype, -1.0, 1.0)


STATES: dict[str, StatesFn] = {"mixed": mixed_states, "imagined": imagined_states}
ACTIONS: dict[str, BehaviorFn] = {"policy": own_actions, "uniform": uniform_actions}


class Config(cql.PenaltyConfig, branched.Config):
    """Hyper-parameters of the model, of SAC, of imagined episodes and of the penalty on values."""

    # Adam's step size for log alpha; 0 fixes alpha
    temperature_learning_rate: float = leaf(1e-4, "[0, inf)")
    # share of real rows in each batch; 1 leaves out the model: CQL
    real_share: float = static(0.5, "(0, 1]")
    rho_states: str | StatesFn = choice(STATES, "mixed")  # rho(s), whose values fall
    rollout_actions: str | BehaviorFn = choice(ACTIONS, "policy")  # in imagined episodes


def stages(config: Config) -> tuple[Stage, ...]:
    """The model, then the policy."""
    return branched.stages(config, update)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh model, a fresh policy with its dual variable, and no imagined transition.

    Raises:
      InputError: integer actions, or images.
    """
    state = branched.init(config, key, batch)
    return state.replace(policy=cql.with_dual(config, state.policy))


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """Imagined episodes, and `rollout_frequency` steps of SAC with the penalty.

    Metrics: those of SAC and of the imagined episodes (`branched.imagine`); ``gap``, soft maximum
    of Q minus Q of the logged actions; ``alpha``, its weight; those of the model
    (`dynamics.update`).

    Raises:
      InputError: no row of a gradient step is imagined, and `rho_states` asks for them.
    """
    check_batch(batch, batch_spec(config), "combo")
    num_real = _num_real(config, len(batch.rewards) // config.rollout_frequency)
    key, rollout_key, learning_key = jax.random.split(state.key, 3)
    imagined, found = branched.imagine(
        config, state, batch, rollout_key, behavior=chosen(config, "rollout_actions")
    )
    policy, metrics = branched.learn(
        config,
        state.policy,
        batch,
        imagined,
        learning_key,
        functools.partial(step, num_real=num_real),
    )
    return branched.finished(config, state, policy, imagined, key, {**metrics, **found})


def step(
    config: Config, policy: cql.State, batch: Batch, num_real: int
) -> tuple[cql.State, Metrics]:
    """One step of critics, policy, temperature, dual variable and targets on a mixed batch.

    Args:
      config: of the method.
      policy: SAC's state and the dual variable.
      batch: real rows, then imagined ones.
      num_real: how many are real.
    """
    key, target_key, actor_key = jax.random.split(policy.key, 3)  # SAC's
    sample_key = jax.random.fold_in(policy.key, 3)  # their next sibling
    targets = cql.critic_targets(config, policy, batch, target_key)
    states = chosen(config, "rho_states")(batch, num_real)
    actions, log_densities = cql.penalised_actions(config, policy, states, sample_key)
    weight = cql.penalty_weight(config, policy)

    def critic_loss(params: Any) -> tuple[jax.Array, Metrics]:
        # Sampled actions are valued apart, so that weight 0 leaves every bit of SAC's gradient.
        values = policy.critic.apply(params, batch.observations, batch.actions)
        sampled = policy.critic.apply(params, states.observations, actions)
        highest = ops.soft_maximum(sampled, log_densities, config.penalty_temperature)
        gaps = jnp.mean(highest, axis=1) - jnp.mean(values[:, :num_real], axis=1)
        error = ops.squared_td_error(values, targets)
        q_value = jnp.mean(values)
        loss = error + weight * jnp.sum(gaps)
        return loss, {"critic_loss": error, "q_value": q_value, "gap": jnp.mean(gaps)}

    critic, critic_metrics = networks.minimize(
        critic_loss, policy.critic, config.critic_learning_rate
    )
    policy = policy.replace(critic=critic)
    actor, actor_metrics = networks.minimize(
        lambda params: sac.actor_loss(config, policy, params, batch, actor_key),
        policy.actor,
        config.actor_learning_rate,
    )
    policy = policy.replace(
        actor=actor,
        critic=networks.follow(critic, config.target_rate),
        temperature=sac.temperature_step(config, policy, actor_metrics["entropy"], batch),
        alpha=cql.alpha_step(config, policy, critic_metrics["gap"]),
        step=policy.step + 1,
        key=key,
    )
    others = {
        "temperature": sac.temperature(policy),
        "alpha": jnp.asarray(weight, jnp.float32),
        "reward_max": ops.largest_reward(batch.rewards),
    }
    return policy, {**critic_metrics, **actor_metrics, **others}


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences of MBPO, and one on a learned weight that is at a bound."""
    return [*branched.diagnose(config, metrics), *cql.alpha_at_bound(config, metrics)]


def _num_real(config: Config, batch_size: int) -> int:
    """Real rows of a gradient step, at least 1."""
    count = branched.num_real(config, batch_size)
    if count == batch_size and config.rho_states in ("imagined", imagined_states):
        raise InputError(
            f"combo: rho_states=imagined, and all {batch_size} rows of a batch are real "
            f"(real_share={config.real_share}): expected a share below 1"
        )
    return count
