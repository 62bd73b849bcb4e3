"""A discriminator of demonstrated and own actions: at its optimum, its logit is their log ratio.

    min_D  E_D [softplus(-D(s, a))] + E_pi [softplus(D(s, a))]
           + c / 2 E_D ||grad_a D(s, a)||^2

Three things keep it from running ahead of the policy: annealed noise on all actions (Arjovsky &
Bottou 2017), a penalty on its slopes at demonstrated actions (R1, Mescheder et al. 2018), and
bounded logits.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm import networks, ops
from ddm.networks import heads
from ddm.types import (
    Batch,
    Configuration,
    Metrics,
    NetworkFn,
    PRNGKey,
    leaf,
    network,
    static,
)


class DiscriminatorConfig(Configuration):
    """The fields of a discriminator; a method's Config adds `hidden_sizes` and `encoder`."""

    discriminator_learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # R1: this / 2 * |d logit / d action|^2 at demonstrated actions. Much smaller than for images:
    # logits of narrow modes are steep, and flat ones leave the policy between the modes.
    gradient_penalty_weight: float = leaf(0.001, "[0, inf)")
    # Noise on all actions that are compared: standard deviation at the start, at the end, and
    # gradient steps from one to the other. It widens modes and fills the gap between them.
    instance_noise: float = leaf(0.05, "[0, inf)")
    final_instance_noise: float = leaf(0.025, "[0, inf)")
    instance_noise_steps: int = leaf(10_000, "[0, inf)")
    logit_bound: float = leaf(10.0, "(0, inf)")  # logits are bound * tanh(output / bound)
    discriminator_steps: int = static(5, "[1, inf)")  # discriminator steps before each policy step
    # in place of the discriminator and its encoder; see `discriminator_network`
    discriminator_network: NetworkFn | None = network()


def discriminator_network(config: Any, action_size: int) -> nn.Module:
    """Logits (N, B) of actions (N, B, A), one-hot if discrete, at observations (B, *O).

    It is called with observations, actions, and the bound of the logits.
    """
    del action_size
    return networks.Discriminator(config.hidden_sizes, config.encoder)


def init(config: Any, key: PRNGKey, batch: Batch, action_size: int) -> networks.Trainable:
    """A fresh discriminator for observations and actions of the shapes in `batch`."""
    judge = (config.discriminator_network or discriminator_network)(config, action_size)
    actions = heads.as_vectors(batch.actions[None, :1], config.num_actions)
    params = judge.init(key, batch.observations[:1], actions, config.logit_bound)
    return networks.trainable(judge, params)


def fit(
    config: Any,
    model: networks.Trainable,
    step: jax.Array,
    batch: Batch,
    own: jax.Array,
    key: PRNGKey,
) -> tuple[networks.Trainable, Metrics]:
    """One step on each mini-batch: its actions against own actions at the same observations.

    Args:
      config: with the fields of :class:`DiscriminatorConfig`.
      model: the discriminator.
      step: gradient steps done, for the noise.
      batch: K B rows, of K mini-batches.
      own: actions of the policy at the rows' observations.
      key: of the noise.

    Returns:
      The discriminator, and the metrics of the last step: ``discriminator_loss``, in nats, and
      ``discriminator_accuracy``.
    """
    pairs = with_noise(config, step, jnp.stack([batch.actions, own]), key)
    steps = config.discriminator_steps
    rows = (
        batch.observations.reshape(steps, -1, *batch.observations.shape[1:]),
        jnp.moveaxis(pairs.reshape(2, steps, -1, pairs.shape[-1]), 1, 0),
    )

    def descend(model: Any, minibatch: tuple[jax.Array, jax.Array]) -> tuple[Any, Metrics]:
        return networks.minimize(
            lambda params: loss(config, model, params, *minibatch),
            model,
            config.discriminator_learning_rate,
        )

    model, metrics = jax.lax.scan(descend, model, rows)
    return model, jax.tree.map(lambda series: series[-1], metrics)


def loss(
    config: Any, model: networks.Trainable, params: Any, observations: jax.Array, pairs: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Logistic loss of demonstrated and own actions (2, B, A), and R1 at the demonstrated ones."""

    def logits_at(actions: jax.Array) -> jax.Array:
        return model.apply(params, observations, actions, config.logit_bound)

    demonstrated, own = logits_at(pairs)
    sides = ops.occupancy_matching.logistic_loss(demonstrated, own)
    logistic = jnp.mean(sides[0]) + jnp.mean(sides[1])
    slopes = jax.grad(lambda actions: jnp.sum(logits_at(actions)))(pairs[:1])
    penalty = 0.5 * config.gradient_penalty_weight * jnp.mean(jnp.sum(jnp.square(slopes), axis=-1))
    accuracy = 0.5 * (jnp.mean(demonstrated > 0.0) + jnp.mean(own < 0.0))
    metrics = {"discriminator_loss": logistic, "discriminator_accuracy": accuracy}
    return logistic + penalty, metrics


def log_ratio(
    config: Any,
    model: networks.Trainable,
    step: jax.Array,
    observations: jax.Array,
    actions: jax.Array,
    key: PRNGKey,
) -> jax.Array:
    """The logits (N, B) of actions (N, B, A) or (N, B), with the noise of training."""
    return model(observations, with_noise(config, step, actions, key), config.logit_bound)


def with_noise(config: Any, step: jax.Array, actions: jax.Array, key: PRNGKey) -> jax.Array:
    """Actions as the discriminator reads them, with the annealed noise."""
    actions = heads.as_vectors(actions, config.num_actions)
    done = ops.share_done(step, config.instance_noise_steps)
    scale = config.instance_noise + done * (config.final_instance_noise - config.instance_noise)
    return actions + scale * jax.random.normal(key, actions.shape, actions.dtype)
