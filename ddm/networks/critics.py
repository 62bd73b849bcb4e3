"""Value functions: V(s) and ensembles of Q(s, a)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.networks.mlp import (
    MLP,
    Initializer,
    Network,
    concatenate_inputs,
    ensemble,
    fan_in_uniform,
    share,
)
from ddm.networks.trainable import Trainable


class StateValue(Network):
    """V(s): (B, O) to (B,)."""

    hidden_sizes: tuple[int, ...]
    layer_norm: bool = False
    kernel_init: Initializer = fan_in_uniform

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        values = MLP(
            self.hidden_sizes,
            1,
            layer_norm=self.layer_norm,
            kernel_init=self.kernel_init,
            name="mlp",
        )(observations)
        return values[..., 0]


class ActionValue(Network):
    """An ensemble of Q(s, a) as one parameter tree.

    Maps observations (B, O) and actions (B, A) to (E, B), or actions (B, M, A) to (E, B, M).
    """

    hidden_sizes: tuple[int, ...]
    num_members: int = 2
    layer_norm: bool = False
    kernel_init: Initializer = fan_in_uniform

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> jax.Array:
        members = ensemble(MLP, self.num_members)(
            self.hidden_sizes,
            1,
            layer_norm=self.layer_norm,
            kernel_init=self.kernel_init,
            name="mlp",
        )
        inputs = concatenate_inputs(observations, actions)
        values = members(share(inputs, self.num_members))
        return values.reshape(self.num_members, *inputs.shape[:-1])


class DiscreteActionValue(Network):
    """An ensemble of Q(s, a) over K discrete actions as one parameter tree.

    Maps observations (B, O) to the values (E, B, K) of all actions or, given actions (B,) as
    integers, to theirs (E, B).
    """

    hidden_sizes: tuple[int, ...]
    num_actions: int
    num_members: int = 2
    layer_norm: bool = False
    kernel_init: Initializer = fan_in_uniform

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array | None = None) -> jax.Array:
        members = ensemble(MLP, self.num_members)(
            self.hidden_sizes,
            self.num_actions,
            layer_norm=self.layer_norm,
            kernel_init=self.kernel_init,
            name="mlp",
        )
        values = members(share(observations, self.num_members))
        values = values.reshape(self.num_members, *observations.shape[:-1], self.num_actions)
        if actions is None:
            return values
        return jnp.take_along_axis(values, actions[None, :, None], axis=-1)[..., 0]


def first_member(critic: Trainable, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Q_1(s, a), without the gradient to the others; (B,), or (B, M).

    Of an :class:`ActionValue` only this member is computed, of any other ensemble all are.
    """
    if not isinstance(critic.network, ActionValue):
        return critic(observations, actions)[0]
    params = jax.tree.map(lambda leaf: leaf[:1], critic.params)
    return critic.network.clone(num_members=1).apply(params, observations, actions)[0]


def action_slopes(
    critic: Trainable, params: Any, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """The gradient of each Q_i(s, a) with respect to its action, (E, B, A).

    The members of an :class:`ActionValue` are differentiated side by side, each once. Those of any
    other ensemble are found one by one, each through the whole ensemble.

    Args:
      critic: an ensemble.
      params: its parameters, or others in a loss.
      observations: (B, *O).
      actions: (B, A).
    """
    network = critic.network
    if isinstance(network, ActionValue):
        member = network.clone(num_members=1)
        each = jax.tree.map(lambda leaf: leaf[:, None], params)  # members of ensembles of one
        slope = jax.grad(lambda own, a: jnp.sum(member.apply(own, observations, a)), argnums=1)
        return jax.vmap(slope, (0, None))(each, actions)
    values, pull = jax.vjp(lambda a: critic.apply(params, observations, a), actions)
    chosen = jnp.eye(values.shape[0], dtype=values.dtype)
    rows = jnp.broadcast_to(chosen[:, :, None], (*chosen.shape, values.shape[1]))
    return jax.vmap(lambda cotangent: pull(cotangent)[0])(rows)
