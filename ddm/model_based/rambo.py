"""RAMBO: robust adversarial model-based offline RL (Rigter et al. 2022, arXiv 2204.12581).

    A(s, a, r, s') = r + gamma (1 - termination) min_i Q_i(s', a') - min_i Q_i(s, a),   a' ~ pi(s')
    L_model = lambda_adv mean [ log P(s', r | s, a) A~ ] + sum_i L_i

SAC in a model that plays against it. After each round of imagination and of the policy's steps,
the model takes `adversarial_steps` gradient steps on L_model: it makes transitions less likely
after which the policy does better than it expects, while it must still explain the log (`L_i`, the
loss in `dynamics`). Transitions (s', r) are drawn from the model, along episodes that begin in the
log, and are constants of the loss: its gradient is the score function's. A~ is the advantage,
standardised over the batch; P is the mixture of the elites, all of equal weight.
Nothing is taken off the rewards. Before all this the policy clones the log for `bc_steps`.

The authors' settings (marc-rigter/rambo): `rollout_length` 5, and 2 on hopper random and
medium-replay and walker2d medium-expert; `adversarial_weight` 3e-4, and 0 on halfcheetah random and
walker2d random, medium and medium-replay. OfflineRL-Kit has another list: 0 on walker2d medium and
medium-replay, halfcheetah and hopper medium-expert; 2 on walker2d medium-expert only; and it
imagines every 250 steps.

From the authors' code: the mixture's density is a logsumexp, because a sum of exponentials
underflows in many dimensions; a' is a sample, of which V is the mean, not the policy's mode; an
episode that ends is begun anew at once, theirs go on beyond an end; all members explain the same
rows of the log, where theirs draw rows of their own that are not held out; the log-variances'
bounds weigh 0.01 as in MOPO, theirs 0.001 (see `members`); cloning is not the default. Learned
terminations are left to the log, for the adversary P has only (s', r).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm import networks, ops
from ddm.errors import InputError
from ddm.model_based import dynamics
from ddm.model_based.parts import branched, logged, members
from ddm.model_based.parts.branched import PARTS, act, batch_spec
from ddm.off_policy import sac
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    Stage,
    check_batch,
    leaf,
    static,
)

__all__ = [
    "PARTS", "Config", "State", "act", "batch_spec", "diagnose", "init", "notes", "prepare",
    "stages", "update",
]  # fmt: skip

prepare, notes = dynamics.prepare, dynamics.notes

_LOST = 0.25  # share of the variance that a model no longer explains, when it is reported


class Config(branched.Config):
    """Hyper-parameters of the model, of SAC, of imagined episodes and of the adversary."""

    # Those of the authors' configurations.
    actor_learning_rate: float = leaf(1e-4, "[0, inf)")  # Adam's step size, also of cloning
    # Adam's step size for log alpha; 0 fixes alpha
    temperature_learning_rate: float = leaf(1e-4, "[0, inf)")
    model_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's, before the adversary's steps
    # epochs without a better member after which the model's training ends
    patience: int = leaf(10, "[1, inf)")
    holdout_share: float = static(0.1, "(0, 1)")  # of the log's rows, for the errors of the members
    real_share: float = static(0.5, "[0, 1]")  # share of real rows in each batch of the policy
    # lambda_adv; 0 in some of the authors' tasks, see above
    adversarial_weight: float = leaf(3e-4, "[0, inf)")
    adversarial_learning_rate: float = leaf(3e-4, "[0, inf)")  # Adam's step size for L_model
    adversarial_steps: int = static(1000, "[0, inf)")  # of the model after each round
    adversarial_batch_size: int = static(256, "[2, inf)")  # imagined and real rows of such a step
    # gradient steps in which the policy clones the log; authors: 50 passes over it
    bc_steps: int = static(0, "[0, inf)")


class State(branched.State):
    """Everything that training changes."""

    adversary: Any  # the optimiser's state for the members in use


def stages(config: Config) -> tuple[Stage, ...]:
    """The model, then the policy as a clone of the log, then both against each other."""
    *model, policy = branched.stages(config, update)
    if config.bc_steps == 0:
        return (*model, policy)
    spec = BatchSpec(fields=TRANSITION_FIELDS)
    return (*model, Stage("clone", clone, spec, config.bc_steps, evaluated=False), policy)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh model, a fresh policy, and no imagined transition.

    Raises:
      InputError: integer actions, images, or an adversary of members that are regressions.
    """
    if config.adversarial_steps and not config.probabilistic:
        raise InputError(
            "rambo: probabilistic is False, expected True: a regression has no likelihood "
            "for the adversary to change (or set adversarial_steps to 0)"
        )
    begun = branched.init(config, key, batch)
    adversary = networks.trainable(begun.model.members.network, begun.model.params)
    return State(**vars(begun), adversary=adversary.optimizer_state)


def clone(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step of the policy on the likelihood of the log. Metrics: ``bc_loss``."""

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        policy = sac.policy_at(config, state.policy.actor, batch.observations, params)
        value = -jnp.mean(policy.log_prob(batch.actions))
        return value, {"bc_loss": value}

    actor, metrics = networks.minimize(loss, state.policy.actor, config.actor_learning_rate)
    policy = state.policy.replace(actor=actor, step=state.policy.step + 1)
    return state.replace(policy=policy, step=state.step + 1), metrics


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """Imagined episodes, `rollout_frequency` steps of SAC, and the adversary's steps.

    Metrics: those of SAC and of the imagined episodes (`branched.imagine`); of the adversary
    (:func:`adversarial_loss`), means over its steps; those of the model (`dynamics.update`), whose
    ``holdout_error`` is the one before the adversary's first step.
    """
    check_batch(batch, batch_spec(config), "rambo")
    key, rollout_key, learning_key = jax.random.split(state.key, 3)
    imagined, found = branched.imagine(config, state, batch, rollout_key)
    policy, metrics = branched.learn(
        config, state.policy, batch, imagined, learning_key, sac.update
    )
    state, metrics = branched.finished(config, state, policy, imagined, key, {**metrics, **found})
    if config.adversarial_steps == 0:
        return state, metrics
    key, adversary_key = jax.random.split(state.key)
    state, played = oppose(config, state.replace(key=key), batch, adversary_key)
    return state, {**metrics, **played}


def oppose(config: Config, state: State, batch: Batch, key: PRNGKey) -> tuple[State, Metrics]:
    """Gradient steps of the members in use on L_model, against the present policy.

    Args:
      config: of the method.
      state: of the method.
      batch: real rows: what the members must explain, and where episodes begin.
      key: used once.

    Returns:
      The state, and the means of the metrics.
    """
    size = config.adversarial_batch_size

    def real(key: PRNGKey) -> Batch:
        drawn = jax.random.randint(key, (size,), 0, len(batch.rewards))
        return jax.tree.map(lambda x: x[drawn], batch)

    def step(carry: tuple[networks.Trainable, jax.Array, jax.Array], key: PRNGKey):
        played, observations, age = carry
        start_key, real_key, action_key, step_key, next_key = jax.random.split(key, 5)
        fresh = real(start_key).observations
        observations = jnp.where((age >= config.rollout_length)[:, None], fresh, observations)
        age = jnp.where(age >= config.rollout_length, 0, age)
        actions = sac.policy_at(config, state.policy.actor, observations).sample(seed=action_key)
        model = state.model.replace(params=played.params)
        rows, _ = dynamics.transition(config, model, observations, actions, step_key)
        advantages = advantage(config, state.policy, rows, next_key)
        known = logged.rows_of(real(real_key))
        played, metrics = networks.minimize(
            lambda params: adversarial_loss(config, model, params, rows, advantages, known),
            played,
            config.adversarial_learning_rate,
        )
        ended = jnp.where(rows.terminations, config.rollout_length, age + 1)
        return (played, rows.next_observations, ended), metrics

    trained = state.model.members
    played = trained.replace(params=state.model.params, optimizer_state=state.adversary)
    start = jnp.zeros((size, batch.observations.shape[-1]), batch.observations.dtype)
    carry = played, start, jnp.full(size, config.rollout_length, jnp.int32)
    keys = jax.random.split(key, config.adversarial_steps)
    (played, _, _), metrics = jax.lax.scan(step, carry, keys)
    model = state.model.replace(params=played.params)
    state = state.replace(model=model, adversary=played.optimizer_state)
    return state, {name: jnp.mean(values) for name, values in metrics.items()}


def advantage(config: Config, policy: sac.State, rows: Batch, key: PRNGKey) -> jax.Array:
    """(B,) A of transitions by the policy's critics, of mean 0 and standard deviation 1."""
    following = sac.policy_at(config, policy.actor, rows.next_observations).sample(seed=key)
    next_values = jnp.min(policy.critic(rows.next_observations, following), axis=0)
    targets = ops.td_target(rows.rewards, config.discount, rows.terminations, next_values)
    found = targets - jnp.min(policy.critic(rows.observations, rows.actions), axis=0)
    return (found - jnp.mean(found)) / (jnp.std(found) + 1e-6)


def adversarial_loss(
    config: Config,
    model: dynamics.State,
    params: Any,
    rows: Batch,
    advantages: jax.Array,
    known: logged.Rows,
) -> tuple[jax.Array, Metrics]:
    """L_model of parameters of all members.

    Metrics: ``adversarial_loss``, the mean of log P A~ without its weight; ``model_loss``, the sum
    of the L_i; ``model_error``, mean squared error of the members' means on real rows, in
    standardised units.

    Args:
      config: of the method.
      model: whose scales and elites hold.
      params: leaves begin with an axis E.
      rows: B imagined transitions; constants.
      advantages: (B,) constants.
      known: real rows.
    """
    likelihood = mixture_log_likelihood(config, model, params, logged.rows_of(rows))
    opposed = jnp.mean(likelihood * jax.lax.stop_gradient(advantages))
    explain = lambda params: members.loss(config, model.members, params, model.scales, known)[0]  # noqa: E731
    losses = jnp.sum(jax.vmap(explain)(params))
    measure = lambda params: members.error(model.members, params, model.scales, known)  # noqa: E731
    error = jnp.mean(jax.vmap(measure)(jax.lax.stop_gradient(params)))
    value = config.adversarial_weight * opposed + losses
    return value, {"adversarial_loss": opposed, "model_loss": losses, "model_error": error}


def mixture_log_likelihood(
    config: Config, model: dynamics.State, params: Any, rows: logged.Rows
) -> jax.Array:
    """(B,) log of the mean density of the elites, of standardised targets (s' - s, r)."""
    elites = members.elites(config, model.holdout_errors)
    targets = logged.standardized(rows, model.scales)

    def member(params: Any) -> jax.Array:
        found = members.outcome(
            model.members, params, model.scales, rows.observations, rows.actions
        )
        squares = (targets - found.mean) ** 2 * jnp.exp(-found.log_variance)
        constant = np.log(2.0 * np.pi).astype(np.float32)
        return -0.5 * jnp.sum(squares + found.log_variance + constant, axis=-1)

    densities = jax.vmap(member)(jax.tree.map(lambda x: x[elites], params))
    count = np.log(config.num_elites).astype(np.float32)
    return jax.nn.logsumexp(densities, axis=0) - count


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences of MBPO, and one on a model that no longer explains the log."""
    before, after = metrics.get("holdout_error", 0.0), metrics.get("model_error", 0.0)
    found = (
        f"the adversary has spoiled the model: its error on the log is {after:.3g} of the "
        f"variance, and was {before:.3g} before; lower adversarial_weight, "
        "adversarial_learning_rate or adversarial_steps"
    )
    return [*branched.diagnose(config, metrics), *([found] if after - before > _LOST else [])]
