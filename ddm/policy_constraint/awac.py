"""AWAC: advantage-weighted actor-critic (Nair et al. 2020, arXiv 2006.09359, algorithm 1).

    y    = r + gamma (1 - termination) min_i Qbar_i(s', a'),   a' ~ pi(. | s')
    L_Q  = sum_i (Q_i(s, a) - y)^2
    L_pi = - w(A) log pi(a | s),   A = min_i Q_i(s, a) - E_{b ~ pi} min_i Q_i(s, b)
    w(A) = min(exp(A / lambda), w_max),   or B softmax(A / lambda) over a batch of B

The order is that of CORL's code: critics, then the policy with the new critics, then the targets.
`inverse_temperature` is 1 / lambda. The two weights differ in more than scale:

- "exponential" (the paper, CORL) has no bound but w_max. Where advantages are much larger than
  lambda most weights are at w_max or near 0, and their mean may be 50 or 0.01.
- "softmax" (rlkit, the authors' code) has mean 1 in every batch, and only differences of advantages
  within the batch count. A lambda that is right for the one is wrong by an order of magnitude for
  the other: rlkit has 2 for locomotion and 0.5 for hands, CORL 1/3 and 0.1.

The metrics ``weight`` and ``effective_share`` show which case a run is in. Here the mean of the
policy passes through a tanh, as in IQL; CORL's does not, and its `log_std_min` is -20. All weighted
regressions here share one policy. CORL standardises observations
(`--normalize_observations=standardize`). Discrete actions (`num_actions`) have exact expectations
under the policy, in the target and in the advantage.
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
    PRNGKey,
    PyTree,
    check_batch,
    check_example,
    choice,
    chosen,
    leaf,
    static,
)


class Config(regression.Config):
    """Hyper-parameters; defaults are CORL's for locomotion."""

    inverse_temperature: float = leaf(3.0, "[0, inf)")  # 1 / lambda; 0 is behaviour cloning
    max_weight: float = leaf(100.0, "(0, inf]")  # largest weight of a logged action
    # of a logged action, from its advantage; or a function like those of ops.weights
    weight: str | WeightFn = choice(WEIGHTS, "exponential")
    # actions of the policy that estimate its value; real vectors
    num_samples: int = static(1, "[1, inf)")
    hidden_sizes: tuple[int, ...] = static((256, 256, 256), "[1, inf)")  # relu layers


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Trainable
    critic: networks.Tracked
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    return BatchSpec(fields=TRANSITION_FIELDS, num_actions=config.num_actions)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: actions of another kind than `num_actions` says.
    """
    check_example(batch, batch_spec(config), "awac")
    key, actor_key, critic_key = jax.random.split(key, 3)
    actor = regression.init_actor(config, actor_key, batch, "awac")
    return State(
        actor=actor,
        critic=regression.init_critic(config, critic_key, batch),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of critics, policy and targets.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a) over members; ``reward_max``, the largest
    size of a reward in the batch; ``actor_loss``; ``weight``, mean weight of a logged action;
    ``effective_share``, their effective sample size over that of the batch; ``advantage``, mean A
    of a logged action.
    """
    check_batch(batch, batch_spec(config), "awac")
    key, target_key, sample_key, dropout_key = jax.random.split(state.key, 4)
    next_policy = regression.policy_at(config, state.actor, batch.next_observations)
    next_values = regression.expected_values(
        config, state.critic, next_policy, batch.next_observations, target_key
    )
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)
    critic, critic_metrics = regression.critic_step(config, state.critic, batch, targets)

    policy = regression.policy_at(config, state.actor, batch.observations)
    found = regression.policy_values(config, critic, policy, batch, sample_key, config.num_samples)
    advantages = found.logged - jnp.sum(found.shares * found.values, axis=-1)
    weight = chosen(config, "weight")
    weights = weight(advantages, config.inverse_temperature, config.max_weight)
    actor, actor_metrics = regression.actor_step(
        config, state.actor, batch, weights, state.step, dropout_key
    )
    state = state.replace(actor=actor, critic=critic, step=state.step + 1, key=key)
    return state, {**critic_metrics, **actor_metrics, "advantage": jnp.mean(advantages)}


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
