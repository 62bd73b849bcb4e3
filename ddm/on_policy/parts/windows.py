"""Windows of the present policy's steps, the advantages in them, and their rows.

A window is a row of T consecutive steps of one copy of an environment; episodes may end and begin
inside it. The windows of a policy's own experience are whole. Those of another origin, such as the
rollouts of a learned model, may have a `mask`: steps where it is False do not count, and the last
step before them counts as a cut of the window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddm import ops
from ddm.types import Batch, PRNGKey


class Steps(NamedTuple):
    """The R = N * T steps of windows as rows, with what was estimated of them before an update."""

    observations: jax.Array  # (R, *O)
    actions: jax.Array  # (R, A), or (R,) indices
    advantages: jax.Array  # (R,)
    returns: jax.Array  # (R,) targets of the values
    values: jax.Array  # (R,) V(s) before the update
    weights: jax.Array  # (R,) float32, 1 for a step that counts and 0 for any other


def evaluate(
    value: Callable[[jax.Array], jax.Array],
    batch: Batch,
    discount: jax.Array | float,
    trace_decay: jax.Array | float,
) -> Steps:
    """Generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

        A_t = sum_l (discount * trace_decay)^l delta_{t+l}
        delta_t = r_t + discount V(s_{t+1}) - V(s_t)

    The sum ends with the episode, and at the end of the window. What follows a termination is worth
    0. What follows a truncation, or a window, is worth V of the observation that was reached. The
    targets of the values are A_t + V(s_t), the TD(lambda) returns.

    Args:
      value: V(s), called with observations (R, *O).
      batch: windows (N, T, ...) with transitions and `truncations`; `mask` if some do not count.
      discount: gamma in [0, 1].
      trace_decay: lambda in [0, 1].
    """
    shape = batch.rewards.shape
    values, next_values = (
        value(flatten(observations)).reshape(shape)
        for observations in (batch.observations, batch.next_observations)
    )
    returns = ops.lambda_returns(
        batch.rewards, discount, trace_decay, batch.terminations, next_values, ends(batch)
    )
    steps = Steps(
        batch.observations, batch.actions, returns - values, returns, values, weights(batch)
    )
    return jax.lax.stop_gradient(flatten(steps))


def ends(batch: Batch) -> jax.Array:
    """Where the next column of a window is not the next step of its episode, (N, T) bool."""
    stops = batch.terminations | batch.truncations
    if batch.mask is None:
        return stops
    following = jnp.concatenate([batch.mask[:, 1:], jnp.zeros_like(batch.mask[:, :1])], axis=1)
    return stops | ~following


def weights(batch: Batch) -> jax.Array:
    """Of each step, (N, T) float32: 1, or 0 where a mask leaves it out."""
    if batch.mask is None:
        return jnp.ones(batch.actions.shape[:2], jnp.float32)
    return batch.mask.astype(jnp.float32)


def flatten(tree: Any) -> Any:
    """Leaves (N, T, ...) as rows (N * T, ...)."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean of rows (R,) that count; 0 if none does."""
    return jnp.sum(values * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def standardized(steps: Steps) -> Steps:
    """The steps with advantages of mean 0 and standard deviation 1, over all steps that count."""
    centered = steps.advantages - weighted_mean(steps.advantages, steps.weights)
    deviation = jnp.sqrt(weighted_mean(jnp.square(centered), steps.weights))
    return steps._replace(advantages=centered / (deviation + 1e-8))


def explained_variance(steps: Steps) -> jax.Array:
    """1 - Var(R - V) / Var(R): 1 if the values before the update foretold the returns."""

    def variance(values: jax.Array) -> jax.Array:
        centered = values - weighted_mean(values, steps.weights)
        return weighted_mean(jnp.square(centered), steps.weights)

    return 1.0 - variance(steps.returns - steps.values) / (variance(steps.returns) + 1e-8)


def shuffled_minibatches(
    key: PRNGKey, num_rows: int, num_epochs: int, num_minibatches: int
) -> jax.Array:
    """Rows of each mini-batch, (num_epochs * num_minibatches, size) int32.

    Every epoch visits the rows in a new order. Rows that do not fill a mini-batch are left out of
    it, others in each epoch; with fewer rows than mini-batches, each row is one.
    """
    num_minibatches = min(num_minibatches, num_rows)
    size = num_rows // num_minibatches
    keys = jax.random.split(key, num_epochs)
    orders = jax.vmap(lambda key: jax.random.permutation(key, num_rows))(keys)
    orders = orders[:, : size * num_minibatches].astype(jnp.int32)
    return orders.reshape(num_epochs * num_minibatches, size)


def take(tree: Any, rows: jax.Array) -> Any:
    """The given rows of all leaves (R, ...)."""
    return jax.tree.map(lambda x: x.at[rows].get(mode="promise_in_bounds"), tree)
