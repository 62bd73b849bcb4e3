"""What a policy keeps between two calls of `act`: the frames it has seen, the chunk it plays.

All are pytrees of arrays with fixed shapes, so that they vmap, and a select over their leaves can
reset them where an episode begins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from ddm.ops.control import cond_if_any


class Frames(struct.PyTreeNode):
    """The last T observations, oldest first; places not yet filled repeat the first one seen."""

    observations: jax.Array  # (T, *O)
    valid: jax.Array  # (T,) bool: False where a place repeats the first observation


def no_frames(num_frames: int, observation: jax.Array) -> Frames:
    """An empty buffer for observations like the given one."""
    return Frames(
        observations=jnp.zeros((num_frames, *observation.shape), observation.dtype),
        valid=jnp.zeros(num_frames, bool),
    )


def push(frames: Frames, observation: jax.Array) -> Frames:
    """Drops the oldest frame and appends `observation` (*O,); the first one fills all places.

    The result is what `ddm.data.sample` gives for a window with history: before the episode's start
    it repeats the first observation and marks this in its mask.
    """
    chex.assert_equal_shape([frames.observations[0], observation])
    moved = jnp.concatenate(
        [frames.observations[1:], observation[None].astype(frames.observations.dtype)]
    )
    everywhere = jnp.broadcast_to(observation, moved.shape).astype(moved.dtype)
    begun = jnp.any(frames.valid)
    return Frames(
        observations=jnp.where(begun, moved, everywhere),
        valid=jnp.concatenate([frames.valid[1:], jnp.ones(1, bool)]),
    )


class Plan(struct.PyTreeNode):
    """A chunk of actions under execution."""

    actions: jax.Array  # (T, A)
    used: jax.Array  # () int32: how many of them were executed; T or more before the first chunk


def no_plan(num_steps: int, action: jax.Array) -> Plan:
    """A used-up plan of actions like the given one, so that the next call makes a new one."""
    return Plan(
        actions=jnp.zeros((num_steps, *action.shape), action.dtype),
        used=jnp.array(num_steps, jnp.int32),
    )


def next_action(
    plan: Plan, num_execute: int, make: Callable[..., jax.Array], *operands: Any
) -> tuple[jax.Array, Plan]:
    """The plan's next action; a new plan, `make(*operands)`, once `num_execute` were executed.

    Receding horizon (Chi et al. 2023): of T planned actions, `num_execute` <= T are executed.

    Args:
      plan: under execution.
      num_execute: actions of a chunk that are executed.
      make: returns a chunk (T, A). It is not run while the plan lasts; under `vmap`, it is not run
        while all of the mapped plans last.
      *operands: all that `make` depends on; pass them here and do not close over them, so that
      `vmap` sees them.

    Returns:
      (A,) the action, and the plan with it used.
    """
    chunk = cond_if_any(
        plan.used >= num_execute,
        lambda actions, *rest: make(*rest),
        lambda actions, *rest: actions,
        plan.actions,
        *operands,
    )
    used = jnp.where(plan.used >= num_execute, 0, plan.used)
    return chunk[used], Plan(actions=chunk, used=used + 1)


class Ensemble(struct.PyTreeNode):
    """Weighted sums of all chunks' predictions for the coming T steps."""

    actions: jax.Array  # (T, A) sum over predictions of weight * action
    weights: jax.Array  # (T,) sum of the weights
    counts: jax.Array  # (T,) int32 predictions summed


def no_ensemble(num_steps: int, action: jax.Array) -> Ensemble:
    """Without predictions, for actions like the given one."""
    return Ensemble(
        actions=jnp.zeros((num_steps, *action.shape), action.dtype),
        weights=jnp.zeros(num_steps, action.dtype),
        counts=jnp.zeros(num_steps, jnp.int32),
    )


def ensemble_action(
    ensemble: Ensemble, chunk: jax.Array, decay: jax.Array | float
) -> tuple[jax.Array, Ensemble]:
    """Temporal ensembling (Zhao et al. 2023, section IV-B): averages all predictions for this step.

    The i-th prediction for a step, counted from the oldest, has weight exp(-decay i): a decay
    above 0 favours *old* predictions, 0 is the mean.

    Args:
      ensemble: of the chunks so far.
      chunk: (T, A) predictions for this step and the T - 1 after it.
      decay: per prediction.

    Returns:
      (A,) the action for this step, and the ensemble for the next one.
    """
    chex.assert_equal_shape([ensemble.actions, chunk])
    weight = jnp.exp(-decay * ensemble.counts.astype(jnp.float32))
    actions = ensemble.actions + weight[:, None] * chunk
    weights = ensemble.weights + weight
    shift = lambda leaf: jnp.concatenate([leaf[1:], jnp.zeros_like(leaf[:1])])  # noqa: E731
    later = Ensemble(shift(actions), shift(weights), shift(ensemble.counts + 1))
    return actions[0] / weights[0], later
