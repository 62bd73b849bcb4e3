"""REINFORCE: the policy gradient from the policy's own episodes (Williams 1992).

    L(theta) = - mean_i [ log pi_theta(a_i | s_i) (g_i - b) ]
    g_i = G_i - c log pi_theta(a_i | s_i), held constant;   b = mean_i g_i

over the steps of whole episodes that the current policy sampled, with G_i the return from step i
on. Minus the gradient of L estimates the gradient of the expected return, divided by the mean
length of an episode. The baseline b does not change the expected direction: because it contains the
row's own return, it shrinks the estimate by a factor that goes to one with many episodes. With c
above 0 the mean entropy of the policy in the visited states is raised too.

The caller chooses which return `returns_to_go` holds. A sum discounted from step i on is the usual
estimate; it weighs late states more than the gradient of the discounted return does.

The policy classes are those of :mod:`ddm.networks.heads`, except ``mse``, which does not explore.
The loss is that of behaviour cloning, weighted by returns.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks
from ddm.errors import InputError
from ddm.networks import heads
from ddm.networks.heads import policy_network
from ddm.types import Batch, BatchSpec, Metrics, PRNGKey, PyTree, check_batch, leaf


class Config(heads.HeadConfig):
    """Hyper-parameters of REINFORCE."""

    learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # c, in units of return per nat; 0: the plain policy gradient
    entropy_weight: float = leaf(0.0, "[0, inf)")


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: networks.Trainable
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """All steps of the policy's last episodes, each with the return that followed."""
    return BatchSpec(
        fields=("observations", "actions", "returns_to_go"),
        whole_dataset=True,
        one_hot_observations=config.head == "tabular",
        num_actions=config.num_actions,
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: a head that does not explore, or one that does not fit the actions.
    """
    check_batch(batch, batch_spec(config), "policy_gradient")
    if config.head == "mse":
        raise InputError("policy_gradient: head=mse does not explore; choose a stochastic policy")
    heads.check(config, batch, "policy_gradient")
    key, params_key = jax.random.split(key)
    network = (config.policy_network or policy_network)(config, heads.action_size(config, batch))
    params = network.init(params_key, batch.observations[:1], *heads.bounds(config))
    return State(
        policy=networks.trainable(network, params),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step; `batch` holds episodes of the policy that `state` holds, sampled.

    Metrics: ``loss``, whose value has no meaning; ``return_to_go``, mean over steps; ``entropy``,
    the estimate - mean log pi(a | s).
    """
    check_batch(batch, batch_spec(config), "policy_gradient")
    policy, metrics = networks.minimize(
        lambda params: policy_loss(config, state, params, batch), state.policy, config.learning_rate
    )
    return state.replace(policy=policy, step=state.step + 1), metrics


def policy_loss(
    config: Config, state: State, params: Any, batch: Batch
) -> tuple[jax.Array, Metrics]:
    """The loss for `params` on whole episodes of the policy, with the metrics of `update`."""
    policy = state.policy.apply(params, batch.observations, *heads.bounds(config))
    log_probs = policy.log_prob(batch.actions)
    # The gradient of the entropy -E[log pi] equals the policy gradient for a return of -log pi.
    gains = batch.returns_to_go - config.entropy_weight * jax.lax.stop_gradient(log_probs)
    loss = -jnp.mean(log_probs * (gains - jnp.mean(gains)))
    return loss, {
        "loss": loss,
        "return_to_go": jnp.mean(batch.returns_to_go),
        "entropy": -jnp.mean(log_probs),
    }


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The policy's mode, or a sample from it; ``mixture`` has several modes."""
    outputs = state.policy(observation, *heads.bounds(config))
    return heads.find(config).act(outputs, key, deterministic), policy_state


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-probability (B,) of actions, a log-density where they are real."""
    return state.policy(observations, *heads.bounds(config)).log_prob(actions)
