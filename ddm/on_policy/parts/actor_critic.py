"""A policy with a head, and values V(s) as its baseline: what PPO and NPG have in common.

Actions. A policy acts in the box [-1, 1]. Samples of the heads without a tanh can lie outside and
are clipped to it, by whoever steps the environment. The clipped action is what stands in a batch,
and its log-probability is that of the clipped sample: a bound has the probability of the tail
beyond it. With ``tanh_gaussian``, the default, there is nothing to clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.experience import CollectSpec
from ddm.networks import encoders, heads
from ddm.networks.heads import policy_network
from ddm.on_policy.parts import windows
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    check_example,
    check_vectors,
    choice,
    leaf,
    network,
    static,
)


class Config(heads.HeadConfig):
    """Hyper-parameters of the policy class, its values and its windows."""

    discount: float = leaf(0.99, "[0, 1]")  # gamma
    trace_decay: float = leaf(0.95, "[0, 1]")  # lambda of the advantages; 0: one step, 1: all
    # policy class; categorical, tabular and linear_softmax are for discrete actions
    head: str = choice(lambda: heads.HEADS, "tanh_gaussian")
    # steps of each copy of the environment before an update, as `CollectSpec.steps_per_update`
    window: int = static(2048, "[1, inf)")
    value_network: NetworkFn | None = network()  # in place of :func:`value_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Trainable
    value: networks.Trainable
    step: jax.Array  # () int32, updates done: one for each set of windows
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """The last steps of every copy of the environment, all by the present policy."""
    return BatchSpec(
        fields=(*TRANSITION_FIELDS, "truncations"),
        window=config.window,
        whole_dataset=True,
        one_hot_observations=config.head == "tabular",
        num_actions=config.num_actions,
    )


def collect_spec(config: Config) -> CollectSpec:
    """Nothing but the present policy's steps; more copies by `dataclasses.replace`."""
    return CollectSpec(on_policy=True, steps_per_update=config.window)


def value_network(config: Config, action_size: int) -> Any:
    """V(s) on encoded observations: called with (R, *O); returns (R,)."""
    del action_size
    value = networks.StateValue(config.hidden_sizes, config.layer_norm, networks.orthogonal)
    return encoders.encoded(config.encoder, value)


def init(
    config: Config,
    key: PRNGKey,
    batch: Batch,
    name: str,
    actor_optimizer: networks.Optimizer,
    value_optimizer: networks.Optimizer,
) -> State:
    """Fresh networks for the shapes in `batch`, for the algorithm of that name.

    Raises:
      InputError: a head that does not explore, or does not fit the actions; images without an
        encoder.
    """
    check_example(batch, batch_spec(config), name)
    rows = windows.flatten(batch)
    check_explores(config, name)
    if config.encoder == "none":
        check_vectors(config, rows, name)
    heads.check(config, rows, name)
    key, actor_key, value_key = jax.random.split(key, 3)
    size, observations = heads.action_size(config, rows), rows.observations[:1]
    actor = (config.policy_network or policy_network)(config, size)
    value = (config.value_network or value_network)(config, size)
    actor_params = actor.init(actor_key, observations, *heads.bounds(config))
    return State(
        actor=networks.trainable(actor, actor_params, actor_optimizer),
        value=networks.trainable(value, value.init(value_key, observations), value_optimizer),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def check_explores(config: heads.HeadConfig, name: str) -> None:
    """Refuses a policy that is one action at each observation."""
    if not heads.find(config).density:
        raise InputError(f"{name}: head={config.head} does not explore; choose a stochastic policy")


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
    outputs = policy_at(config, state.actor, observation)
    return heads.find(config).act(outputs, key, deterministic), policy_state


def log_prob(
    config: Config, state: State, observations: jax.Array, actions: jax.Array
) -> jax.Array:
    """Log-probability (B,) of actions that were clipped to their box."""
    return networks.clipped_log_prob(policy_at(config, state.actor, observations), actions)


def policy_at(
    config: heads.HeadConfig,
    actor: networks.Trainable,
    observations: jax.Array,
    params: Any = None,
) -> Any:
    """The distribution pi(. | s); with other parameters than the policy's in a loss."""
    params = actor.params if params is None else params
    return actor.apply(params, observations, *heads.bounds(config))


def entropies(
    config: heads.HeadConfig, outputs: Any, log_probs: jax.Array, ratios: jax.Array
) -> jax.Array:
    """Entropy (R,) of pi(. | s), whose mean over the policy's own steps has the right gradient.

    It is exact for a softmax, and for a Gaussian (before its samples are clipped). Any other is
    estimated by -log pi(a | s) of the action that was taken; because -E[log pi grad log pi] is the
    gradient of the entropy, the estimate passes it on through the ratio.

    Args:
      config: names the head.
      outputs: of the head's network.
      log_probs: (R,) of the actions that were taken.
      ratios: (R,) their probability over that under the policy that took them.
    """
    if heads.find(config).discrete:
        log_shares = jax.nn.log_softmax(outputs.logits)
        return -jnp.sum(jnp.exp(log_shares) * log_shares, axis=-1)
    parameters = networks.gaussian_parameters(outputs)
    if parameters is None or isinstance(outputs, networks.TanhGaussian):
        return -ratios * jax.lax.stop_gradient(log_probs)
    return jnp.sum(jnp.log(parameters[1]) + 0.5 * jnp.log(2.0 * jnp.pi * jnp.e), axis=-1)


def value_loss(
    value: networks.Trainable, params: Any, steps: windows.Steps, clip: jax.Array | float = 0.0
) -> jax.Array:
    """Half the mean squared distance of V(s) to its targets.

    Args:
      value: V(s).
      params: in place of its parameters.
      steps: with returns and the values before the update.
      clip: with a number above 0, a value that has moved by more in this update counts as if it had
        moved by that much, where that is the larger error; 0: not used.
    """
    values = value.apply(params, steps.observations)
    errors = jnp.square(values - steps.returns)
    near = steps.values + jnp.clip(values - steps.values, -clip, clip)
    larger = jnp.maximum(errors, jnp.square(near - steps.returns))
    errors = jnp.where(jnp.asarray(clip) > 0.0, larger, errors)
    return 0.5 * windows.weighted_mean(errors, steps.weights)


def metrics_of(batch: Batch, steps: windows.Steps) -> Metrics:
    """``value``, ``return``, ``explained_variance`` before an update, and ``reward_max``."""
    return {
        "value": windows.weighted_mean(steps.values, steps.weights),
        "return": windows.weighted_mean(steps.returns, steps.weights),
        "explained_variance": windows.explained_variance(steps),
        "reward_max": ops.largest_reward(batch.rewards),
    }


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """A sentence if values exceed what the rewards allow."""
    return ops.values_beyond_rewards(config.discount, metrics, value="value")
