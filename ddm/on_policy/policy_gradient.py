"""REINFORCE: the policy gradient from the policy's own episodes (Williams 1992).

    L(theta) = - mean_i [ log pi_theta(a_i | s_i) (g_i - b) ]
    g_i = G_i - c log pi_theta(a_i | s_i), held constant;   b = mean_i g_i

over the steps of episodes that the current policy sampled, with G_i the return from step i on.
Minus the gradient of L estimates the gradient of the expected return, divided by the mean length of
an episode. The baseline b does not change the expected direction: because it contains the row's own
return, it shrinks the estimate by a factor that goes to one with many episodes. With c above 0 the
mean entropy of the policy in the visited states is raised too.

Its own experience comes in windows of `window` steps of every copy of the environment. A step
counts if its episode ends inside the window, by a termination or by a truncation; then its return
is the sum of the rewards up to there, discounted from the step on. The others are left out: the
rest of their return is not known, and without values there is nothing to put in its place. So an
episode that crosses the window's end counts only with its later part, in the next window, and long
episodes are cut more often than short ones: choose a window of several times the length of an
episode. A truncation is the end, as in a task of that many steps. A sum discounted from the step on
is the usual estimate; it weighs late states more than the gradient of the discounted return does.

    collector = ddm.Collector.create(environment, policy_gradient.collect_spec(config))
    learner, metrics = ddm.fit_online(policy_gradient, config, collector, key, num_steps=100)

With a `window` of 0, the caller gives rows of whole episodes with their `returns_to_go`, and
chooses what these are.

The policy classes are those of :mod:`ddm.networks.heads`, except ``mse``, which does not explore.
The loss is that of behaviour cloning, weighted by returns. Samples of the heads without a tanh are
clipped to the box of the actions, and their likelihood is that of the clipped sample: see
:mod:`ddm.on_policy.parts.actor_critic`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.experience import CollectSpec
from ddm.networks import heads
from ddm.networks.heads import policy_network
from ddm.on_policy.parts import windows
from ddm.on_policy.parts.actor_critic import check_explores
from ddm.types import (
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    check_example,
    leaf,
    static,
)


class Config(heads.HeadConfig):
    """Hyper-parameters of REINFORCE."""

    learning_rate: float = leaf(1e-3, "[0, inf)")  # Adam's step size
    # c, in units of return per nat; 0: the plain policy gradient
    entropy_weight: float = leaf(0.0, "[0, inf)")
    discount: float = leaf(0.99, "[0, 1]")  # gamma, of the returns in a window
    # steps of each copy of the environment before an update; 0: the caller gives rows with returns
    window: int = static(1000, "[0, inf)")


class State(struct.PyTreeNode):
    """Everything that training changes."""

    policy: networks.Trainable
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """The present policy's last steps in windows; or rows, each with the return that followed."""
    of_windows = ("observations", "actions", "rewards", "terminations", "truncations")
    return BatchSpec(
        fields=of_windows if config.window else ("observations", "actions", "returns_to_go"),
        window=config.window or None,
        whole_dataset=True,
        one_hot_observations=config.head == "tabular",
        num_actions=config.num_actions,
    )


def collect_spec(config: Config) -> CollectSpec | None:
    """Nothing but the present policy's steps, or none; more copies by `dataclasses.replace`."""
    if not config.window:
        return None
    return CollectSpec(on_policy=True, steps_per_update=config.window)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy for observations and actions of the shapes in `batch`.

    Raises:
      InputError: a head that does not explore, or one that does not fit the actions.
    """
    check_example(batch, batch_spec(config), "policy_gradient")
    batch = windows.flatten(batch) if config.window else batch
    check_explores(config, "policy_gradient")
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
    """One gradient step; `batch` holds steps of the policy that `state` holds, sampled.

    Metrics: ``loss``, whose value has no meaning; ``return_to_go``, mean over the steps that count;
    ``entropy``, the estimate - mean log pi(a | s); ``share``, of the steps that count.
    """
    check_batch(batch, batch_spec(config), "policy_gradient")
    batch = with_returns(batch, config.discount) if config.window else batch
    policy, metrics = networks.minimize(
        lambda params: policy_loss(config, state, params, batch), state.policy, config.learning_rate
    )
    return state.replace(policy=policy, step=state.step + 1), metrics


def with_returns(batch: Batch, discount: jax.Array | float) -> Batch:
    """The steps of windows as rows, with their returns, and a mask of those that count.

    Args:
      batch: windows (N, T, ...) with rewards, terminations and truncations.
      discount: of the returns, from each step on.
    """
    ends = batch.terminations | batch.truncations
    nothing = jnp.zeros_like(batch.rewards)  # follows an end
    returns = ops.lambda_returns(batch.rewards, discount, 1.0, batch.terminations, nothing, ends)
    ends_from_here = jnp.cumsum(ends[:, ::-1], axis=1, dtype=jnp.int32)[:, ::-1]
    rows = Batch(observations=batch.observations, actions=batch.actions, returns_to_go=returns)
    return windows.flatten(rows.replace(mask=ends_from_here > 0))


def policy_loss(
    config: Config, state: State, params: Any, batch: Batch
) -> tuple[jax.Array, Metrics]:
    """The loss for `params` on rows (R, ...) with returns, with the metrics of `update`.

    A `mask` (R,), if there is one, leaves rows out.
    """
    policy = state.policy.apply(params, batch.observations, *heads.bounds(config))
    log_probs = networks.clipped_log_prob(policy, batch.actions)
    weights = jnp.ones_like(log_probs) if batch.mask is None else batch.mask.astype(jnp.float32)

    def mean(values: jax.Array) -> jax.Array:
        return windows.weighted_mean(values, weights)

    # The gradient of the entropy -E[log pi] equals the policy gradient for a return of -log pi.
    gains = batch.returns_to_go - config.entropy_weight * jax.lax.stop_gradient(log_probs)
    loss = -mean(log_probs * (gains - mean(gains)))
    return loss, {
        "loss": loss,
        "return_to_go": mean(batch.returns_to_go),
        "entropy": -mean(log_probs),
        "share": jnp.mean(weights),
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
    """Log-probability (B,) of actions that were clipped to their box."""
    policy = state.policy(observations, *heads.bounds(config))
    return networks.clipped_log_prob(policy, actions)
