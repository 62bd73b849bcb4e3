"""What policies that predict chunks of actions share: what they are trained on, and how they play.

A chunk holds the actions of the next Tp steps. The policy predicts it from the last To frames, the
present one last. `execute_steps` of its actions are played before the next chunk is made (receding
horizon, Chi et al. 2023, arXiv 2303.04137).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from ddm import networks
from ddm.errors import InputError
from ddm.ops import plans
from ddm.types import (
    Batch,
    BatchSpec,
    Configuration,
    PRNGKey,
    PyTree,
    check_batch,
    check_continuous,
    choice,
    leaf,
    own_networks,
    static,
)


class Config(Configuration):
    """Hyper-parameters of every chunked policy; the methods choose other defaults."""

    learning_rate: float = leaf(3e-4, "[0, inf)")  # AdamW's step size
    # gradient steps over which a cosine takes the step size to 0; 0: constant
    decay_steps: int = leaf(0, "[0, inf)")
    # decoupled weight decay (AdamW), per unit of learning rate
    weight_decay: float = leaf(0.0, "[0, inf)")
    encoder: str = choice(networks.ENCODERS, "none")  # none: observations are vectors; conv: images
    # frames To that the policy sees, the present one last
    observation_steps: int = static(1, "[1, inf)")
    # actions Tp that are predicted, from the present step on
    chunk_size: int = static(8, "[1, inf)")
    # actions of a chunk that are executed before the next one is made
    execute_steps: int = static(8, "[1, inf)", at_most="chunk_size")


class State(struct.PyTreeNode):
    """Everything that training changes, and the shapes that acting needs."""

    policy: networks.Trainable
    observation: jax.Array  # (*O,) zeros: the shape and type of one observation
    action: jax.Array  # (A,) zeros: the shape and type of one action
    step: jax.Array  # () int32, gradient steps done
    key: PRNGKey


class Window(NamedTuple):
    """What a policy sees and what it predicts there."""

    frames: jax.Array  # (B, To, *O) up to the drawn step
    actions: jax.Array  # (B, Tp, A) from the drawn step on
    mask: jax.Array  # (B, Tp) bool: False beyond the episode's end


class Memory(struct.PyTreeNode):
    """What acting carries from step to step."""

    frames: plans.Frames
    plan: Any  # plans.Plan, or what else holds the chunks made so far


def batch_spec(config: Config) -> BatchSpec:
    """Windows of the frames up to the drawn step and of the chunk that begins there."""
    history = config.observation_steps - 1
    return BatchSpec(
        fields=("observations", "actions", "mask"),
        window=history + config.chunk_size,
        history=history,
        min_episode_steps=config.chunk_size,
    )


def split(config: Config, batch: Batch, name: str) -> Window:
    """The frames and the chunks of a batch.

    Args:
      config: of the policy.
      batch: windows of To - 1 + Tp steps, the drawn step in place To - 1.
      name: the algorithm, for messages.

    Raises:
      InputError: a missing field, windows of another length, or integer actions.
    """
    spec = batch_spec(config)
    check_batch(batch, spec, name)
    check_continuous(batch, name)
    for field in spec.fields:
        found = getattr(batch, field).shape
        if found[1] != spec.window:
            raise InputError(
                f"{name}: batch.{field} has shape {found}, expected windows of {spec.window} "
                "steps, observation_steps - 1 + chunk_size"
            )
    chunk = slice(config.observation_steps - 1, None)
    return Window(
        batch.observations[:, : config.observation_steps],
        batch.actions[:, chunk],
        batch.mask[:, chunk],
    )


def example(config: Config, batch: Batch, name: str) -> Window:
    """One row of :func:`split`, for `init`.

    Raises:
      InputError: as in `split`; observations that the encoder cannot read. A user's own network
        may read any.
    """
    window = split(config, batch, name)
    if not any(own_networks(config).values()):
        networks.check_encoder(config.encoder, batch.observations.shape[2:], name)
    return Window(*(values[:1] for values in window))


def initial_policy_state(config: Config, state: State) -> Memory:
    """No frames seen, and nothing planned."""
    return Memory(
        frames=plans.no_frames(config.observation_steps, state.observation),
        plan=plans.no_plan(config.chunk_size, state.action),
    )


def play(
    config: Config,
    state: State,
    observation: jax.Array,
    policy_state: PyTree,
    make: Callable[..., jax.Array],
    *operands: Any,
) -> tuple[jax.Array, Memory]:
    """The next action of the plan; when `execute_steps` of it were executed, a new plan is made.

    Args:
      config: of the policy.
      state: of the policy.
      observation: (*O,) of the present step.
      policy_state: a :class:`Memory`; the empty tuple begins an episode.
      make: (config, state, frames (To, *O), *operands) -> chunk (Tp, A). It may depend on nothing
        else that `vmap` maps, and does not run while the plan lasts: see `plans.next_action`.
      *operands: such as the key from which the chunk is drawn.

    Returns:
      (A,) the action, and the memory for the next step.
    """
    memory = policy_state or initial_policy_state(config, state)
    frames = plans.push(memory.frames, observation)
    action, plan = plans.next_action(
        memory.plan, config.execute_steps, make, config, state, frames.observations, *operands
    )
    return action, memory.replace(frames=frames, plan=plan)


def zeros_like_one(values: jax.Array) -> jax.Array:
    """Zeros of the shape and type of one step of windows (B, T, ...)."""
    return jnp.zeros_like(values[0, 0])


def with_steps(values: jax.Array, one: jax.Array) -> jax.Array:
    """Values (B, T, ...) as they are; (B, ...), of the rank of `one`, with an axis of one step."""
    return values[:, None] if values.ndim == one.ndim + 1 else values
