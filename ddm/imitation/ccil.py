"""CCIL: behaviour cloning with corrective labels (Ke et al. 2024, arXiv 2310.12972).

    L(theta) = - E_D [log pi(a | s)] - E_G [log pi(b | g)],   g + f(g, b) = a demonstrated state

Cloning knows no way back to the demonstrations. A model of the environment does, near them: it
gives states g and actions b that lead to demonstrated states, without an expert and without a step
in the environment. The dynamics f is known, a differentiable function in the environment's units,
or learned from the demonstrations in a first stage, with bounded slopes, see `parts.lipschitz`. How
labels are found and which are kept stands in `parts.corrective`.

Each gradient step makes labels from its own batch of demonstrations. So the number of steps is that
of cloning, random labels are always new ones, and the present model makes them.
:func:`corrective_labels` makes them for a whole dataset, as a value, and :func:`as_dataset` turns
those into a dataset that can be saved, and that any policy class can learn from:

    labels = ccil.corrective_labels(config, state, log, key)
    data.save_npz(ccil.as_dataset(labels, log), "labels.npz")
    ddm.fit(diffusion, ..., data.Mixture((log, corrected), (0.5, 0.5)), ...)

If demonstrations have no noise, an action is a function of the state, and how the next state
depends on the action cannot be learned: labels of a learned model may then be wrong. Noise on the
demonstrator's actions cures this.

From the authors' code: labels are made anew for each step, theirs once, with more steps for more
labels; labels and demonstrations weigh the same unless `balance` is off; distances are in
standardised units; disturbances of actions are a tenth of the box, theirs 1e-5, almost none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm import data
from ddm.errors import InputError
from ddm.imitation import bc
from ddm.imitation.parts import corrective, lipschitz
from ddm.imitation.parts.corrective import FieldFn, Labels
from ddm.imitation.parts.lipschitz import dynamics_network as dynamics_network
from ddm.networks import heads
from ddm.networks.heads import policy_network as policy_network
from ddm.types import (
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    PyTree,
    Stage,
    check_batch,
    check_continuous,
    check_vectors,
    choice,
    static,
)

LEARNED = "learned"
# (observations (O,), actions (A,)) -> next observations (O,), in the environment's units.
DynamicsFn = Callable[[jax.Array, jax.Array], jax.Array]


class Config(lipschitz.LipschitzConfig, corrective.LabelConfig, bc.Config):
    """Hyper-parameters of the policy, of the labels and of a learned model."""

    # learned: from the log, in a stage of its own; or a known, differentiable function, hashable
    dynamics: str | DynamicsFn = choice((LEARNED,), LEARNED)
    # demonstrations weigh as much as all proposals; otherwise each row weighs the same
    balance: bool = static(True)
    # Units of the log for known dynamics, which `ddm.prepare` sets; empty: those of the environment
    observation_mean: tuple[float, ...] = static((), "(-inf, inf)")
    observation_std: tuple[float, ...] = static((), "(0, inf)")
    action_center: tuple[float, ...] = static((), "(-inf, inf)")
    action_scale: tuple[float, ...] = static((), "(0, inf)")


class State(struct.PyTreeNode):
    """Everything that training changes."""

    model: Any  # a `lipschitz.State`; the empty tuple if the dynamics is known
    policy: bc.State
    step: jax.Array  # () int32, gradient steps done, of the model and of the policy
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Demonstrated steps; `num_actions` is there to refuse a log of discrete actions by name."""
    fields = ("observations", "actions", "next_observations")
    return BatchSpec(fields, num_actions=config.num_actions)


def stages(config: Config) -> tuple[Stage, ...]:
    """The model, if it is learned, and then the policy."""
    policy = Stage("policy", update, batch_spec(config))
    if config.dynamics != LEARNED:
        return (policy,)
    spec = lipschitz.batch_spec(config)
    steps = config.max_epochs * max(config.steps_per_epoch, 1)
    return (Stage("dynamics", train_model, spec, steps, evaluated=False), policy)


def prepare(config: Config, dataset: Any) -> Config:
    """The length of an epoch of the model, or the units of known dynamics, where not given.

    Raises:
      InputError: units are needed, and the dataset is traced, as under jit.
    """
    if config.dynamics == LEARNED:
        return lipschitz.prepare(config, dataset)
    units = dataset.normalization
    if config.observation_std or units.observation_std is None or units.action_scale is None:
        return config
    if isinstance(units.observation_std, jax.core.Tracer):
        raise InputError(
            "ccil: the units of known dynamics are read from the values of the log: call "
            "ddm.prepare(ccil, config, dataset) outside of jit"
        )
    names = ("observation_mean", "observation_std", "action_center", "action_scale")
    return config.replace(
        **{name: tuple(np.asarray(getattr(units, name)).ravel().tolist()) for name in names}
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy, and a fresh model if the dynamics is learned.

    Raises:
      InputError: discrete actions, images, a head for discrete actions, or known dynamics whose
        result is not one observation.
    """
    check_batch(batch, batch_spec(config), "ccil")
    check_continuous(batch, "ccil")
    check_vectors(config, batch, "ccil")
    heads.check(config, batch, "ccil")
    key, policy_key, model_key = jax.random.split(key, 3)
    if config.dynamics != LEARNED:
        _check_dynamics(config.dynamics, batch)
    return State(
        model=lipschitz.init(config, model_key, batch) if config.dynamics == LEARNED else (),
        policy=bc.init(config, policy_key, batch),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def _check_dynamics(dynamics: Any, batch: Batch) -> None:
    inputs = batch.observations[0], batch.actions[0]
    found = jax.eval_shape(dynamics, *inputs)
    if getattr(found, "shape", None) != inputs[0].shape:
        raise InputError(
            f"ccil: dynamics gives {getattr(found, 'shape', type(found).__name__)} for an "
            f"observation {inputs[0].shape} and an action {inputs[1].shape}, expected the next "
            f"observation {inputs[0].shape}"
        )


def train_model(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One epoch of the model: the update of the first stage. Metrics: those of `lipschitz`."""
    model, metrics = lipschitz.update(config, state.model, batch)
    steps = model.step - state.model.step
    return state.replace(model=model, step=state.step + steps), metrics


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step of the policy on demonstrations and on labels that are made from them.

    Metrics: those of `bc`, on both; ``kept``, the share of labels that are not rejected;
    ``label_distance``, their mean distance; for a learned model ``model_error``, in standardised
    units.
    """
    check_batch(batch, batch_spec(config), "ccil")
    key, label_key = jax.random.split(state.key)
    labels = corrective.propose(config, dynamics_field(config, state), batch, label_key)
    kept = labels.kept.astype(jnp.float32)
    demonstrated = config.num_labels if config.balance else 1
    rows = Batch(
        observations=jnp.concatenate([batch.observations, labels.observations]),
        actions=jnp.concatenate([batch.actions, labels.actions]),
    )
    weights = jnp.concatenate([jnp.full(len(batch.actions), demonstrated, jnp.float32), kept])
    policy, metrics = bc.update(config, state.policy, rows, weights)
    found = {
        "kept": jnp.mean(kept),
        "label_distance": jnp.sum(kept * labels.distances) / jnp.maximum(jnp.sum(kept), 1.0),
    }
    if config.dynamics == LEARNED:
        found["model_error"] = state.model.error
    return state.replace(policy=policy, step=state.step + 1, key=key), {**metrics, **found}


def dynamics_field(config: Config, state: State) -> FieldFn:
    """f, the change (O,) of one observation after one action, in the log's units."""
    dynamics = config.dynamics
    if isinstance(dynamics, str):
        return lambda s, a: lipschitz.predict(state.model, s[None], a[None])[0]
    if not config.observation_std:
        return lambda s, a: dynamics(s, a) - s
    names = ("observation_mean", "observation_std", "action_center", "action_scale")
    mean, std, center, scale = (np.asarray(getattr(config, name), np.float32) for name in names)

    def change(observation: jax.Array, action: jax.Array) -> jax.Array:
        observation = observation * std + mean
        return (dynamics(observation, action * scale + center) - observation) / std

    return change


def corrective_labels(config: Config, state: State, dataset: data.Dataset, key: PRNGKey) -> Labels:
    """Labels for all steps of a dataset, in its units.

    Args:
      config: as prepared for the dataset.
      state: a trained one where the dynamics is learned.
      dataset: demonstrations.
      key: used once.

    Raises:
      InputError: no label is kept, and why.
    """
    spec = BatchSpec(batch_spec(config).fields, whole_dataset=True)
    batch = data.sample(dataset, key, 1, spec)
    labels = corrective.propose(config, dynamics_field(config, state), batch, key)
    if not np.any(labels.kept):
        nearest = float(jnp.min(labels.distances))
        raise InputError(
            f"ccil: none of {len(labels.kept)} labels is kept; the nearest is {nearest:.3g} from "
            f"its demonstrated state, and rejection={config.rejection}: the model diverges, or "
            "max_distance, max_error, max_action_distance or tolerance is too small"
        )
    return labels


def as_dataset(labels: Labels, dataset: data.Dataset) -> data.Dataset:
    """The labels that are kept as a dataset of episodes of one step, without rewards.

    Args:
      labels: of :func:`corrective_labels`.
      dataset: whose units and spaces they have.

    Raises:
      InputError: no label is kept.
    """
    kept, units = np.asarray(labels.kept), dataset.normalization
    if not kept.any():
        raise InputError("ccil: no label is kept, expected at least one for a dataset")
    observations, successors = (
        np.asarray(units.denormalize_observations(x))[kept]
        for x in (labels.observations, labels.targets)
    )
    corrected = data.from_arrays(
        observations,
        np.asarray(units.denormalize_actions(labels.actions))[kept],
        next_observations=successors,
        truncations=np.ones(kept.sum(), bool),
        observation_space=dataset.info.observation_space,
        action_space=dataset.info.action_space,
        clip_actions=True,
        environment_id=dataset.info.environment_id,
        name=f"corrective labels of {dataset.info.name}",
    )
    return data.normalize(corrected, like=units)


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """As of `bc`."""
    return bc.act(config, state.policy, observation, key, policy_state, deterministic=deterministic)


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """As of `bc`."""
    return bc.log_prob(config, state.policy, observations, actions)


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if few labels are kept, or if a learned model explains little."""
    kept = metrics.get("kept", 1.0)
    found = []
    if kept < 0.1:
        found.append(
            f"{100.0 * kept:.3g} % of the corrective labels are kept: almost all that is learned "
            "is behaviour cloning; raise max_distance, max_error, max_action_distance or tolerance"
        )
    error = metrics.get("model_error", metrics.get("error", 0.0))
    return [*found, *lipschitz.diagnose(config, {"error": error})]
