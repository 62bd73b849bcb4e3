"""MOPO: model-based offline policy optimisation (Yu et al. 2020, arXiv 2005.13239).

    r~(s, a) = r^(s, a) - lambda u(s, a)

SAC in a learned model whose rewards are lowered where the model is unsure. Each update lets the
policy act in the model from states of the log, `rollout_length` steps far, and then takes
`rollout_frequency` steps of SAC on batches of real and imagined rows. Real rows are not penalised.

`u` is a choice. The paper's analysis and code take the largest predicted standard deviation of any
member, with the reward's; where the noise is the same everywhere it does not know where data are
missing, and the members' disagreement does: see :mod:`ddm.model_based.parts.uncertainty`. It is
measured in the environment's units, so that a penalty of the paper means the same however the
policy's observations are scaled.

From the authors' code: the batch of a gradient step has `real_share` of its rows from the log as
there; imagined episodes begin at 50,000 rows drawn for the update's batches; the temperature has a
floor and a ceiling (see `sac`); the model's deviations stand in `dynamics`.
"""

from __future__ import annotations

import functools

import jax

from ddm import ops
from ddm.model_based import dynamics
from ddm.model_based.parts import branched
from ddm.model_based.parts.branched import PARTS, State, act, batch_spec, diagnose, init
from ddm.off_policy import sac
from ddm.types import Batch, Metrics, Stage, check_batch, leaf

__all__ = [
    "PARTS", "Config", "State", "act", "batch_spec", "diagnose", "init", "notes", "prepare",
    "stages", "update",
]  # fmt: skip

prepare, notes = dynamics.prepare, dynamics.notes


class Config(branched.Config):
    """Hyper-parameters of the model, of SAC, of imagined episodes and of the penalty."""

    # lambda, in units of reward per unit of observation; the paper tries 0.5, 1, 2 and 5
    penalty: float = leaf(1.0, "[0, inf)")


def stages(config: Config) -> tuple[Stage, ...]:
    """The model, then the policy."""
    return branched.stages(config, update)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """Imagined episodes, and `rollout_frequency` steps of SAC.

    Metrics: those of SAC and of the imagined episodes (`branched.imagine`); ``penalty``, its mean
    over imagined transitions; those of the model (`dynamics.update`).
    """
    check_batch(batch, batch_spec(config), "mopo")
    key, rollout_key, learning_key = jax.random.split(state.key, 3)
    imagined, found = branched.imagine(
        config, state, batch, rollout_key, functools.partial(penalized, config)
    )
    policy, metrics = branched.learn(
        config, state.policy, batch, imagined, learning_key, sac.update
    )
    return branched.finished(config, state, policy, imagined, key, {**metrics, **found})


def penalized(config: Config, rows: Batch, unsure: jax.Array) -> tuple[Batch, dict]:
    """Imagined transitions with the penalty in their rewards."""
    weight = config.penalty * config.reward_unit
    rewards = ops.penalized_rewards(rows.rewards, unsure, weight)
    return rows.replace(rewards=rewards), {"penalty": weight * unsure}
