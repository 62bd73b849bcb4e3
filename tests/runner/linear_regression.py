"""The smallest algorithm that obeys the contract: a linear policy fitted by noisy descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import struct

from ddm.types import Batch, BatchSpec

LOSSES = {"square": jnp.square, "absolute": jnp.abs}


@struct.dataclass
class Config:
    """Hyper-parameters."""

    learning_rate: float = 0.1  # step size
    noise: float = 0.01  # standard deviation that is added to the weights
    explode_at: int = -1  # update from which the loss is NaN; -1: never
    spoil_at: int = -1  # update after which the weights are NaN, which no metric shows; -1: never
    largest: float = float("inf")  # of the weights
    loss: Literal["square", "absolute"] | Callable = struct.field(
        pytree_node=False, default="square"
    )  # of an error
    scale: Callable = struct.field(pytree_node=False, default=jnp.asarray)  # of an observation
    minibatches: int = struct.field(pytree_node=False, default=1)  # gradient steps of an update


@struct.dataclass
class State:
    """Everything that training changes."""

    weights: jax.Array  # (O, A)
    step: jax.Array
    key: jax.Array


def batch_spec(config: Config) -> BatchSpec:
    """Observations and actions."""
    return BatchSpec(fields=("observations", "actions"), minibatches=config.minibatches)


def init(config: Config, key: jax.Array, batch: Batch) -> State:
    """Random weights."""
    key, weights_key = jax.random.split(key)
    shape = (batch.observations.shape[-1], batch.actions.shape[-1])
    return State(jax.random.normal(weights_key, shape), jnp.zeros((), jnp.int32), key)


def update(config: Config, state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
    """One step on the squared error."""
    key, noise_key = jax.random.split(state.key)

    def loss_fn(weights):
        errors = config.scale(batch.observations) @ weights - batch.actions
        loss = config.loss if callable(config.loss) else LOSSES[config.loss]
        return jnp.mean(loss(errors))

    loss, gradient = jax.value_and_grad(loss_fn)(state.weights)
    weights = state.weights - config.learning_rate * gradient
    weights += config.noise * jax.random.normal(noise_key, weights.shape)
    loss = jnp.where(state.step == config.explode_at, jnp.nan, loss)
    weights = jnp.clip(weights, -config.largest, config.largest)
    metrics = {"loss": loss, "weight_norm": jnp.linalg.norm(weights)}
    weights = jnp.where(state.step == config.spoil_at, jnp.nan, weights)
    return State(weights, state.step + config.minibatches, key), metrics


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: jax.Array,
    policy_state: Any = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, Any]:
    """The linear map."""
    return jnp.clip(config.scale(observation) @ state.weights, -1.0, 1.0), policy_state


def diagnose(config: Config, metrics: Any) -> list[str]:
    """A step size of 0 learns nothing."""
    if config.learning_rate > 0.0:
        return []
    return [f"learning_rate is 0 and the loss stays at {metrics['loss']:.1f}"]
