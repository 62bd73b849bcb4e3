"""Behaviour cloning: maximum likelihood of the logged actions.

    L(theta) = - E_D [ log pi_theta(a | s) ]

which is the forward KL divergence from the demonstrator to the policy, up to a constant.
Log-densities are summed over action dimensions and averaged over the batch. The policy classes are
those of :mod:`ddm.networks.heads`. With ``mse`` the loss is the squared error, the likelihood of a
Gaussian of fixed width. The heads without hidden layers have known optima:

- ``tabular``: the share of each action in each state.
- ``linear_softmax``: convex; at the optimum the mean features under the policy are those of the
  data.
- ``linear_gaussian``: ordinary least squares, and its mean squared residual.

The sizes are for vectors of a few dozen numbers. robomimic has two layers of 1024 units (here 256),
a step size of 1e-4 (here 1e-3), and standard deviations by softplus, at least 1e-4. Here they are
the exp of a clipped logarithm, at least exp(-5) = 0.007: below that the loss follows the rounding
of the actions.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.networks import heads
from ddm.networks.heads import policy_network
from ddm.types import Batch, BatchSpec, Metrics, PRNGKey, PyTree, check_batch, leaf


class Config(heads.HeadConfig):
    """Hyper-parameters of behaviour cloning."""

    learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # gradient steps over which a cosine takes the step size to 0; 0: constant
    decay_steps: int = leaf(0, "[0, inf)")
    # decoupled weight decay (AdamW), per unit of learning rate
    weight_decay: float = leaf(0.0, "[0, inf)")
    # probability spread over all actions; discrete heads only
    label_smoothing: float = leaf(0.0, "[0, 1)")


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: networks.Trainable
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Observations and the actions taken there."""
    return BatchSpec(
        fields=("observations", "actions"),
        one_hot_observations=config.head == "tabular",
        num_actions=config.num_actions,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: a head for the other kind of actions, or features that do not fit the head.
    """
    check_batch(batch, batch_spec(config), "bc")
    heads.check(config, batch, "bc")
    key, params_key = jax.random.split(key)
    network = (config.policy_network or policy_network)(config, heads.action_size(config, batch))
    params = network.init(params_key, batch.observations[:1], *heads.bounds(config))
    return State(
        policy=networks.trainable(network, params, networks.adamw),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(
    config: Config, state: State, batch: Batch, weights: jax.Array | None = None
) -> tuple[State, Metrics]:
    """One gradient step on the negative log-likelihood (the squared error for ``mse``).

    Metrics: ``loss``, the mean over the batch, and ``action_error``, the mean squared error of
    the policy's mode (the error rate for discrete actions).

    Args:
      config: of the policy.
      state: of the policy.
      batch: observations and actions.
      weights: (B,) of the rows in both means; None: all weigh the same.
    """
    check_batch(batch, batch_spec(config), "bc")

    def loss_fn(params: Any) -> tuple[jax.Array, Metrics]:
        outputs = state.policy.apply(params, batch.observations, *heads.bounds(config))
        modes = heads.find(config).mode(outputs)
        heads.check_same_actions(modes, batch.actions, "bc")
        loss = jnp.average(losses(config, outputs, batch.actions), weights=weights)
        error = jnp.average(errors(modes, batch.actions), weights=weights)
        return loss, {"loss": loss, "action_error": error}

    rate = ops.cosine_decay(config.learning_rate, state.step, config.decay_steps)
    policy, metrics = networks.minimize(loss_fn, state.policy, rate, config.weight_decay)
    return state.replace(policy=policy, step=state.step + 1), metrics


def losses(config: Config, outputs: Any, actions: jax.Array) -> jax.Array:
    """Loss (...,) of each action: its negative log-likelihood, or the squared error for ``mse``.

    Args:
      config: names the head; `label_smoothing` spreads a part of the probability over all actions.
      outputs: of the head's network.
      actions: (..., A), or (...,) indices.
    """
    head = heads.find(config)
    if not head.density:
        return jnp.sum(jnp.square(outputs - actions), axis=-1)
    if not head.discrete:
        return -outputs.log_prob(actions)
    log_probs = jax.nn.log_softmax(outputs.logits)
    on_action = jnp.take_along_axis(log_probs, actions[..., None], axis=-1)[..., 0]
    return -(
        (1.0 - config.label_smoothing) * on_action
        + config.label_smoothing * jnp.mean(log_probs, axis=-1)
    )


def errors(modes: jax.Array, actions: jax.Array) -> jax.Array:
    """Squared error (...,) of each action, averaged over its dimensions; 0 or 1 if discrete."""
    if jnp.issubdtype(actions.dtype, jnp.integer):
        return (modes != actions).astype(jnp.float32)
    return jnp.mean(jnp.square(modes - actions), axis=-1)


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The policy's mode, or a sample from it; ``mse`` has only a mode, ``mixture`` several."""
    outputs = state.policy(observation, *heads.bounds(config))
    return heads.find(config).act(outputs, key, deterministic), policy_state


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-probability (B,) of actions under the policy, a log-density where they are real.

    Label smoothing is part of the loss, not of the policy, so it is left out here.

    Raises:
      InputError: ``mse``, whose policy is one action.
    """
    outputs = state.policy(observations, *heads.bounds(config))
    return heads.log_prob(config, outputs, actions, "bc")
