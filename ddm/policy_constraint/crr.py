"""CRR: critic-regularised regression (Wang et al. 2020, arXiv 2006.15134, algorithm 1).

    y    = r + gamma (1 - termination) min_i Qbar_i(s', a'),   a' ~ pibar(. | s')
    L_Q  = sum_i (Q_i(s, a) - y)^2
    L_pi = - f(A) log pi(a | s),   A = Q(s, a) - V(s)
    f(A) = 1{A > 0},   or min(exp(A / beta), f_max)                                      (eq. 3, 4)
    V(s) = mean_j Q(s, a_j),   or max_j Q(s, a_j),   a_j ~ pi(. | s),  j = 1 .. m        (table 1)

"binary" with "max" keeps the fewest actions, "exponential" with "mean" the most. Critics, then the
policy with the new critics, then the targets of both.

Differences from acme's code and the paper: the critics learn mean returns (the paper's learn a
distribution over returns); targets are moving averages (acme copies both networks every 100 steps);
the policy sees the critics after their step (in acme before it). Both have one critic, as here;
`num_critics=2` takes the minimum of two. acme's policy is a tanh of a Gaussian with a width for
each state. Here it is a Gaussian around a tanh mean with one width per dimension, as in all
weighted regressions: its density is finite at the bounds of actions. It acts by its mode, acme by
the mode of the target policy. The paper's other way to act, a softmax over the values of samples,
is not implemented.

Discrete actions (`num_actions`) have the exact mean under the policy, or the maximum over all
actions. No logged action is better than this maximum, so "binary" would clone nothing: "max" and
"binary" together are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks, ops
from ddm.errors import InputError
from ddm.ops.weights import WEIGHTS, WeightFn, binary
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

# Values (B, M) of the policy's actions, and the probability (B, M) of each -> V (B,).
BaselineFn = Callable[[jax.Array, jax.Array], jax.Array]


def mean_baseline(values: jax.Array, shares: jax.Array) -> jax.Array:
    """The policy's expected value."""
    return jnp.sum(shares * values, axis=-1)


def max_baseline(values: jax.Array, shares: jax.Array) -> jax.Array:
    """The best of the actions, however rare."""
    del shares
    return jnp.max(values, axis=-1)


BASELINES: dict[str, BaselineFn] = {"mean": mean_baseline, "max": max_baseline}


class Config(regression.Config):
    """Hyper-parameters; defaults are acme's."""

    # 1 / beta of the paper, of exponential weights
    inverse_temperature: float = leaf(1.0, "[0, inf)")
    # largest weight of a logged action, of exponential weights
    max_weight: float = leaf(20.0, "(0, inf]")
    # of a logged action, from its advantage; or a function like those of ops.weights
    weight: str | WeightFn = choice(WEIGHTS, "binary")
    # the value that an action must exceed, over actions of the policy
    baseline: str | BaselineFn = choice(BASELINES, "mean")
    # m: actions of the policy in the baseline; real vectors
    num_samples: int = static(4, "[1, inf)")
    num_critics: int = static(1, "[1, inf)")  # members of the critic ensemble


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Tracked
    critic: networks.Tracked
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Transitions."""
    return BatchSpec(fields=TRANSITION_FIELDS, num_actions=config.num_actions)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: actions of another kind than `num_actions` says, or "binary" with "max" for
        discrete actions.
    """
    check_example(batch, batch_spec(config), "crr")
    _check_choices(config)
    key, actor_key, critic_key = jax.random.split(key, 3)
    actor = regression.init_actor(config, actor_key, batch, "crr")
    return State(
        actor=networks.tracked(actor.network, actor.params),
        critic=regression.init_critic(config, critic_key, batch),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of critics, policy and targets.

    Metrics: ``critic_loss``; ``q_value``, mean Q(s, a) over members; ``reward_max``, the largest
    size of a reward in the batch; ``actor_loss``; ``weight``, mean weight of a logged action, its
    share of the batch where binary; ``effective_share``, their effective sample size over that of
    the batch.
    """
    check_batch(batch, batch_spec(config), "crr")
    key, target_key, sample_key, dropout_key = jax.random.split(state.key, 4)
    next_policy = regression.policy_at(
        config, state.actor, batch.next_observations, state.actor.target_params
    )
    next_values = regression.expected_values(
        config, state.critic, next_policy, batch.next_observations, target_key
    )
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)
    critic, critic_metrics = regression.critic_step(config, state.critic, batch, targets)

    policy = regression.policy_at(config, state.actor, batch.observations)
    found = regression.policy_values(config, critic, policy, batch, sample_key, config.num_samples)
    weight = chosen(config, "weight")
    baseline = chosen(config, "baseline")
    advantages = found.logged - baseline(found.values, found.shares)
    weights = weight(advantages, config.inverse_temperature, config.max_weight)
    actor, actor_metrics = regression.actor_step(
        config, state.actor, batch, weights, state.step, dropout_key
    )
    actor = networks.follow(actor, config.target_rate)
    state = state.replace(actor=actor, critic=critic, step=state.step + 1, key=key)
    return state, {**critic_metrics, **actor_metrics}


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


def _check_choices(config: Config) -> None:
    weight = chosen(config, "weight")
    baseline = chosen(config, "baseline")
    if config.num_actions > 0 and weight is binary and baseline is max_baseline:
        raise InputError(
            "crr: weight=binary with baseline=max gives no discrete action any weight, because "
            "none is better than the best; expected weight=exponential or baseline=mean"
        )
