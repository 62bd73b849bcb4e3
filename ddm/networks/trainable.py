"""A network together with all that training it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from ddm import ops
from ddm.types import Metrics

LossFn = Callable[[Any], tuple[jax.Array, Metrics]]
Optimizer = Callable[..., optax.GradientTransformation]  # of a step size, such as `optax.adam`


class Trainable(struct.PyTreeNode):
    """A network, its parameters, and the optimiser that moves them, with its state.

    `network` and `optimizer` are static: they are chosen once, in an algorithm's `init`, so that
    `update` and `act` cannot disagree with it, whoever wrote the network.

        critic = networks.trainable(network, network.init(key, observations, actions))
        values = critic(observations, actions)
        critic, metrics = networks.minimize(loss, critic, learning_rate)
    """

    params: Any
    optimizer_state: Any
    network: nn.Module | None = struct.field(pytree_node=False)  # None: the parameters are numbers
    optimizer: Optimizer = struct.field(pytree_node=False)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """The network's output at the present parameters."""
        return self.apply(self.params, *inputs, **options)

    def apply(self, params: Any, *inputs: Any, **options: Any) -> Any:
        """The network's output at other parameters, as in a loss."""
        assert self.network is not None, "a dual variable has no network"
        return self.network.apply(params, *inputs, **options)


class Tracked(Trainable):
    """A network with a slow copy of its parameters, from which bootstrap targets are computed."""

    target_params: Any

    def target(self, *inputs: Any, **options: Any) -> Any:
        """The network's output at the target parameters."""
        return self.apply(self.target_params, *inputs, **options)


def adamw(learning_rate: Any, weight_decay: Any = 0.0) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, per unit of learning rate."""
    return optax.adamw(learning_rate, weight_decay=weight_decay)


TrainableT = TypeVar("TrainableT", bound=Trainable)


def trainable(
    network: nn.Module | None, params: Any, optimizer: Optimizer = optax.adam
) -> Trainable:
    """A network with given parameters and a fresh optimiser.

    Args:
      network: the flax module; None for parameters that are used as they are.
      params: its variables, from `network.init`.
      optimizer: a function of the step size, and of what else `minimize` hands on.
    """
    return Trainable(params, optimizer(0.0).init(params), network, optimizer)


def tracked(network: nn.Module | None, params: Any, optimizer: Optimizer = optax.adam) -> Tracked:
    """As :func:`trainable`; the targets start as a copy of the parameters."""
    targets = jax.tree.map(jnp.copy, params)
    return Tracked(params, optimizer(0.0).init(params), network, optimizer, targets)


def descend(gradients: Any, model: TrainableT, *settings: Any) -> TrainableT:
    """One optimiser step along given gradients; `settings` are those of :func:`minimize`."""
    optimizer = model.optimizer(*settings)
    # optax raises a float to an integer (Adam's bias correction), which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, optimizer_state = optimizer.update(gradients, model.optimizer_state, model.params)
    params = optax.apply_updates(model.params, updates)
    return model.replace(params=params, optimizer_state=optimizer_state)


def minimize(loss_fn: LossFn, model: TrainableT, *settings: Any) -> tuple[TrainableT, Metrics]:
    """One optimiser step on a loss.

    Args:
      loss_fn: parameters -> (scalar loss, metrics).
      model: what the loss depends on.
      *settings: for the model's optimiser, at first the step size. They may be traced, which is how
        learning rates are swept by `vmap`.

    Returns:
      The model after the step, and the metrics before it.
    """
    gradients, metrics = jax.grad(loss_fn, has_aux=True)(model.params)
    return descend(gradients, model, *settings), metrics


def follow(model: Tracked, rate: Any) -> Tracked:
    """Moves the target parameters a share `rate` of the way to the present ones."""
    return model.replace(target_params=ops.polyak(model.target_params, model.params, rate))
