"""One-step improvement: offline RL without off-policy evaluation (Brandfonbrener et al. 2021).

    y    = r + gamma (1 - termination) min_i Qbar_i(s', a'),   a' the logged next action
    L_Q  = sum_i (Q_i(s, a) - y)^2
    L_V  = (V(s) - min_i Qbar_i(s, a))^2
    L_pi = - min(exp(tau (min_i Qbar_i(s, a) - V(s))), w_max) log pi(a | s)

Q is the value of the behaviour policy, by SARSA, and the policy improves on it once: no value is
ever needed for an action outside the data or for one of the learned policy, so that errors do not
feed on themselves. It is AWR with a critic. It is also IQL with an expectile of 0.5, except for the
target. The weights are the paper's "exponentially weighted imitation"; its other operators (best of
a behaviour model's proposals, reverse KL) are `bcq` without perturbation and `brac`, both with
other values.

The authors fit the behaviour policy, then Q, then start the policy from the behaviour policy. Q
does not depend on the policy, so that all may also be fitted side by side, as here: the policy
clones for `bc_steps` and follows the advantages from then on. Their V is the mean of Q over samples
of the fitted behaviour policy; here it is fitted to logged actions alone. They choose tau for each
dataset. Do so here as well: it depends on the scale of rewards.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.ops.weights import WEIGHTS, WeightFn
from ddm.policy_constraint.parts import regression
from ddm.types import (
    TRANSITION_FIELDS,
    Batch,
    BatchSpec,
    Metrics,
    NetworkFn,
    PRNGKey,
    PyTree,
    check_batch,
    check_example,
    choice,
    chosen,
    leaf,
    network,
)


class Config(regression.Config):
    """Hyper-parameters; the largest weight is the authors'."""

    # tau, per unit of return; 0 is behaviour cloning
    inverse_temperature: float = leaf(1.0, "[0, inf)")
    max_weight: float = leaf(100.0, "(0, inf]")  # largest weight of a logged action
    bc_steps: int = leaf(0, "[0, inf)")  # first gradient steps in which the policy only clones
    # of a logged action, from its advantage; or a function like those of ops.weights
    weight: str | WeightFn = choice(WEIGHTS, "exponential")
    value_network: NetworkFn | None = network()  # in place of `regression.value_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Trainable
    value: networks.Trainable
    critic: networks.Tracked
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions with the next action."""
    return BatchSpec(fields=(*TRANSITION_FIELDS, "next_actions"), num_actions=config.num_actions)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: actions of another kind than `num_actions` says.
    """
    check_example(batch, batch_spec(config), "one_step")
    key, actor_key, value_key, critic_key = jax.random.split(key, 4)
    actor = regression.init_actor(config, actor_key, batch, "one_step")
    return State(
        actor=actor,
        value=regression.init_value(config, value_key, batch),
        critic=regression.init_critic(config, critic_key, batch),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of critics, V, policy and targets.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a) over members; ``reward_max``, the largest
    size of a reward in the batch; ``value_loss``; ``value``, mean V(s); ``actor_loss``; ``weight``,
    mean weight of a logged action; ``effective_share``, their effective sample size over that of
    the batch.
    """
    check_batch(batch, batch_spec(config), "one_step")
    key, dropout_key = jax.random.split(state.key)
    logged, next_values = _target_values(state.critic, batch)
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)
    critic, critic_metrics = regression.critic_step(config, state.critic, batch, targets)
    value, value_metrics = regression.value_step(config, state.value, batch.observations, logged)

    weight = chosen(config, "weight")
    weights = weight(
        logged - value(batch.observations), config.inverse_temperature, config.max_weight
    )
    weights = jnp.where(state.step < config.bc_steps, 1.0, weights)
    actor, actor_metrics = regression.actor_step(
        config, state.actor, batch, weights, state.step, dropout_key
    )
    state = state.replace(actor=actor, value=value, critic=critic, step=state.step + 1, key=key)
    return state, {**critic_metrics, **value_metrics, **actor_metrics}


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The policy's mode, or a sample clipped to the action box."""
    action = regression.act(config, state.actor, observation, key, deterministic=deterministic)
    return action, policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """Sentences if the weights are too sharp for the rewards, or values exceed what these allow."""
    return regression.diagnose(config, metrics, config.weight)


def resolve(config: Config, num_updates: int) -> Config:
    """A policy's schedule that is not set ends with the run."""
    return regression.resolve(config, num_updates)


def _target_values(critic: networks.Tracked, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Target critics' values (B,) of the logged action and of the next one, from one pass."""
    observations = jnp.concatenate([batch.observations, batch.next_observations])
    actions = jnp.concatenate([batch.actions, batch.next_actions])
    values = jnp.min(critic.target(observations, actions), axis=0)
    logged, following = jnp.split(values, 2)
    return logged, following
