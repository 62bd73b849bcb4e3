"""MOBILE: targets lowered by the model-Bellman inconsistency (Sun et al. 2023, ICML).

    y = r - c u(s, a) + gamma (1 - termination) min_j Qbar_j(s', a')
    u(s, a) = std over elites i of [ mean over M of min_j Qbar_j(s'_im, a'_im) ],
              s'_im ~ p_i(. | s, a),   a'_im ~ pi(. | s'_im);   0 at real rows

SAC in a learned model, with lower targets where the members disagree about what the next state is
*worth*. MOPO's penalty does not know whether an error of the model matters; this one does, and it
changes as the values do, so that it is computed at each gradient step. It has the unit of the
values: `penalty` needs no change where rewards or observations are scaled.

As in the authors' code: u leaves out the members' rewards, gamma and their terminations, which the
paper's Bellman estimates have; the std is that of a sample (divided by E - 1); the actions are
samples of the present policy; no entropy term in the targets; real rows are not penalised.
Otherwise: their code clamps targets at 0, so that a task with negative rewards learns nothing, and
here they are not clamped; the policy's step size does not decay.

Settings of the authors: real_share 0.05 (halfcheetah medium-expert 0.5); rollout_length 5 (walker2d
medium-replay and medium-expert 1); c for halfcheetah / hopper / walker2d: random 0.5 / 5 / 2,
medium 0.5 / 1.5 / 0.5, medium-replay 0.1 / 0.1 / 0.5, medium-expert 2 / 1.5 / 1.5 (halfcheetah 1 in
one of their two repositories). On hopper medium, and medium-replay in one, they fix the temperature
at 0.2 (`initial_temperature=0.2 --temperature_learning_rate=0`).

The price: with 5 elites and M = 10, u takes 50 next states for each imagined row, each with one
pass of the policy and of all target critics, without gradients. On hopper's sizes with 256 rows a
step then takes 10.6 times the arithmetic of SAC's (6.0 against 0.57 GFLOP).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ddm import ops
from ddm.model_based import dynamics
from ddm.model_based.parts import branched, members
from ddm.model_based.parts.branched import PARTS, State, act, batch_spec, init
from ddm.off_policy import sac
from ddm.types import Batch, Metrics, PRNGKey, Stage, check_batch, leaf, static

__all__ = [
    "PARTS", "Config", "State", "act", "batch_spec", "diagnose", "init", "notes", "prepare",
    "stages", "update",
]  # fmt: skip

prepare, notes = dynamics.prepare, dynamics.notes


class Config(branched.Config):
    """Hyper-parameters of the model, of SAC, of imagined episodes and of the penalty."""

    penalty: float = leaf(1.5, "[0, inf)")  # c, of the spread of values; the authors' 0.1 to 5
    num_next_states: int = static(10, "[1, inf)")  # M, of each elite for each imagined row
    actor_learning_rate: float = leaf(1e-4, "[0, inf)")  # Adam's step size
    # Adam's step size for log alpha; 0 fixes alpha
    temperature_learning_rate: float = leaf(1e-4, "[0, inf)")
    temperature_max: float = leaf(1.0, "(0, inf)")  # its ceiling, the authors'
    backup_entropy: float = leaf(0.0, "[0, inf)")  # weight of the entropy term in the critic target


def stages(config: Config) -> tuple[Stage, ...]:
    """The model, then the policy."""
    return branched.stages(config, update)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """Imagined episodes, and `rollout_frequency` steps of SAC with penalised targets.

    Metrics: those of SAC and of the imagined episodes (`branched.imagine`); ``penalty``, mean of
    c u over the imagined rows of the batches; ``not_valued``, share of these that were cut, see
    :func:`step`; those of the model (`dynamics.update`).
    """
    check_batch(batch, batch_spec(config), "mobile")
    num_real = branched.num_real(config, len(batch.rewards) // config.rollout_frequency)
    key, rollout_key, learning_key = jax.random.split(state.key, 3)
    imagined, found = branched.imagine(config, state, batch, rollout_key)
    one_step = functools.partial(step, model=state.model, num_real=num_real)
    policy, metrics = branched.learn(config, state.policy, batch, imagined, learning_key, one_step)
    return branched.finished(config, state, policy, imagined, key, {**metrics, **found})


def step(
    config: Config, policy: sac.State, batch: Batch, model: dynamics.State, num_real: int
) -> tuple[sac.State, Metrics]:
    """One step of SAC on a mixed batch whose imagined rows are penalised.

    An imagined row is cut where a member predicts a next state that is not finite, or values there
    are not: its u is unknown. Another row of the batch stands in its place. Where none is left,
    which takes a `real_share` of 0, the metrics are not finite, and a run stops.

    Args:
      config: of the method.
      policy: SAC's state.
      batch: real rows, then imagined ones.
      model: the ensemble.
      num_real: how many are real.
    """
    key = jax.random.fold_in(policy.key, 3)  # next to the three that SAC splits its key into
    imagined = jax.tree.map(lambda x: x[num_real:], batch)
    unsure = value_spread(config, policy, model, imagined.observations, imagined.actions, key)
    valued = jnp.isfinite(unsure)
    rewards = ops.penalized_rewards(imagined.rewards, unsure, config.penalty)
    rewards = jnp.concatenate([batch.rewards[:num_real], rewards])
    kept = _in_place_of_cut(jnp.concatenate([jnp.ones(num_real, bool), valued]))
    batch = jax.tree.map(lambda x: x[kept], batch.replace(rewards=rewards))
    policy, metrics = sac.update(config, policy, batch)
    count = jnp.sum(valued, dtype=jnp.float32)
    total = jnp.sum(jnp.where(valued, config.penalty * unsure, 0.0))
    return policy, {
        **metrics,
        "penalty": total / jnp.maximum(count, 1.0),
        "not_valued": jnp.sum(~valued, dtype=jnp.float32) / max(len(unsure), 1),
    }


def value_spread(
    config: Config,
    policy: sac.State,
    model: dynamics.State,
    observations: jax.Array,
    actions: jax.Array,
    key: PRNGKey,
) -> jax.Array:
    """u(s, a), (B,): how much the elites disagree about the value of the next state.

    It is not finite where a next state or its value is not.

    Args:
      config: of the method.
      policy: whose actions follow, and whose target critics value them.
      model: the ensemble.
      observations: (B, O).
      actions: (B, A).
      key: used once.
    """
    noise_key, action_key = jax.random.split(key)
    elites = members.elites(config, model.holdout_errors)
    params = jax.tree.map(lambda x: x[elites], model.params)
    expected = members.predict(config, model.members, params, model.scales, observations, actions)
    shape = (config.num_next_states, *expected.means[..., 1:].shape)  # (M, E, B, O)
    noise = jax.random.normal(noise_key, shape, expected.means.dtype)
    following = expected.means[None, ..., 1:] + expected.stds[None, ..., 1:] * noise

    flat = following.reshape(-1, shape[-1])
    next_actions = sac.policy_at(config, policy.actor, flat).sample(seed=action_key)
    values = jnp.min(policy.critic.target(flat, next_actions), axis=0).reshape(shape[:-1])
    finite = jnp.all(jnp.isfinite(following), axis=(0, 1, 3))  # a relu can hide that one is not
    return jnp.where(finite, _sample_std(jnp.mean(values, axis=0)), jnp.nan)


def _in_place_of_cut(kept: jax.Array) -> jax.Array:
    """(B,) row numbers: each row that is kept, and those again in the places of the others."""
    rows = jnp.arange(len(kept))
    first = jnp.argsort(~kept, stable=True)  # the rows that are kept, then the others
    return jnp.where(kept, rows, first[rows % jnp.maximum(jnp.sum(kept), 1)])


def _sample_std(values: jax.Array) -> jax.Array:
    """(B,) of (E, B), divided by E - 1; 0 for a single elite."""
    squares = jnp.sum((values - jnp.mean(values, axis=0, keepdims=True)) ** 2, axis=0)
    return jnp.sqrt(squares / max(len(values) - 1, 1))


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences of MBPO, and one on imagined rows that were cut."""
    share = metrics.get("not_valued", 0.0)
    found = (
        f"{100.0 * share:.3g} % of the imagined rows were left out of the targets, because a "
        "member predicts what is not finite after them: the model is unsure far beyond the log; "
        "shorten rollout_length, or train the model for longer"
    )
    return [*branched.diagnose(config, metrics), *([found] if share > 0.0 else [])]
