"""Discrete BCQ: double Q-learning among the actions that the data makes likely.

    allowed(s) = {a: beta(a | s) / max_b beta(b | s) >= tau}
    a' = argmax over allowed(s') of Q(s', .)
    y  = r + gamma (1 - termination) Qbar(s', a')
    L  = h(Q(s, a) - y) - log beta(a | s) + w mean i(s, .)^2

(Fujimoto et al. 2019, arXiv 1910.01708, algorithm 1), with beta = softmax(i) cloned alongside and h
Huber's loss. At tau = 0 it is double DQN, at tau = 1 it takes the likeliest action of the clone.
tau is a threshold on a *density*: an action that the behaviour takes a tenth as often as its
favourite is excluded for every tau above 0.1, whatever its value.

From the authors' code (sfujim/BCQ), vector observations: actions at the threshold are allowed, so
that tau = 1 leaves one; the logits of beta are linear (their first release applies a relu); critic
and clone have networks and step sizes of their own; biases start at 0. Their Atari settings copy
the target (`target_period=8000`), explore (`exploration=0.001`) and have step sizes of 6.25e-5,
with an epsilon of 1.5e-4 in Adam. Here that epsilon is 1e-8, as in their code for vectors.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.policy_constraint.parts import discrete
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    PRNGKey,
    PyTree,
    check_batch,
    check_example,
    leaf,
)


class Config(discrete.Config):
    """Hyper-parameters; defaults are the authors' for vector observations, 64 rows per batch."""

    # tau: smallest allowed share of the likeliest action's probability
    threshold: float = leaf(0.3, "[0, 1]")
    # share of uniform actions in a non-deterministic `act`
    exploration: float = leaf(0.0, "[0, 1]")


class State(struct.PyTreeNode):
    """Everything that training changes."""

    behavior: discrete.Clone
    critic: networks.Tracked
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    return BatchSpec(fields=TRANSITION_FIELDS, num_actions=config.num_actions)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: continuous actions, or no `num_actions`.
    """
    check_example(batch, batch_spec(config), "discrete_bcq")
    discrete.check(config, batch, "discrete_bcq")
    key, behavior_key, critic_key = jax.random.split(key, 3)
    return State(
        behavior=discrete.init_behavior(config, behavior_key, batch),
        critic=discrete.init_critic(config, critic_key, batch),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of critic and clone, both from the parameters before it, and of the target.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a); ``reward_max``, of the batch;
    ``behavior_loss``, in nats; ``behavior_progress``, what about the last 900 updates took off it;
    ``allowed``, the share of actions at s' among which the target chooses.
    """
    check_batch(batch, batch_spec(config), "discrete_bcq")
    next_actions, allowed = choose(config, state, batch.next_observations)
    next_values = ops.of_actions(state.critic.target(batch.next_observations)[0], next_actions)
    critic, critic_metrics = discrete.critic_step(config, state.critic, batch, next_values)
    behavior, behavior_metrics = discrete.behavior_step(config, state.behavior, batch)
    step = state.step + 1
    critic = discrete.follow(config, critic, step)
    state = state.replace(behavior=behavior, critic=critic, step=step)
    share = jnp.mean(allowed.astype(jnp.float32))
    return state, {**critic_metrics, **behavior_metrics, "allowed": share}


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The best allowed action; unless `deterministic`, now and then a uniform one."""
    actions, _ = choose(config, state, observation[None])
    if deterministic:
        return actions[0], policy_state
    explore_key, action_key = jax.random.split(key)
    uniform = jax.random.randint(action_key, (), 0, config.num_actions, jnp.int32)
    explores = jax.random.uniform(explore_key, dtype=jnp.float32) < config.exploration
    return jnp.where(explores, uniform, actions[0]), policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the clone has not converged, or values exceed what rewards allow."""
    return discrete.diagnose(config, metrics)


def choose(config: Config, state: State, observations: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The best allowed actions (B,) int32, and which are allowed (B, K) bool."""
    log_behavior = jax.nn.log_softmax(state.behavior.policy(observations))
    shares = jnp.exp(log_behavior - jnp.max(log_behavior, axis=-1, keepdims=True))
    allowed = shares >= jnp.minimum(config.threshold, 1.0)
    values = state.critic(observations)[0]
    actions = jnp.argmax(jnp.where(allowed, values, -jnp.inf), axis=-1)
    return actions.astype(jnp.int32), allowed
