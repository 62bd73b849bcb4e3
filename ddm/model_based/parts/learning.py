"""How members learn: the same steps for all under `vmap`, each on rows of its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddm import networks
from ddm.model_based.parts import logged, members
from ddm.model_based.parts.logged import Rows, Scales
from ddm.types import Batch, PRNGKey


def learn(
    config: Any,
    trained: networks.Trainable,
    batch: Batch,
    split_key: PRNGKey,
    order_key: PRNGKey,
    num_steps: int,
    active: jax.Array | bool = True,
) -> tuple[networks.Trainable, Scales, jax.Array, jax.Array]:
    """Gradient steps of all members on the rows of a batch that are not held out.

    Args:
      config: of the model.
      trained: the members; leaves begin with an axis E.
      batch: transitions.
      split_key: says what is held out, and which rows each member draws.
      order_key: says in which order.
      num_steps: of each member.
      active: () bool; False: no step is made.

    Returns:
      The members; the scales of what was learned; losses (E,), and errors (E,) on what is held out.
    """
    rows = logged.rows_of(batch)
    held_out, learned = logged.split(config, split_key, rows)
    scales = logged.scales_of(jax.tree.map(lambda x: x[learned], rows))
    order = logged.draw_order(config, split_key, order_key, learned, num_steps)
    steps = jnp.where(active, num_steps, 0)
    trained, losses = jax.vmap(
        lambda member, order: train(config, scales, member, rows, order, steps)
    )(trained, order)
    errors = members.errors(trained, scales, jax.tree.map(lambda x: x[held_out], rows))
    return trained, scales, losses, errors


def train(
    config: Any,
    scales: Scales,
    member: networks.Trainable,
    rows: Rows,
    order: jax.Array,
    steps: Any,
) -> tuple[networks.Trainable, jax.Array]:
    """Gradient steps of one member.

    Args:
      config: of the model.
      scales: of inputs and targets.
      member: without the axis of members.
      rows: N of them.
      order: (K, B) the rows of each gradient step.
      steps: () how many of the K steps are made; may be traced.

    Returns:
      The member, and the mean of its loss, 0 without a step.
    """

    def step(index: Any, carry: tuple[networks.Trainable, jax.Array]):
        member, total = carry
        picked = jax.tree.map(lambda x: x[order[index]], rows)
        member, metrics = networks.minimize(
            lambda params: members.loss(config, member, params, scales, picked),
            member,
            config.model_learning_rate,
        )
        return member, total + metrics["loss"]

    member, total = jax.lax.fori_loop(0, steps, step, (member, jnp.zeros((), jnp.float32)))
    return member, total / jnp.maximum(steps, 1).astype(jnp.float32)
