"""MOReL (Kidambi et al. 2020, arXiv 2005.05951) planned by PPO in place of the natural gradient.

The pessimistic MDP is that of :mod:`ddm.model_based.morel`. A policy is first cloned from the log;
then each update makes the epochs of :mod:`ddm.on_policy.ppo` on its episodes in the model
(:mod:`ddm.model_based.parts.planning`). Against :mod:`ddm.model_based.morel_npg` there are no
systems to be solved, and an update changes the policy in many small steps.

    dynamics -> threshold -> cloning -> policy

In the paper the planner is free, and its experiments take the other one. Step sizes are constant.
"""

from __future__ import annotations

import jax

from ddm.model_based import dynamics
from ddm.model_based.parts import planning, rollouts
from ddm.model_based.parts.branched import PARTS
from ddm.model_based.parts.planning import State, act, batch_spec, diagnose
from ddm.networks.heads import policy_network
from ddm.on_policy import ppo
from ddm.on_policy.parts.actor_critic import value_network
from ddm.types import Batch, Metrics, PRNGKey, Stage, check_batch, leaf, static

__all__ = [
    "PARTS", "Config", "State", "act", "batch_spec", "diagnose", "init", "notes", "policy_network",
    "prepare", "stages", "update", "value_network",
]  # fmt: skip

prepare, notes = dynamics.prepare, dynamics.notes


class Config(planning.Config):
    """Hyper-parameters; the planner's numbers are those of `ppo`, but for constant step sizes."""

    discount: float = leaf(0.99, "[0, 1]")  # gamma
    trace_decay: float = leaf(0.95, "[0, 1]")  # lambda of the advantages; 0: one step, 1: all
    actor_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size
    value_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size
    clip_ratio: float = leaf(0.2, "(0, inf)")  # epsilon: how far a ratio may pay
    # how far a value may move in one update, in units of the return; 0: as far as it likes
    value_clip: float = leaf(0.0, "[0, inf)")
    entropy_weight: float = leaf(0.0, "[0, inf)")  # c, per standard deviation of the advantages
    max_gradient_norm: float = leaf(0.5, "(0, inf)")  # of each network's gradient
    target_kl: float = leaf(0.0, "[0, inf)")  # ends an update early, in nats; 0: never
    num_epochs: int = static(10, "[1, inf)")  # passes over the steps of an update
    num_minibatches: int = static(32, "[1, inf)")  # of each pass

    def planner(self) -> ppo.Config:
        """The part of the configuration that PPO reads; its step sizes stay as they are."""
        return self.shared_with(ppo.Config).replace(decay_steps=0)


def stages(config: Config) -> tuple[Stage, ...]:
    """The model unless it is given, its threshold, a clone to begin with, the policy."""
    return planning.stages(config, update)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh model that was not measured, and a fresh policy.

    Raises:
      InputError: integer actions, images, or an uncertainty that the members do not have.
    """
    return planning.init(config, key, batch, "morel_ppo", ppo)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """Imagined episodes up to HALT, and the epochs of PPO on them.

    Metrics: those of `ppo.update` and of `rollouts.roll_out`; ``uncertainty``, mean disagreement of
    the imagined steps; ``halted``, share of them that lead to HALT; ``threshold`` and
    ``halt_reward``; those of the model (`dynamics.update`).
    """
    check_batch(batch, batch_spec(config), "morel_ppo")
    key, rollout_key = jax.random.split(state.key)
    imagined = planning.imagine(config, state, batch, rollout_key)
    windows = rollouts.windows(imagined, config.rollout_length)
    policy, metrics = ppo.update(config.planner(), state.policy, windows)
    return planning.finished(config, state, policy, key, {**metrics, **imagined.metrics})
