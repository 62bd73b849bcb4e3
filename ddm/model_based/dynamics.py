"""A probabilistic ensemble of models of the environment (Chua et al. 2018; as in MBPO and MOPO).

    p_i(r, s' - s | s, a) = N(mu_i(s, a), diag sigma_i^2(s, a)),   i = 1 .. E
    L_i = mean [ ((t - mu_i) / sigma_i)^2 + log sigma_i^2 ] + sum_l w_l |W_l|^2 / 2
          + 0.01 sum (upper bound - lower bound of log sigma^2)

The members share nothing: each has its own weights, bounds of the variance, bootstrap of the log
and order of its rows. So an ensemble is one member under `vmap`, and equals members that are
trained alone. One `update` is one epoch. After it the error of each member's mean is measured on
rows that are held out; a member that became at least 1 % better is kept. When no member has for
`patience` epochs, the members are final, and further updates change nothing and cost nothing. The
members with the smallest errors are the elites, which predict.

From the code of MBPO and MOPO: targets are standardised, so that one range of log-variances serves
all units, and held-out errors count each dimension alike; the bounds belong to each member. Inputs
are standardised as there. With `probabilistic=False` members are regressions of the mean (MOReL).

Other methods contain this one: their Config extends this Config, and their State has a field
`model`. Wherever `config` stands below, theirs does, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks
from ddm.model_based.parts import learning, logged, members, preparation, terminations
from ddm.model_based.parts.logged import Scales
from ddm.model_based.parts.members import Prediction
from ddm.model_based.parts.uncertainty import UncertaintyFn
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    Stage,
    check_batch,
    check_continuous_example,
    choice,
    leaf,
    network,
    static,
)

_BETTER = 0.99  # a member is kept if its held-out error falls below this share of its best one
_UNKNOWN = 1e30  # held-out error of a member that was not measured yet

prepare, notes = preparation.prepare, preparation.notes


class Config(Configuration):
    """Hyper-parameters of the model; defaults are those of MOPO's code."""

    model_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # epochs without a better member after which training ends; MBPO 5, MOPO's code 6
    patience: int = leaf(5, "[1, inf)")
    num_members: int = static(7, "[1, inf)")  # E, of the ensemble
    # members that predict: those with the smallest held-out errors
    num_elites: int = static(5, "[1, inf)", at_most="num_members")
    model_hidden_sizes: tuple[int, ...] = static((200, 200, 200, 200), "[1, inf)")  # swish layers
    # w_l, of the kernels of each layer, or one number for all
    model_weight_decay: tuple[float, ...] = static((2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4), "[0, inf)")
    probabilistic: bool = static(True)  # members know their noise; False: regressions of the mean
    # members learn from their own draws of the log, not from all of it
    bootstrap: bool = static(True)
    model_batch_size: int = static(256, "[1, inf)")  # rows of each member per gradient step
    max_epochs: int = static(100, "[0, inf)")  # at most; 0: no training, where a model is given
    # gradient steps of an epoch; 0: as many as pass over the log once, which `ddm.prepare` sets
    steps_per_epoch: int = static(0, "[0, inf)")
    holdout_share: float = static(0.2, "(0, 1)")  # of the log's rows, for the errors of the members
    max_holdout: int = static(1000, "[1, inf)")  # held-out rows at most
    # When an imagined episode ends: by the rule of a known task, as `learned`, or `auto`, which
    # `ddm.prepare` replaces by what fits the log. A function takes next observations (..., O) in
    # the environment's units.
    termination: str | terminations.TerminationFn = choice(terminations.choices, terminations.AUTO)
    # Units of the log, which `ddm.prepare` sets; empty: those of the environment.
    observation_mean: tuple[float, ...] = static((), "(-inf, inf)")
    observation_std: tuple[float, ...] = static((), "(0, inf)")
    reward_unit: float = static(1.0, "(0, inf)")  # factor of the log on the environment's rewards
    dynamics_network: NetworkFn | None = network()  # in place of :func:`dynamics_network`


class State(struct.PyTreeNode):
    """Everything that training changes. Leaves of `members` and `params` begin with an axis E."""

    members: networks.Trainable  # as they are trained
    params: Any  # those in use: each member's at its smallest held-out error
    holdout_errors: jax.Array  # (E,) the smallest squared errors, in standardised units
    scales: Scales  # of inputs and targets
    idle_epochs: jax.Array  # () int32, epochs since a member was kept
    train_loss: jax.Array  # () mean of the last epoch in which the members learned
    split_key: PRNGKey  # of held-out rows and of the members' bootstraps
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """The whole log: an update is an epoch."""
    return BatchSpec(
        fields=TRANSITION_FIELDS, minibatches=max(config.steps_per_epoch, 1), whole_dataset=True
    )


def stages(config: Config) -> tuple[Stage, ...]:
    """At most `max_epochs` epochs."""
    steps = max(config.max_epochs, 1) * max(config.steps_per_epoch, 1)
    return (Stage("", update, batch_spec(config), num_steps=steps),)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh members for the shapes in `batch`.

    Raises:
      InputError: integer actions, images, or decays that do not fit the layers.
    """
    check_continuous_example(config, batch, batch_spec(config), "dynamics")
    key, params_key, split_key = jax.random.split(key, 3)
    observations, actions = batch.observations[:1], batch.actions[:1]
    model = (config.dynamics_network or dynamics_network)(config, actions.shape[-1])

    def member(key: PRNGKey) -> networks.Trainable:
        return networks.trainable(model, model.init(key, observations, actions))

    trained = jax.vmap(member)(jax.random.split(params_key, config.num_members))
    members.check_decay(config, trained.params)
    return State(
        members=trained,
        params=jax.tree.map(jnp.copy, trained.params),
        holdout_errors=jnp.full(config.num_members, _UNKNOWN, jnp.float32),
        scales=logged.no_scales(observations.shape[-1], actions.shape[-1]),
        idle_epochs=jnp.zeros((), jnp.int32),
        train_loss=jnp.zeros((), jnp.float32),
        split_key=split_key,
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def dynamics_network(config: Config, action_size: int) -> networks.GaussianDynamics:
    """The network of one member.

    Called with standardised observations (B, O) and actions (B, A); returns a
    `networks.Outcome` of standardised targets.
    """
    del action_size
    return networks.GaussianDynamics(config.model_hidden_sizes)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One epoch of all members on the whole log, and their errors on what is held out.

    Metrics: ``train_loss``, mean L_i over members and the last epoch in which they learned;
    ``holdout_error``, mean squared error of the elites' means in standardised units: 1 is that of
    a model which knows nothing; ``idle_epochs``, epochs since a member became better; ``epoch``,
    how many there were.
    """
    check_batch(batch, batch_spec(config), "dynamics")
    key, epoch_key = jax.random.split(state.key)
    active = state.idle_epochs < config.patience
    trained, scales, losses, errors = learning.learn(
        config, state.members, batch, state.split_key, epoch_key, config.steps_per_epoch, active
    )
    better = active & (errors < _BETTER * state.holdout_errors)
    idle = jnp.where(jnp.any(better), 0, state.idle_epochs + active.astype(jnp.int32))
    state = state.replace(
        members=trained,
        params=members.select(better, trained.params, state.params),
        holdout_errors=jnp.where(better, errors, state.holdout_errors),
        scales=scales,
        idle_epochs=idle.astype(jnp.int32),
        train_loss=jnp.where(active, jnp.mean(losses), state.train_loss),
        step=state.step + config.steps_per_epoch,
        key=key,
    )
    return state, metrics(config, state)


def refine(config: Config, state: State, batch: Batch, num_steps: int) -> State:
    """A number of gradient steps on the rows of a batch, after which the members are in use.

    It is for data that grow: nothing is held out for long, and nothing stops early. The errors are
    those on the rows that are held out now.

    Args:
      config: of the model.
      state: of the model; its `step` does not change.
      batch: transitions.
      num_steps: of each member.
    """
    key, split_key, order_key = jax.random.split(state.key, 3)
    trained, scales, losses, errors = learning.learn(
        config, state.members, batch, split_key, order_key, num_steps
    )
    return state.replace(
        members=trained,
        params=trained.params,
        holdout_errors=errors,
        scales=scales,
        train_loss=jnp.mean(losses),
        key=key,
    )


def metrics(config: Config, state: State) -> Metrics:
    """The model's state in numbers; see :func:`update`."""
    errors = jnp.sort(state.holdout_errors)[: config.num_elites]
    return {
        "train_loss": state.train_loss,
        "holdout_error": jnp.mean(errors),
        "idle_epochs": state.idle_epochs.astype(jnp.float32),
        "epoch": state.step.astype(jnp.float32) / max(config.steps_per_epoch, 1),
    }


def loss(config: Config, state: State, batch: Batch, key: PRNGKey) -> Metrics:
    """Errors of the elites on other data.

    Metrics: ``error``, squared, of their means in standardised units; ``negative_log_likelihood``
    in nats per dimension, of standardised targets.
    """
    del key
    rows, elites = logged.rows_of(batch), members.elites(config, state.holdout_errors)
    params = jax.tree.map(lambda x: x[elites], state.params)
    error = jax.vmap(lambda params: members.error(state.members, params, state.scales, rows))
    likelihood = jax.vmap(
        lambda params: members.log_likelihood(state.members, params, state.scales, rows)
    )
    return {
        "error": jnp.mean(error(params)),
        "negative_log_likelihood": -jnp.mean(likelihood(params)),
    }


def predict(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> Prediction:
    """What each member expects after actions (B, A) at observations (B, O), in the log's units."""
    return members.predict(config, state.members, state.params, state.scales, observations, actions)


def uncertainty(
    config: Config,
    state: State,
    observations: jax.Array,
    actions: jax.Array,
    function: UncertaintyFn,
) -> jax.Array:
    """(B,) how unsure the members are; `function` is one of :mod:`parts.uncertainty`."""
    return members.uncertainty(config, predict(config, state, observations, actions), function)


def transition(
    config: Config, state: State, observations: jax.Array, actions: jax.Array, key: PRNGKey
) -> tuple[Batch, Prediction]:
    """One imagined step: each row is sampled from an elite of its own.

    Args:
      config: of the model.
      state: of the model.
      observations: (B, O) in the log's units.
      actions: (B, A) in [-1, 1].
      key: used once.

    Returns:
      Transitions (B, ...) in the log's units, and what all members expect.

    Raises:
      InputError: the termination rule is not known: see `ddm.prepare`.
    """
    prediction = predict(config, state, observations, actions)
    elites = members.elites(config, state.holdout_errors)
    rows = members.sample(config, prediction, elites, observations, actions, key)
    return rows, prediction


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the model still improved when its training ended, or explains little."""
    error, idle = metrics.get("holdout_error", 0.0), metrics.get("idle_epochs", 0.0)
    ended = 0 < config.max_epochs <= metrics.get("epoch", 0.0)
    found = []
    if ended and idle < 1.0:
        found.append(
            f"the model still improved at its last epoch (held-out error {error:.3g} of the "
            "variance): raise max_epochs"
        )
    if error > 0.5 and (ended or not config.max_epochs):
        found.append(
            f"the model explains less than half of what happens (held-out error {error:.3g} of the "
            "variance): the log may be too small or too noisy for a model"
        )
    return found
