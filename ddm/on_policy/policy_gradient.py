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

The policy classes are those of behaviour cloning (this is its return-weighted form), except
``mse``, which does not explore.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ddm import networks
from ddm.errors import InputError
from ddm.imitation import bc
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    leaf,
    static,
)


class Config(Configuration):
    """Hyper-parameters of REINFORCE."""

    learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # c, in units of return per nat; 0: the plain policy gradient
    entropy_weight: float = leaf(0.0, "[0, inf)")
    # floor of the Gaussian heads' log standard deviation
    log_std_min: float = leaf(-5.0, at_most="log_std_max")
    # ceiling of the Gaussian heads' log standard deviation
    log_std_max: float = leaf(2.0, "(-inf, inf)")
    # gaussian, tanh_gaussian, mixture or linear_gaussian; for discrete actions categorical, tabular
    # or linear_softmax; see ddm.imitation.bc
    head: str = static("gaussian")
    num_components: int = static(5, "[1, inf)")  # Gaussians of the mixture head
    num_actions: int = static(0, "[0, inf)")  # size of a discrete action space
    hidden_sizes: tuple[int, ...] = static((256, 256), "[1, inf)")  # relu layers
    layer_norm: bool = static(False)  # before each activation
    # Feature map of the linear heads, a function that is hashable; see ddm.imitation.bc.
    features: Callable[[jax.Array], jax.Array] | None = static(None)


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
      InputError: an unknown head, one that does not explore, or one that does not fit the actions.
    """
    check_batch(batch, batch_spec(config), "policy_gradient")
    if config.head == "mse":
        raise InputError("policy_gradient: head=mse does not explore; choose a stochastic policy")
    cloned = bc.init(_policy_class(config), key, batch)
    return State(
        policy=networks.trainable(cloned.policy.params, optax.adam(config.learning_rate)),
        step=cloned.step,
        key=cloned.key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One gradient step; `batch` holds episodes of the policy that `state` holds, sampled.

    Metrics: ``loss``, whose value has no meaning; ``return_to_go``, mean over steps; ``entropy``,
    the estimate - mean log pi(a | s).
    """
    check_batch(batch, batch_spec(config), "policy_gradient")
    policy, metrics = networks.minimize(
        lambda params: _loss(config, state, params, batch),
        state.policy,
        optax.adam(config.learning_rate),
    )
    return state.replace(policy=policy, step=state.step + 1), metrics


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The policy's mode, or a sample from it."""
    return bc.act(
        _policy_class(config),
        _as_cloned(state, state.policy.params),
        observation,
        key,
        policy_state,
        deterministic=deterministic,
    )


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-density (B,) of actions."""
    cloned = _as_cloned(state, state.policy.params)
    return bc.log_prob(_policy_class(config), cloned, observations, actions)


def _loss(config: Config, state: State, params: Any, batch: Batch) -> tuple[jax.Array, Metrics]:
    log_probs = bc.log_prob(
        _policy_class(config), _as_cloned(state, params), batch.observations, batch.actions
    )
    # The gradient of the entropy -E[log pi] equals the policy gradient for a return of -log pi.
    gains = batch.returns_to_go - config.entropy_weight * jax.lax.stop_gradient(log_probs)
    loss = -jnp.mean(log_probs * (gains - jnp.mean(gains)))
    return loss, {
        "loss": loss,
        "return_to_go": jnp.mean(batch.returns_to_go),
        "entropy": -jnp.mean(log_probs),
    }


def _policy_class(config: Config) -> bc.Config:
    """Behaviour cloning's configuration with the same policy."""
    return bc.Config(
        log_std_min=config.log_std_min,
        log_std_max=config.log_std_max,
        head=config.head,
        num_actions=config.num_actions,
        num_components=config.num_components,
        hidden_sizes=config.hidden_sizes,
        layer_norm=config.layer_norm,
        features=config.features,
    )


def _as_cloned(state: State, params: Any) -> bc.State:
    return bc.State(
        policy=networks.Trainable(params, optimizer_state=()), step=state.step, key=state.key
    )
