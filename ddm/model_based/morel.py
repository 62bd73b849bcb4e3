"""MOReL: model-based offline reinforcement learning (Kidambi et al. 2020, arXiv 2005.05951).

    unknown(s, a) = max_ij || f_i(s, a) - f_j(s, a) || > threshold
    r~ = min_D r - halt_penalty and the episode ends, where unknown; r^ elsewhere

A policy is planned in a learned model that stops where its members disagree. MOPO pays for
uncertainty in proportion; MOReL forbids it beyond a threshold. After the model one step measures
the disagreement on the log, from which the threshold follows (:mod:`parts.halting`).

The planner here is SAC on branched rollouts, as in MOPO: an imagined episode begins at a state of
the log, and each batch has a share of real rows, which are known. The paper's own planner is in
:mod:`ddm.model_based.morel_npg`, and PPO in :mod:`ddm.model_based.morel_ppo`.

From the paper and the authors' code (mjrl): their members are relu networks of the next state with
the reward given as a function; here they are those of :mod:`ddm.model_based.dynamics`, with swish,
and learn the reward as well, about which they may disagree. Targets are standardised by standard
deviations, not by mean absolute ones. Training may end before `max_epochs`.
In their code the flag of an end by HALT is lost, so that values go on beyond it, and the best
policy is chosen in the true environment; neither is repeated. A prediction that is not finite is
unknown.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax

from ddm.model_based import dynamics
from ddm.model_based.parts import branched, halting
from ddm.model_based.parts.branched import PARTS, act, batch_spec
from ddm.off_policy import sac
from ddm.types import Batch, Metrics, PRNGKey, Stage, check_batch

__all__ = [
    "PARTS", "Config", "State", "act", "batch_spec", "diagnose", "init", "notes", "prepare",
    "stages", "update",
]  # fmt: skip

prepare, notes = dynamics.prepare, dynamics.notes


class Config(halting.Config, branched.Config):
    """Hyper-parameters of the model, of its pessimistic MDP, of SAC and of imagined episodes."""


class State(branched.State):
    """Everything that training changes."""

    measured: halting.Measured  # the model on the log


def stages(config: Config) -> tuple[Stage, ...]:
    """The model unless it is given, its threshold, the policy."""
    *model, policy = branched.stages(config, update)
    return (*model, halting.stage(), policy)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh model that was not measured, a fresh policy, and no imagined transition.

    Raises:
      InputError: integer actions, images, or an uncertainty that the members do not have.
    """
    halting.check(config, "morel")
    fresh = branched.init(config, key, batch)
    return State(**vars(fresh), measured=halting.unmeasured())


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """Imagined episodes up to HALT, and `rollout_frequency` steps of SAC.

    Metrics: those of SAC and of the imagined episodes (`branched.imagine`); ``halted``, share of
    the imagined steps that lead to HALT; ``threshold`` and ``halt_reward``; those of the
    model (`dynamics.update`).
    """
    check_batch(batch, batch_spec(config), "morel")
    key, rollout_key, learning_key = jax.random.split(state.key, 3)
    imagined, found = branched.imagine(
        config, state, batch, rollout_key, functools.partial(halting.halt, config, state.measured)
    )
    policy, metrics = branched.learn(
        config, state.policy, batch, imagined, learning_key, sac.update
    )
    metrics = {**metrics, **found, **halting.metrics(config, state.measured)}
    return branched.finished(config, state, policy, imagined, key, metrics)


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences on the model, on the threshold, on cut episodes, temperature and values."""
    return [*branched.diagnose(config, metrics), *halting.diagnose(config, metrics)]
