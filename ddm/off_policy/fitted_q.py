"""Fitted Q iteration (Ernst et al. 2005, figure 1) with a linear function for each action.

    y_i = r_i + gamma (1 - termination_i) max_a phi(s'_i) . w_a
    w_a <- argmin_w sum over the rows of a of (phi(s_i) . w - y_i)^2
                    + ridge * sum_f n_f (w_f - w_af)^2,   n_f = sum over those rows of phi_f(s_i)^2

Every update solves the regressions of all actions in closed form on the whole log. The authors fit
new trees in each round. Here the penalty pulls towards the weights of the round before, in the
units of each feature. It slows the iteration and does not move its fixed point. Directions of the
features that never occur with an action keep their weight.

phi(s) is the observation as it is, without a constant feature. On one-hot observations the
weights are a table and every round is one sweep of value iteration in the empirical MDP. On other
features the iteration may diverge, as off-policy learning with function approximation can.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

from ddm import ops
from ddm.ops import tables
from ddm.types import (
    TRANSITION_FIELDS,
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

# Accelerators round the factors of a matrix product to ten bits or fewer, which would round tables.
_EXACT = jax.lax.Precision.HIGHEST


class Config(Configuration):
    """Hyper-parameters of fitted Q iteration."""

    discount: float = leaf(0.99, "[0, 1]")  # gamma
    # pull towards the last round's weights; on a table 1 goes half of the way
    ridge: float = leaf(1e-3, "[0, inf)")
    num_actions: int = static(0, "[0, inf)")  # size of the discrete action space; required


class State(struct.PyTreeNode):
    """Everything that training changes."""

    action_values: jax.Array  # (F, A) weights; on one-hot observations the table (S, A)
    step: jax.Array  # () int32, rounds done
    key: PRNGKey


def batch_spec(config: Config) -> BatchSpec:
    """All transitions."""
    return BatchSpec(fields=TRANSITION_FIELDS, whole_dataset=True, num_actions=config.num_actions)


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Weights of zero for the features in `batch`.

    Raises:
      InputError: continuous actions, no `num_actions`, or observations that are not rows.
    """
    check_batch(batch, batch_spec(config), "fitted_q")
    tables.check_table_batch(
        "fitted_q", batch.observations, batch.actions, config.num_actions, one_hot=False
    )
    shape = (batch.observations.shape[1], config.num_actions)
    return State(
        action_values=jnp.zeros(shape, jnp.float32), step=jnp.zeros((), jnp.int32), key=key
    )


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One round: targets from the present weights, then one regression per action.

    Metrics: ``critic_loss``, the mean squared temporal difference before the fit; ``q_value``,
    mean Q(s, a) before it; ``reward_max``, the largest size of a reward.
    """
    check_batch(batch, batch_spec(config), "fitted_q")
    num_features, num_actions = state.action_values.shape
    tables.check_table_batch(
        "fitted_q", batch.observations, batch.actions, num_actions, num_features, one_hot=False
    )
    next_values = jnp.max(_values(batch.next_observations, state), axis=-1)
    targets = ops.td_target(batch.rewards, config.discount, batch.terminations, next_values)
    taken = jax.nn.one_hot(batch.actions, num_actions, dtype=jnp.float32)
    values = jnp.sum(taken * _values(batch.observations, state), axis=-1)
    change = _regress(batch.observations, taken, targets - values, config.ridge)
    metrics = {
        "critic_loss": jnp.mean(jnp.square(targets - values)),
        "q_value": jnp.mean(values),
        "reward_max": ops.largest_reward(batch.rewards),
    }
    return state.replace(action_values=state.action_values + change, step=state.step + 1), metrics


def act(
    config: Config,
    state: State,
    observation: jax.Array,
    key: PRNGKey,
    policy_state: PyTree = (),
    *,
    deterministic: bool = False,
) -> tuple[jax.Array, PyTree]:
    """The first of the best actions; nothing is random."""
    del config, key, deterministic
    return jnp.argmax(_values(observation, state)).astype(jnp.int32), policy_state


def diagnose(config: Config, metrics: Mapping[str, float]) -> list[str]:
    """A sentence if values exceed what rewards and discount allow, as where the rounds diverge."""
    return ops.values_beyond_rewards(config.discount, metrics)


def _values(observations: jax.Array, state: State) -> jax.Array:
    return jnp.matmul(observations, state.action_values, precision=_EXACT)


def _regress(
    features: jax.Array, taken: jax.Array, residuals: jax.Array, ridge: jax.Array | float
) -> jax.Array:
    """Change of the weights (F, A) that fits the residuals (B,) of each action's rows."""
    gram = jnp.einsum("ba,bf,bg->afg", taken, features, features, precision=_EXACT)
    moments = jnp.einsum("ba,bf,b->af", taken, features, residuals, precision=_EXACT)
    # In units in which the diagonal is one, an eigenvalue below the resolution of the arithmetic
    # is a direction without data, whatever the scale and the number of rows of each feature.
    diagonal = jnp.diagonal(gram, axis1=-2, axis2=-1)
    units = jnp.where(diagonal > 0.0, jax.lax.rsqrt(jnp.where(diagonal > 0.0, diagonal, 1.0)), 0.0)
    eigenvalues, eigenvectors = jnp.linalg.eigh(units[:, :, None] * gram * units[:, None, :])
    resolution = 10 * features.shape[1] * jnp.finfo(gram.dtype).eps
    known = eigenvalues > resolution
    factors = jnp.where(known, 1.0 / jnp.where(known, eigenvalues + ridge, 1.0), 0.0)
    coordinates = jnp.einsum("agk,ag->ak", eigenvectors, units * moments, precision=_EXACT)
    change = jnp.einsum("afk,ak->af", eigenvectors, factors * coordinates, precision=_EXACT)
    return (units * change).T
