"""Branched rollouts (Janner et al. 2019): what MBPO, MOPO and their relatives share.

The first stage trains a model. In the second one each update begins with short imagined episodes
from states of the log, which go into a buffer; then SAC-like gradient steps follow, on batches in
which a fixed share of the rows is real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm.data.buffer import Buffer
from ddm.errors import InputError
from ddm.model_based import dynamics
from ddm.model_based.parts import members, rollouts
from ddm.model_based.parts.uncertainty import UNCERTAINTIES, UncertaintyFn
from ddm.off_policy import sac
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    PyTree,
    Stage,
    check_continuous_example,
    choice,
    chosen,
    static,
)

# Transitions as the model gives them, and its uncertainty (B,) -> transitions that are learned
# from, and numbers (B,) to report.
JudgeFn = Callable[[Batch, jax.Array], tuple[Batch, Mapping[str, jax.Array]]]
# (config, policy, observations (B, O), key) -> actions (B, A) in imagined episodes
BehaviorFn = Callable[[Any, sac.State, jax.Array, PRNGKey], jax.Array]

PARTS = {"model": dynamics}  # fields of the State that a run of another algorithm can give


class Config(dynamics.Config, sac.Config):
    """Hyper-parameters of the model, of SAC, and of imagined episodes; defaults of MOPO's code."""

    rollout_length: int = static(5, "[1, inf)")  # steps of an imagined episode
    num_rollouts: int = static(50_000, "[1, inf)")  # imagined episodes that begin at each update
    # gradient steps of the policy in one update, between two rounds of imagination
    rollout_frequency: int = static(1000, "[1, inf)")
    retained_rounds: int = static(5, "[1, inf)")  # rounds whose transitions are kept
    # share of real rows in each batch; 0 and 1 leave out the others
    real_share: float = static(0.05, "[0, 1]")
    # u(s, a), how unsure the model is; or a function like those of parts.uncertainty
    uncertainty: str | UncertaintyFn = choice(UNCERTAINTIES, "max_std")


class State(struct.PyTreeNode):
    """Everything that training changes."""

    model: dynamics.State
    policy: sac.State
    imagined: Buffer  # transitions of the model, as the policy learns from them
    step: jax.Array  # () int32, gradient steps done, of the model and of the policy
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions: the real rows of all batches of an update, and where imagination begins."""
    return BatchSpec(fields=TRANSITION_FIELDS, minibatches=config.rollout_frequency)


def stages(config: Any, update: Callable) -> tuple[Stage, ...]:
    """The model, unless it is given, and then the policy."""
    return (*model_stages(config), Stage("policy", update, batch_spec(config), collects=True))


def model_stages(config: Any) -> tuple[Stage, ...]:
    """The training of the model; none where it is given (`max_epochs` is 0)."""
    if config.max_epochs == 0:
        return ()
    [epochs] = dynamics.stages(config)
    spec, steps = epochs.batch_spec, epochs.num_steps
    return (Stage("dynamics", train_model, spec, steps, evaluated=False),)


def init(config: Any, key: PRNGKey, batch: Batch) -> State:
    """A fresh model, a fresh policy, and no imagined transition.

    Raises:
      InputError: integer actions, or images.
    """
    name = type(config).__module__.rpartition(".")[2]
    check_continuous_example(config, batch, batch_spec(config), name)
    key, model_key, policy_key = jax.random.split(key, 3)
    capacity = config.retained_rounds * config.num_rollouts * config.rollout_length
    return State(
        model=dynamics.init(config, model_key, batch),
        policy=sac.init(config, policy_key, batch),
        imagined=Buffer.for_rows(batch, capacity, "imagined transitions"),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def train_model(config: Any, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One epoch of the model: the update of the first stage. Metrics: those of `dynamics`."""
    model, metrics = dynamics.update(config, state.model, batch)
    steps = model.step - state.model.step
    return state.replace(model=model, step=state.step + steps), metrics


def own_actions(config: Any, policy: sac.State, observations: jax.Array, key: PRNGKey) -> jax.Array:
    """Samples of the present policy."""
    return sac.policy_at(config, policy.actor, observations).sample(seed=key)


def imagine(
    config: Any,
    state: State,
    batch: Batch,
    key: PRNGKey,
    judge: JudgeFn | None = None,
    behavior: BehaviorFn = own_actions,
) -> tuple[Buffer, Metrics]:
    """Imagined episodes of the present policy, from the first rows of a batch.

    Args:
      config: of the method.
      state: of the method.
      batch: real rows, at least `num_rollouts`.
      key: used once.
      judge: what makes imagined transitions less attractive where the model may be wrong; None:
        they are believed.
      behavior: what acts in place of the present policy.

    Returns:
      The buffer with the new transitions, the metrics of :func:`rollouts.roll_out`, and
      ``uncertainty``, mean u of an imagined transition.

    Raises:
      InputError: fewer rows than episodes.
    """
    rows = len(batch.rewards)
    if config.num_rollouts > rows:
        raise InputError(
            f"num_rollouts is {config.num_rollouts}, and an update has {rows} real rows to begin "
            "at (rollout_frequency times the batch size): expected at most as many"
        )

    def policy(observations: jax.Array, key: PRNGKey) -> jax.Array:
        return behavior(config, state.policy, observations, key)

    def step(observations: jax.Array, actions: jax.Array, key: PRNGKey):
        rows, prediction = dynamics.transition(config, state.model, observations, actions, key)
        unsure = members.uncertainty(config, prediction, chosen(config, "uncertainty"))
        rows, reported = (rows, {}) if judge is None else judge(rows, unsure)
        return rows, {"uncertainty": unsure, **reported}

    starts = batch.observations[: config.num_rollouts]
    imagined = rollouts.roll_out(step, policy, starts, key, config.rollout_length)
    return state.imagined.insert(imagined.rows, imagined.mask), imagined.metrics


def num_real(config: Any, batch_size: int) -> int:
    """How many rows of a gradient step's batch are real: the first ones.

    A share between 0 and 1 leaves at least one row of each kind; a batch of one row is real.
    """
    share = round(config.real_share * batch_size)
    if 0.0 < config.real_share < 1.0:
        share = max(min(share, batch_size - 1), 1)
    return share


def real_rows(config: Any, batch: Batch) -> Batch:
    """The real rows of each batch of an update, (K, R, ...)."""
    steps = config.rollout_frequency
    size = len(batch.rewards) // steps
    share = num_real(config, size)
    return jax.tree.map(lambda x: x.reshape(steps, size, *x.shape[1:])[:, :share], batch)


def mix(config: Any, real: Batch, imagined: Buffer, batch_size: int, key: PRNGKey) -> Batch:
    """A batch of real rows and, after them, imagined ones."""
    missing = batch_size - len(real.rewards)
    if not missing:
        return real
    drawn = imagined.sample(key, missing, BatchSpec(fields=TRANSITION_FIELDS))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), real, drawn)


def learn(
    config: Any,
    policy: Any,
    batch: Batch,
    imagined: Buffer,
    key: PRNGKey,
    step: Callable[[Any, Any, Batch], tuple[Any, Metrics]],
) -> tuple[Any, Metrics]:
    """The gradient steps of one update on mixed batches.

    Args:
      config: of the method.
      policy: state of the policy.
      batch: the real rows of the update.
      imagined: transitions of the model.
      key: used once.
      step: one gradient step, (config, policy, batch) -> (policy, metrics).

    Returns:
      The policy, and the means of the metrics.
    """
    steps = config.rollout_frequency
    size = len(batch.rewards) // steps

    def one(policy: Any, drawn: tuple[Batch, PRNGKey]):
        real, key = drawn
        return step(config, policy, mix(config, real, imagined, size, key))

    keys = jax.random.split(key, steps)
    policy, metrics = jax.lax.scan(one, policy, (real_rows(config, batch), keys))
    return policy, {name: jnp.mean(values) for name, values in metrics.items()}


def finished(
    config: Any, state: Any, policy: Any, imagined: Buffer, key: PRNGKey, metrics: Metrics
) -> tuple[Any, Metrics]:
    """The end of an update.

    Args:
      config: of the method.
      state: of the method, before the update.
      policy: after its gradient steps.
      imagined: the buffer, with this update's transitions.
      key: of the next update.
      metrics: of the policy and of its imagined episodes.

    Returns:
      The state after the update, and the metrics with those of the model (`dynamics.update`).
    """
    steps = policy.step - state.policy.step
    state = state.replace(policy=policy, imagined=imagined, step=state.step + steps, key=key)
    return state, {**metrics, **dynamics.metrics(config, state.model)}


def act(
    config: Any,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """A sample of the policy, or tanh of its mean."""
    return sac.act(
        config, state.policy, observation, key, policy_state, deterministic=deterministic
    )


def diagnose(config: Any, metrics: Mapping[str, float]) -> list[str]:
    """Sentences on the model, on cut episodes, on the temperature and on the values."""
    cut = metrics.get("not_finite", 0.0)
    found = [
        f"{cut:.3g} imagined episodes of {config.num_rollouts} in a round met a prediction that is "
        "not finite, and were cut there: the policy has left what the model knows; shorten "
        "rollout_length"
    ]
    return [
        *dynamics.diagnose(config, metrics),
        *(found if cut > 0.0 else []),
        *sac.diagnose(config, metrics),
    ]
