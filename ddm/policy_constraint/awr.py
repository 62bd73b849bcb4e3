"""AWR: advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177, algorithm 1).

    R    = TD(lambda) return of the logged steps from (s, a) on
    L_V  = (V(s) - R)^2
    L_pi = - min(exp(A / temperature), w_max) log pi(a | s),   A = R - V(s)

The only critic is V, fitted to logged returns: two episodes are combined only through V, and no
value of an action is needed. The advantages are standardised, so that the temperature has no unit.

Where this leaves the authors' loop. They compute R and A of the whole buffer, fit V for hundreds of
steps, compute them again, and fit the policy for a thousand. Here each update draws rows and looks
`window` steps ahead of each to compute its R. Then it takes one step of V and one of the policy.
Both use the values before the update: another pass over the windows would double the cost. The
return of a row is cut after `window` steps, or at its episode's end if that is nearer, and
bootstrapped there: by V at a truncation, by 0 at a termination. In an uncut return, the part beyond
the window has a weight of (gamma lambda)^window, 14 % at the defaults. Advantages are standardised
over the batch, not over the buffer. Adam takes the place of SGD with momentum, and V needs no
scaling by 1 - gamma with it. The authors' policy has a fixed width, 0.4 or 0.2; here it is learned,
and `log_std_min` = `log_std_max` fixes it. Their penalty on means outside the box is not needed
here: the means pass through a tanh.
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
    static,
)


class Config(regression.PolicyConfig):
    """Hyper-parameters; temperature, largest weight and lambda are those of the authors' code."""

    # lambda of the returns; 1: rewards up to the window's end
    trace_decay: float = leaf(0.95, "[0, 1]")
    # per standard deviation; 0 is behaviour cloning
    inverse_temperature: float = leaf(1.0, "[0, inf)")
    max_weight: float = leaf(20.0, "(0, inf]")  # largest weight of a logged action
    # of a logged action, from its advantage; or a function like those of ops.weights
    weight: str | WeightFn = choice(WEIGHTS, "exponential")
    window: int = static(32, "[1, inf)")  # steps of each return; most of an update's time
    value_network: NetworkFn | None = network()  # in place of `regression.value_network`


class State(struct.PyTreeNode):
    """Everything that training changes."""

    actor: networks.Trainable
    value: networks.Trainable
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """Windows that begin at the rows to fit."""
    return BatchSpec(
        fields=(*TRANSITION_FIELDS, "mask"), window=config.window, num_actions=config.num_actions
    )


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: actions of another kind than `num_actions` says, or beyond it;
        images.
    """
    check_example(batch, batch_spec(config), "awr")
    key, actor_key, value_key = jax.random.split(key, 3)
    rows = _first_steps(batch)
    return State(
        actor=regression.init_actor(config, actor_key, rows, "awr"),
        value=regression.init_value(config, value_key, rows),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of V and policy on the first step of each window.

    Metrics: ``value_loss``; ``value``, mean V(s); ``return``, mean R; ``advantage_std``, before it
    is divided out; ``reward_max``, the largest size of a reward in the windows; ``actor_loss``;
    ``weight``, mean weight of a logged action; ``effective_share``, their effective sample size
    over that of the batch.
    """
    check_batch(batch, batch_spec(config), "awr")
    key, dropout_key = jax.random.split(state.key)
    rows = _first_steps(batch)
    values, returns = values_and_returns(config, state, batch)
    value, value_metrics = regression.value_step(config, state.value, rows.observations, returns)

    advantages = returns - values
    spread = jnp.std(advantages)
    advantages = (advantages - jnp.mean(advantages)) / (spread + 1e-5)
    weight = chosen(config, "weight")
    weights = weight(advantages, config.inverse_temperature, config.max_weight)
    actor, actor_metrics = regression.actor_step(
        config, state.actor, rows, weights, state.step, dropout_key
    )
    state = state.replace(actor=actor, value=value, step=state.step + 1, key=key)
    metrics = {
        "return": jnp.mean(returns),
        "advantage_std": spread,
        "reward_max": ops.largest_reward(batch.rewards),
    }
    return state, {**value_metrics, **actor_metrics, **metrics}


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
    return regression.diagnose(config, metrics, config.weight, value="value")


def resolve(config: Config, num_updates: int) -> Config:
    """A policy's schedule that is not set ends with the run."""
    return regression.resolve(config, num_updates)


def values_and_returns(config: Config, state: State, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """V(s) and R, both (B,), of the first step of each window.

    Beyond the episode's end a window repeats its last step. So the window's last next observation
    is always that of its last valid step.
    """
    observations = jnp.concatenate([batch.observations, batch.next_observations[:, -1:]], axis=1)
    values = state.value(observations)
    following = jnp.concatenate([batch.mask[:, 1:], jnp.zeros_like(batch.mask[:, :1])], axis=1)
    next_values = jnp.where(following, values[:, 1:], values[:, -1:])
    returns = ops.lambda_returns(
        batch.rewards,
        config.discount,
        config.trace_decay,
        batch.terminations,
        next_values,
        ends=~following,
    )
    return values[:, 0], returns[:, 0]


def _first_steps(batch: Batch) -> Batch:
    """The rows (B, ...) that windows (B, T, ...) begin with."""
    return jax.tree.map(lambda leaf: leaf[:, 0], batch)
