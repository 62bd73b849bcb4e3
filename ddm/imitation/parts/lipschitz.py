"""A model of the environment that is smooth near the demonstrations (Ke et al. 2024, section 4).

    s' = s + f(s, a),   min_f  E ||f(s, a) - (s' - s)||^2   s.t. the local slope of f is at most L

Near a demonstrated pair a smooth model errs by what it errs at the pair, and a slope times the
distance. Without the constraint a network may be steep between few data. The slope is that of the
network: from standardised inputs to standardised changes of the observation. How it is bounded:

- ``none``: not at all.
- ``spectral``: each layer's largest singular value is at most L after every step, so that the
  network with its K layers has slopes of at most L^K everywhere.
- ``jacobian``: + lam E relu(||J(s, a)||_2 - L), with exact Jacobians.
- ``sampling``: + lam E relu(q - L), with the slopes q = ||f(x + e xi) - f(x)|| / (e ||xi||) towards
  random neighbours. A random direction is less steep than the steepest one.
- ``slack``: E ||g (f - y)^2|| - w E g. A gate g(s, a) in (0, 1) gives up samples whose squared
  error is above w, as at a contact, where the true dynamics jumps.
- ``sampling_slack``: + lam E [relu(q - L - g) + w (1 - exp(-g))]. The slack g(s, a) >= 0 lets
  single samples be steep, and the second term, close to w times their number, keeps them few: a
  slope is given up when it is more than w above L.

An update is one epoch on the whole log, as of :mod:`ddm.model_based.dynamics`. From the authors'
code: scales are standard deviations (theirs mean absolute ones); weight decay is decoupled; the
penalty of their ``soft_sampling`` compares a standardised change with a next state in other units,
which is no slope, so their L and lam mean something else; in their ``soft_sampling_slack`` the
slack multiplies the penalty and may be negative, so that penalty and slack vanish together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ddm import networks
from ddm.errors import InputError
from ddm.imitation.parts.slopes import VARIANTS
from ddm.networks import spectral
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    choice,
    leaf,
    network,
    static,
)


class LipschitzConfig(Configuration):
    """The fields of a smooth model; a method's Config adds its own."""

    model_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # decoupled weight decay (AdamW), per unit of learning rate
    model_weight_decay: float = leaf(1e-5, "[0, inf)")
    slope_limit: float = leaf(2.0, "(0, inf)")  # L; for `spectral` of each layer
    slope_weight: float = leaf(1e-2, "[0, inf)")  # lam, of slopes above L
    # w: the squared error (slack), or the excess of a slope (sampling_slack), that is given up
    slack_weight: float = leaf(0.5, "[0, inf)")
    perturbation: float = leaf(3e-3, "(0, inf)")  # e, in standard deviations of an input
    lipschitz: str = choice(VARIANTS, "sampling")  # how slopes are bounded, see above
    num_perturbations: int = static(5, "[1, inf)")  # random neighbours of each sample
    model_hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # relu layers
    model_batch_size: int = static(256, "[1, inf)")  # rows of a gradient step of the model
    max_epochs: int = static(100, "[1, inf)")  # passes over the log
    # gradient steps of an epoch; 0: as many as pass over the log once, which `ddm.prepare` sets
    steps_per_epoch: int = static(0, "[0, inf)")
    dynamics_network: NetworkFn | None = network()  # in place of :func:`dynamics_network`


class Units(struct.PyTreeNode):
    """Of what the network reads and predicts."""

    observations: networks.Moments
    actions: networks.Moments
    changes: networks.Moments


class State(struct.PyTreeNode):
    """Everything that training changes."""

    model: networks.Trainable
    gate: Any  # a `networks.Trainable`; the empty tuple without slack
    units: Units
    vectors: tuple[jax.Array, ...]  # of the power iteration; empty where it is not used
    error: jax.Array  # () mean squared error after the last epoch, in standardised units
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: LipschitzConfig) -> BatchSpec:
    """The whole log: an update is an epoch."""
    return BatchSpec(
        fields=("observations", "actions", "next_observations"),
        minibatches=max(config.steps_per_epoch, 1),
        whole_dataset=True,
    )


def prepare(config: Any, dataset: Any) -> Any:
    """The length of an epoch, where it is not given."""
    if config.steps_per_epoch:
        return config
    count = dataset.rewards.shape[-1] if hasattr(dataset, "rewards") else dataset.capacity
    return config.replace(steps_per_epoch=max(1, count // config.model_batch_size))


def init(config: Any, key: PRNGKey, batch: Batch) -> State:
    """A fresh model for the shapes in `batch`."""
    key, model_key, gate_key, vector_key = jax.random.split(key, 4)
    variant = VARIANTS[config.lipschitz]
    inputs = batch.observations[:1], batch.actions[:1]
    model = (config.dynamics_network or dynamics_network)(config, batch.actions.shape[-1])
    params = model.init(model_key, *inputs)
    gate: Any = ()
    if variant.gated:
        judge = networks.Regression(config.model_hidden_sizes, 1)
        gate = networks.trainable(judge, judge.init(gate_key, *inputs), networks.adamw)
    sizes = [batch.observations.shape[-1], batch.actions.shape[-1], batch.observations.shape[-1]]
    return State(
        model=networks.trainable(model, params, networks.adamw),
        gate=gate,
        units=Units(*map(networks.Moments.neutral, sizes)),
        vectors=spectral.start_vectors(vector_key, params) if variant.clipped else (),
        error=jnp.ones((), jnp.float32),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def dynamics_network(config: Any, action_size: int) -> nn.Module:
    """The network of f.

    It is called with standardised observations (B, O) and actions (B, A), and returns standardised
    changes of the observation (B, O). For `spectral` its activations must have slopes of at most 1.
    """
    del action_size
    return networks.Regression(config.model_hidden_sizes)


def update(config: Any, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One epoch on the whole log.

    Metrics: ``loss`` and those of the variant, means over the epoch's steps; ``error``, the mean
    squared error after them in standardised units: 1 is that of a model that knows nothing.

    Raises:
      InputError: the length of an epoch is not known.
    """
    if config.steps_per_epoch < 1:
        raise InputError(
            "steps_per_epoch is not set; ddm.prepare(algorithm, config, dataset) sets it"
        )
    changes = batch.next_observations - batch.observations
    units = Units(*map(networks.Moments.of, (batch.observations, batch.actions, changes)))
    inputs = join(units, batch.observations, batch.actions)
    targets = units.changes.standardize(changes)

    key, order_key, noise_key = jax.random.split(state.key, 3)
    rows = len(inputs)
    order = jax.random.permutation(order_key, rows)
    places = jnp.arange(config.steps_per_epoch * config.model_batch_size, dtype=jnp.int32) % rows
    picked = order[places].reshape(config.steps_per_epoch, config.model_batch_size)
    noise_keys = jax.random.split(noise_key, config.steps_per_epoch)

    def step(carry: State, drawn: tuple[jax.Array, PRNGKey]) -> tuple[State, Metrics]:
        rows, key = drawn
        return _descend(config, carry, inputs[rows], targets[rows], key)

    state, metrics = jax.lax.scan(step, state, (picked, noise_keys))
    state = _clip_exactly(config, state)
    size = batch.observations.shape[-1]
    error = jnp.mean((_apply(state.model, state.model.params, size)(inputs) - targets) ** 2)
    state = state.replace(
        units=units, error=error, step=state.step + config.steps_per_epoch, key=key
    )
    return state, {name: jnp.mean(x) for name, x in metrics.items()} | {"error": error}


def _descend(
    config: Any, state: State, inputs: jax.Array, targets: jax.Array, key: PRNGKey
) -> tuple[State, Metrics]:
    """One gradient step of the model, and of the gate if there is one."""
    variant, size = VARIANTS[config.lipschitz], targets.shape[-1]

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        f = _apply(state.model, params["model"], size)
        gate = _apply(state.gate, params["gate"], size) if variant.gated else None
        loss, metrics = variant.loss(config, f, gate, inputs, targets, key)
        return loss, {"loss": loss, **metrics}

    params = {"model": state.model.params, "gate": state.gate.params if variant.gated else ()}
    gradients, metrics = jax.grad(loss_fn, has_aux=True)(params)
    settings = config.model_learning_rate, config.model_weight_decay
    model, gate, vectors = (
        networks.descend(gradients["model"], state.model, *settings),
        state.gate,
        state.vectors,
    )
    if variant.gated:
        gate = networks.descend(gradients["gate"], state.gate, *settings)
    if variant.clipped:
        params, vectors = spectral.clip(model.params, vectors, config.slope_limit)
        model = model.replace(params=params)
    return state.replace(model=model, gate=gate, vectors=vectors), metrics


def _clip_exactly(config: Any, state: State) -> State:
    """The bound of `spectral` holds after each epoch, not only nearly."""
    if not VARIANTS[config.lipschitz].clipped:
        return state
    params = spectral.clip_exactly(state.model.params, config.slope_limit)
    return state.replace(model=state.model.replace(params=params))


def join(units: Units, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Standardised inputs (B, O + A)."""
    pair = units.observations.standardize(observations), units.actions.standardize(actions)
    return jnp.concatenate(pair, axis=-1)


def _apply(model: networks.Trainable, params: Any, size: int) -> Callable[[jax.Array], jax.Array]:
    """The network as a function of joined inputs (B, O + A), of which `size` are observations."""
    return lambda inputs: model.apply(params, inputs[..., :size], inputs[..., size:])


def predict(state: State, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """f: changes (B, O) of observations (B, O) after actions (B, A), in the log's units."""
    inputs = join(state.units, observations, actions)
    outputs = _apply(state.model, state.model.params, observations.shape[-1])(inputs)
    return state.units.changes.restore(outputs)


def diagnose(config: Any, metrics: Mapping[str, float]) -> list[str]:
    """A sentence if the model explains little of what it was trained on."""
    error = metrics.get("error", 0.0)
    if not error > 0.5:
        return []
    return [
        f"the model explains less than half of what happens (error {error:.3g} of the variance): "
        f"its corrective labels are wrong; raise max_epochs or slope_limit={config.slope_limit}"
    ]
