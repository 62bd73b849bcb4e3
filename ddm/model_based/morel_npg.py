"""MOReL with the paper's planner, the natural policy gradient (Kidambi et al. 2020, section 5).

The pessimistic MDP is that of :mod:`ddm.model_based.morel`. A policy is first cloned from the log;
then each update is one natural gradient step on its episodes in the model
(:mod:`ddm.model_based.parts.planning`).

    dynamics -> threshold -> cloning -> policy

From the authors' code (mjrl): an imagined step is drawn from any member, where theirs play 50
episodes in each of them; the width of the policy depends on the state, under a tanh. Cloning is by
squared error, as there. Episodes that are too short are used as well. What the step itself does
otherwise stands in :mod:`ddm.on_policy.npg`.
"""

from __future__ import annotations

import jax

from ddm.model_based import dynamics
from ddm.model_based.parts import planning, rollouts
from ddm.model_based.parts.branched import PARTS
from ddm.model_based.parts.planning import State, act, batch_spec, diagnose
from ddm.networks.heads import policy_network
from ddm.on_policy import npg
from ddm.on_policy.parts.actor_critic import value_network
from ddm.types import Batch, Metrics, PRNGKey, Stage, check_batch, leaf, static

__all__ = [
    "PARTS", "Config", "State", "act", "batch_spec", "diagnose", "init", "notes", "policy_network",
    "prepare", "stages", "update", "value_network",
]  # fmt: skip

prepare, notes = dynamics.prepare, dynamics.notes


class Config(planning.Config):
    """Hyper-parameters; numbers are those of the authors' configuration for hopper-medium."""

    # KL divergence of one step to second order, in nats; the authors' step size of 0.02 is twice it
    kl_step: float = leaf(0.01, "[0, inf)")
    damping: float = leaf(1e-3, "[0, inf)")  # added to the Fisher matrix's diagonal
    value_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    cg_iterations: int = static(20, "[1, inf)")  # of the conjugate gradients
    # halvings of a step that changes the policy by more than twice `kl_step`; 0: the authors'
    max_halvings: int = static(10, "[0, inf)")
    num_epochs: int = static(1, "[1, inf)")  # passes of the values over an update's steps
    num_minibatches: int = static(100, "[1, inf)")  # of each pass; authors 256 steps each

    def planner(self) -> npg.Config:
        """The part of the configuration that the natural policy gradient reads."""
        return self.shared_with(npg.Config)


def stages(config: Config) -> tuple[Stage, ...]:
    """The model unless it is given, its threshold, a clone to begin with, the policy."""
    return planning.stages(config, update)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh model that was not measured, and a fresh policy.

    Raises:
      InputError: integer actions, images, or an uncertainty that the members do not have.
    """
    return planning.init(config, key, batch, "morel_npg", npg)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """Imagined episodes up to HALT, and one natural gradient step on them.

    Metrics: those of `npg.update` and of `rollouts.roll_out`; ``uncertainty``, mean disagreement of
    the imagined steps; ``halted``, share of them that lead to HALT; ``threshold`` and
    ``halt_reward``; those of the model (`dynamics.update`).
    """
    check_batch(batch, batch_spec(config), "morel_npg")
    key, rollout_key = jax.random.split(state.key)
    imagined = planning.imagine(config, state, batch, rollout_key)
    windows = rollouts.windows(imagined, config.rollout_length)
    policy, metrics = npg.update(config.planner(), state.policy, windows)
    return planning.finished(config, state, policy, key, {**metrics, **imagined.metrics})
