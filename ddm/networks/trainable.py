"""Parameters together with the state of the optimiser that moves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import struct

from ddm.types import Metrics

LossFn = Callable[[Any], tuple[jax.Array, Metrics]]


class Trainable(struct.PyTreeNode):
    """One network's parameters and optimiser state, as one pytree of arrays."""

    params: Any
    optimizer_state: Any


def trainable(params: Any, optimizer: optax.GradientTransformation) -> Trainable:
    """Parameters with a fresh optimiser state."""
    return Trainable(params, optimizer.init(params))


def descend(gradients: Any, model: Trainable, optimizer: optax.GradientTransformation) -> Trainable:
    """One optimiser step along given gradients."""
    # optax raises a float to an integer (Adam's bias correction), which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, optimizer_state = optimizer.update(gradients, model.optimizer_state, model.params)
    return Trainable(optax.apply_updates(model.params, updates), optimizer_state)


def minimize(
    loss_fn: LossFn, model: Trainable, optimizer: optax.GradientTransformation
) -> tuple[Trainable, Metrics]:
    """One optimiser step on a loss.

    The optimiser may be made anew at each call: `optax.adam(rate)` keeps its state outside, and
    its rate may be traced, which is how learning rates are swept by `vmap`.

    Args:
      loss_fn: parameters -> (scalar loss, metrics).
      model: what the loss depends on.
      optimizer: the transformation that `model` was made with.

    Returns:
      The model after the step, and the metrics before it.
    """
    gradients, metrics = jax.grad(loss_fn, has_aux=True)(model.params)
    return descend(gradients, model, optimizer), metrics
