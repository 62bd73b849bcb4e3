"""MOReL's planners that learn on-policy: a cloned policy, and whole episodes in the model.

    dynamics -> threshold -> cloning -> policy

A policy is first cloned from the log, by squared error, which leaves its width to exploration. Then
each update lets it act in the pessimistic MDP for up to `rollout_length` steps, from where the
log's episodes begin, and learns from these imagined episodes. There is one for each row of a batch
(`batch_size`), and no real row is learned from.

A method extends `Config` with the hyper-parameters of its planner and says by `planner` which
configuration of that planner they are; its `update` hands the planner the windows of
:func:`imagine`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ddm import networks
from ddm.model_based import dynamics
from ddm.model_based.parts import branched, halting, members, rollouts
from ddm.on_policy.parts import actor_critic
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    Stage,
    check_continuous_example,
    chosen,
    leaf,
    network,
    static,
)

PlannerConfig = TypeVar("PlannerConfig", bound=actor_critic.Config)


class Config(halting.Config):
    """Hyper-parameters but those of the planner."""

    discount: float = leaf(0.999, "[0, 1]")  # gamma
    trace_decay: float = leaf(0.97, "[0, 1]")  # lambda of the advantages; 0: one step, 1: all
    cloning_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # floor of the policy's log std, below which it would not explore
    log_std_min: float = leaf(-1.0, at_most="log_std_max")
    log_std_max: float = leaf(2.0, "(-inf, inf)")  # ceiling of the policy's log standard deviation
    # steps of an imagined episode at most; the authors' other configuration has 500
    rollout_length: int = static(700, "[1, inf)")
    # share of the imagined episodes that begin where the log's do; the others at any of its states
    initial_share: float = static(1.0, "[0, 1]")
    # gradient steps of cloning; 0: none. The authors' 5 epochs on 256,000 rows
    cloning_steps: int = static(5_000, "[0, inf)")
    hidden_sizes: tuple[int, ...] = static((64, 64), "[1, inf)")  # relu layers; authors tanh
    layer_norm: bool = static(False)  # before each activation
    policy_network: NetworkFn | None = network()  # in place of `heads.policy_network`
    value_network: NetworkFn | None = network()  # in place of `actor_critic.value_network`

    def planner(self) -> actor_critic.Config:
        """The part of the configuration that the planner reads."""
        raise NotImplementedError

    def shared_with(self, planner: type[PlannerConfig]) -> PlannerConfig:
        """A planner's configuration with all fields that this one has by the same name."""
        names = {field.name for field in dataclasses.fields(self)}
        shared = [field.name for field in dataclasses.fields(planner) if field.name in names]
        return planner(
            **{name: getattr(self, name) for name in shared},
            head="tanh_gaussian",
            window=self.rollout_length,
        )


class State(struct.PyTreeNode):
    """Everything that training changes."""

    model: dynamics.State
    measured: halting.Measured  # the model on the log
    policy: actor_critic.State
    cloning: Any  # state of the optimiser that clones
    step: jax.Array  # () int32, gradient steps done, of the model, of cloning and of the policy
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Where imagined episodes begin: transitions, and first observations of episodes."""
    del config
    return BatchSpec(fields=(*TRANSITION_FIELDS, "initial_observations"))


def stages(config: Config, update: Callable) -> tuple[Stage, ...]:
    """The model unless it is given, its threshold, a clone to begin with, the policy."""
    spec = BatchSpec(fields=("observations", "actions"))
    cloning = Stage("cloning", clone, spec, config.cloning_steps)
    return (
        *branched.model_stages(config),
        halting.stage(),
        *([cloning] if config.cloning_steps else []),
        Stage("policy", update, batch_spec(config)),
    )


def init(config: Config, key: PRNGKey, batch: Batch, name: str, planner: Any) -> State:
    """A fresh model that was not measured, and a fresh policy of a planner's module.

    Raises:
      InputError: integer actions, images, or an uncertainty that the members do not have.
    """
    halting.check(config, name)
    check_continuous_example(config, batch, batch_spec(config), name)
    key, model_key, policy_key = jax.random.split(key, 3)
    model = dynamics.init(config, model_key, batch)
    fields = {name: getattr(batch, name)[:1, None] for name in TRANSITION_FIELDS}
    example = Batch(**fields, truncations=jnp.zeros((1, 1), bool))  # a window of one step
    policy = planner.init(config.planner(), policy_key, example)
    return State(
        model=model,
        measured=halting.unmeasured(),
        policy=policy,
        cloning=optax.adam(0.0).init(policy.actor.params),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def clone(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step of the policy's mode towards the logged actions.

    Metrics: ``action_error``, the squared error, summed over the dimensions of an action.
    """
    actor = state.policy.actor
    learner = networks.Trainable(actor.params, state.cloning, actor.network, optax.adam)

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        policy = actor_critic.policy_at(config.planner(), actor, batch.observations, params)
        error = jnp.mean(jnp.sum(jnp.square(policy.mode() - batch.actions), axis=-1))
        return error, {"action_error": error}

    learner, metrics = networks.minimize(loss, learner, config.cloning_learning_rate)
    policy = state.policy.replace(actor=actor.replace(params=learner.params))
    cloning = learner.optimizer_state
    return state.replace(policy=policy, cloning=cloning, step=state.step + 1), metrics


def imagine(config: Config, state: State, batch: Batch, key: PRNGKey) -> rollouts.Imagined:
    """Episodes of the present policy in the pessimistic MDP, one for each row of the batch."""

    def policy(observations: jax.Array, key: PRNGKey) -> jax.Array:
        return actor_critic.policy_at(config.planner(), state.policy.actor, observations).sample(
            seed=key
        )

    def step(observations: jax.Array, actions: jax.Array, key: PRNGKey):
        rows, prediction = dynamics.transition(config, state.model, observations, actions, key)
        unsure = members.uncertainty(config, prediction, chosen(config, "uncertainty"))
        return halting.halt(config, state.measured, rows, unsure)

    first = round(config.initial_share * len(batch.rewards))
    starts = jnp.concatenate([batch.initial_observations[:first], batch.observations[first:]])
    return rollouts.roll_out(step, policy, starts, key, config.rollout_length)


def finished(
    config: Config, state: State, policy: actor_critic.State, key: PRNGKey, metrics: Metrics
) -> tuple[State, Metrics]:
    """The state after an update, and its metrics beside those of the threshold and the model."""
    state = state.replace(policy=policy, step=state.step + 1, key=key)
    known = halting.metrics(config, state.measured)
    return state, {**metrics, **known, **dynamics.metrics(config, state.model)}


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """A sample of the policy, or tanh of its mean."""
    return actor_critic.act(
        config.planner(), state.policy, observation, key, policy_state, deterministic=deterministic
    )


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences on the model, on the threshold and on the values."""
    return [
        *dynamics.diagnose(config, metrics),
        *halting.diagnose(config, metrics),
        *actor_critic.diagnose(config.planner(), metrics),
    ]
