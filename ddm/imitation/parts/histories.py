"""Summaries of the past: how a window is read in training, and what a policy remembers in acting.

A summary of the past is a row of `HISTORIES`. Its trunk gives features at each step of a window of
steps. While the policy acts, the row's memory gives the same features step by step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from ddm import networks
from ddm.errors import InputError
from ddm.networks import heads
from ddm.ops import plans
from ddm.types import Batch, PyTree

CELLS = {"gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}


class Steps(NamedTuple):
    """T consecutive steps, and the actions taken before each of them."""

    observations: jax.Array  # (..., T, *O)
    mask: jax.Array  # (..., T) bool
    previous: jax.Array  # (..., T, *A)
    previous_mask: jax.Array  # (..., T) bool


class Window(struct.PyTreeNode):
    """Memory of a policy that sees the last n steps."""

    frames: plans.Frames  # n + 1 places: of the first one only the action is used
    actions: jax.Array  # (n, *A) the last n actions taken


class Recurrence(struct.PyTreeNode):
    """Memory of a recurrent policy."""

    carry: PyTree  # of the cells
    action: jax.Array  # (*A,) the last one taken
    time: jax.Array  # () int32, steps of the episode


class History(NamedTuple):
    """How a summary of the past is built, trained and used.

    `config` is that of the method; `state` has a `policy` with a
    :class:`ddm.networks.HistoryPolicy`, and an `observation` and an `action` of zeros.
    """

    trunk: Callable[[Any], nn.Module]
    past: Callable[[Any], int]  # steps of a training window before the drawn one
    ahead: Callable[[Any], int]  # and after it
    skip: Callable[[Any], int]  # first steps of a window that are never supervised
    start: Callable[[Any, Any], Any]  # (config, state) -> memory at the start of an episode
    # (config, state, memory, observation) -> features (F,), memory
    recall: Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, Any]]
    record: Callable[[Any, jax.Array], Any]  # (memory, action taken) -> memory
    every_step: Callable[[Any, Any, Steps], jax.Array]  # features (B, T, F), as in acting
    last_only: bool = False  # training predicts the action of the last step only


def steps_of(batch: Batch) -> Steps:
    """A window without its first step; of that step only the action is used."""
    return Steps(
        batch.observations[:, 1:], batch.mask[:, 1:], batch.actions[:, :-1], batch.mask[:, :-1]
    )


def inputs(config: Any, steps: Steps) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """The inputs of the trunk."""
    return steps.observations, encode(config, steps.previous, steps.previous_mask), steps.mask


def encode(config: Any, actions: jax.Array, mask: jax.Array) -> jax.Array | None:
    """Previous actions (..., P), zero where there was none; discrete ones are one-hot."""
    if not config.previous_actions:
        return None
    return jnp.where(mask[..., None], heads.as_vectors(actions, config.num_actions), 0.0)


def _recurrent(config: Any) -> nn.Module:
    return networks.Recurrent(CELLS[config.cell], config.width, config.num_layers)


def _transformer(config: Any) -> nn.Module:
    if config.width % config.num_heads:
        raise InputError(
            f"history_bc: width={config.width} does not divide into num_heads={config.num_heads}"
        )
    return networks.CausalTransformer(
        config.num_layers, config.width, config.num_heads, config.dropout_rate
    )


def _no_window(config: Any, state: Any) -> Window:
    shape = (config.observation_steps, *state.action.shape)
    return Window(
        frames=plans.no_frames(config.observation_steps + 1, state.observation),
        actions=jnp.zeros(shape, state.action.dtype),
    )


def _recall_window(
    config: Any, state: Any, window: Window, observation: jax.Array
) -> tuple[jax.Array, Window]:
    """Features of the window that ends with `observation`, as in training."""
    frames = plans.push(window.frames, observation)
    steps = Steps(frames.observations[1:], frames.valid[1:], window.actions, frames.valid[:-1])
    features = state.policy(*inputs(config, steps), method="features")
    return features[-1], window.replace(frames=frames)


def _record_window(window: Window, action: jax.Array) -> Window:
    return window.replace(actions=jnp.concatenate([window.actions[1:], action[None]]))


def _window_at_each_step(config: Any, state: Any, steps: Steps) -> jax.Array:
    """Each step gets the window that ends with it."""
    ends = jnp.arange(steps.mask.shape[1], dtype=jnp.int32)[:, None]
    ages = jnp.arange(config.observation_steps, dtype=jnp.int32)[None, ::-1]
    places = ends - ages  # (T, n)
    windows = Steps(*(leaf[:, jnp.maximum(places, 0)] for leaf in steps))
    inside = (places >= 0)[None]
    windows = windows._replace(
        mask=windows.mask & inside, previous_mask=windows.previous_mask & inside
    )
    return state.policy(*inputs(config, windows), method="features")[..., -1, :]


def _no_recurrence(config: Any, state: Any) -> Recurrence:
    time = jnp.zeros((), jnp.int32)
    previous = encode(config, state.action, time > 0)
    carry = state.policy(state.observation, previous, method="initial_carry")
    return Recurrence(carry=carry, action=jnp.copy(state.action), time=time)


def _recall_recurrence(
    config: Any, state: Any, memory: Recurrence, observation: jax.Array
) -> tuple[jax.Array, Recurrence]:
    """Features after one more step; the state starts anew every `reset_every` steps."""
    every = jnp.asarray(config.reset_every, jnp.int32)
    forgets = (every > 0) & (memory.time % jnp.maximum(every, 1) == 0)
    carry = jax.tree.map(
        functools.partial(jnp.where, forgets), _no_recurrence(config, state).carry, memory.carry
    )
    previous = encode(config, memory.action, memory.time > 0)
    carry, features = state.policy(carry, observation, previous, method="step")
    return features, memory.replace(carry=carry, time=memory.time + 1)


def _record_recurrence(memory: Recurrence, action: jax.Array) -> Recurrence:
    return memory.replace(action=action)


def _recurrence_at_each_step(config: Any, state: Any, steps: Steps) -> jax.Array:
    return state.policy(*inputs(config, steps), method="features")


def _seen(config: Any) -> int:
    """Steps that a window policy sees before the current one."""
    return config.observation_steps - 1


def _none(config: Any) -> int:
    del config
    return 0


_WINDOW = History(
    trunk=_transformer,
    past=_seen,
    ahead=_none,
    skip=_none,
    start=_no_window,
    recall=_recall_window,
    record=_record_window,
    every_step=_window_at_each_step,
)

HISTORIES: dict[str, History] = {
    "stack": _WINDOW._replace(
        trunk=lambda config: networks.FrameStack(config.observation_steps), last_only=True
    ),
    "recurrent": History(
        trunk=_recurrent,
        past=lambda config: config.burn_in,
        ahead=lambda config: config.segment_steps - 1,
        skip=lambda config: config.burn_in,
        start=_no_recurrence,
        recall=_recall_recurrence,
        record=_record_recurrence,
        every_step=_recurrence_at_each_step,
    ),
    "transformer": _WINDOW,
}


# Which steps of a window are supervised. Each function returns how to take them out of an array
# (B, T, *), as (B, S, *), and which of them are valid (B, S).

Take = Callable[[jax.Array], jax.Array]


def _all_steps(skip: int, mask: jax.Array) -> tuple[Take, jax.Array]:
    return lambda values: values[:, skip:], mask[:, skip:]


def _last_step(skip: int, mask: jax.Array) -> tuple[Take, jax.Array]:
    """The last valid one: the drawn step of a window with history is always valid."""
    del skip
    rows, last = jnp.arange(mask.shape[0]), mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
    return lambda values: values[rows, last][:, None], jnp.ones((mask.shape[0], 1), bool)


SUPERVISED = {"all": _all_steps, "last": _last_step}


def supervised(config: Any, mask: jax.Array) -> tuple[Take, jax.Array]:
    """How to take the supervised steps of a window, and which of them are valid."""
    history = HISTORIES[config.history]
    which = "last" if history.last_only else config.supervise
    return SUPERVISED[which](history.skip(config), mask)
