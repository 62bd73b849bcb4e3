"""MBPO: model-based policy optimisation (Janner et al. 2019, arXiv 1906.08253, algorithm 2).

SAC in a learned model that is believed. Each update lets the policy act in the model from states of
the data, `rollout_length` steps far, and then takes `rollout_frequency` steps of SAC on batches of
real and imagined rows.

On logged data this is the baseline that the pessimistic methods mend: the policy looks for actions
whose outcome the model overestimates. It is MOPO without the penalty, to the bit.

Online (`--online --max_epochs=0 --model_updates=...`) the policy's own steps are the data, and each
update first takes `model_updates` gradient steps of the model on rows that it has drawn of them.
The authors train until the held-out error stops falling, every 250 steps of the environment, and
lengthen the rollouts on a schedule; here the number of the model's steps is fixed, and so is the
length.
"""

from __future__ import annotations

import jax

from ddm.model_based import dynamics
from ddm.model_based.parts import branched
from ddm.model_based.parts.branched import PARTS, State, act, batch_spec, diagnose, init
from ddm.off_policy import sac
from ddm.types import Batch, Metrics, Stage, check_batch, static

__all__ = [
    "PARTS", "Config", "State", "act", "batch_spec", "diagnose", "init", "notes", "prepare",
    "stages", "update",
]  # fmt: skip

prepare, notes = dynamics.prepare, dynamics.notes


class Config(branched.Config):
    """Hyper-parameters of the model, of SAC and of imagined episodes."""

    # gradient steps of the model in each update, on the update's rows; for learning online
    model_updates: int = static(0, "[0, inf)")


def stages(config: Config) -> tuple[Stage, ...]:
    """The model, then the policy."""
    return branched.stages(config, update)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """Imagined episodes, and `rollout_frequency` steps of SAC; before them the model's own steps.

    Metrics: those of SAC and of the imagined episodes (`branched.imagine`); those of the
    model (`dynamics.update`).
    """
    check_batch(batch, batch_spec(config), "mbpo")
    key, rollout_key, learning_key = jax.random.split(state.key, 3)
    if config.model_updates:
        state = state.replace(
            model=dynamics.refine(config, state.model, batch, config.model_updates)
        )
    imagined, found = branched.imagine(config, state, batch, rollout_key)
    policy, metrics = branched.learn(
        config, state.policy, batch, imagined, learning_key, sac.update
    )
    return branched.finished(config, state, policy, imagined, key, {**metrics, **found})
