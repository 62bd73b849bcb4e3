"""SafeDAgger's classifier of states where the learner's action is far from the expert's.

Zhang & Cho 2017. It learns from held-out states, on which the learner's errors are honest.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from ddm import networks
from ddm.imitation import bc
from ddm.imitation.parts import gates
from ddm.types import Batch, Metrics, PRNGKey


def safety_network(config: Any, action_size: int) -> nn.Module:
    """The classifier: observations (..., O) to a logit (..., 1) of "unsafe"."""
    del action_size
    return networks.MLP(config.safety_hidden_sizes, 1)


def init(
    config: Any, key: PRNGKey, observations: jax.Array, action_size: int
) -> networks.Trainable:
    """A fresh classifier for observations (B, *O)."""
    classifier = (config.safety_network or safety_network)(config, action_size)
    return networks.trainable(classifier, classifier.init(key, observations))


def learn(
    config: Any, safety: networks.Trainable, batch: Batch, modes: jax.Array
) -> tuple[networks.Trainable, Metrics]:
    """One step on those rows of the batch that are held out.

    Args:
      config: with the limit above which a squared error is unsafe.
      safety: the classifier.
      batch: observations, and the expert's actions.
      modes: the learner's actions there.
    """
    unsafe = (bc.errors(modes, batch.actions) > config.discrepancy_limit).astype(jnp.float32)
    weights = gates.held_out(batch.observations, config.held_out_share).astype(jnp.float32)
    total = jnp.maximum(jnp.sum(weights), 1.0)

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        logits = safety.apply(params, batch.observations)[..., 0]
        losses = optax.sigmoid_binary_cross_entropy(logits, unsafe)
        loss = jnp.sum(weights * losses) / total
        return loss, {"safety_loss": loss, "unsafe_share": jnp.sum(weights * unsafe) / total}

    return networks.minimize(loss_fn, safety, config.safety_learning_rate)
