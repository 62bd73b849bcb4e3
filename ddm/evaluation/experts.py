"""Experts that label states: functions of JAX, trained policies, policies of numpy, people.

All of them get observations and give actions in the environment's units. An expert of JAX acts for
one observation and runs inside a compiled program; :class:`HostExpert` acts for a batch of rows and
runs between two calls of the device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.errors import InputError
from ddm.evaluation.matching import check_spaces
from ddm.evaluation.policy import Policy
from ddm.types import Box, Discrete, Space

SLACK = 1e-4  # of the width of a box: a label that is so little outside is moved onto its edge

# (observation, the learner's action) -> whether the expert takes over here
TakesOver = Callable[[Any, Any], Any]


class FunctionExpert(struct.PyTreeNode):
    """A pure function of one observation (*O,), in JAX.

    `takes_over` says where the expert would intervene: it is needed by a gate that leaves that to
    the expert.
    """

    function: Callable[[jax.Array], jax.Array] = struct.field(pytree_node=False)
    takes_over: TakesOver | None = struct.field(pytree_node=False, default=None)

    def __call__(self, observation: jax.Array) -> jax.Array:
        """The expert's action."""
        return self.function(observation)


class PolicyExpert(struct.PyTreeNode):
    """A trained policy of one lane; it labels with its mode."""

    policy: Policy
    takes_over: TakesOver | None = struct.field(pytree_node=False, default=None)

    def __call__(self, observation: jax.Array) -> jax.Array:
        """The expert's action."""
        return self.policy(observation, jax.random.key(0), self.policy.initial_state())[0]


class HostExpert(struct.PyTreeNode):
    """A function of numpy: observations (N, *O) to actions (N, A), or (N,) indices.

    One that labels `afterwards` never acts. It is called once when a round's states are known, so
    that a person can take their time. `takes_over` gets observations and the learner's actions,
    and gives (N,) bool. `opened` is told the name and the actions of the environment before a run.
    """

    function: Callable[[np.ndarray], Any] = struct.field(pytree_node=False)
    takes_over: TakesOver | None = struct.field(pytree_node=False, default=None)
    afterwards: bool = struct.field(pytree_node=False, default=False)
    opened: Callable[[str, Space], None] | None = struct.field(pytree_node=False, default=None)


Expert = FunctionExpert | PolicyExpert | HostExpert


def as_expert(value: Any) -> Expert:
    """The expert that a function of JAX or a trained policy is.

    Raises:
      InputError: it is neither, has several lanes, or acts from memory.
    """
    if isinstance(value, (FunctionExpert, PolicyExpert, HostExpert)):
        return value
    if isinstance(value, Policy):
        state = value.initial_state()
        if jax.tree.leaves(getattr(state, "memory", state)):  # a state may also report something
            raise InputError(
                "the expert acts from what it remembers, and a label is asked for one observation: "
                "give a policy without memory"
            )
        lanes = jnp.shape(value.state.step)
        return PolicyExpert(value.lane(0) if lanes == (1,) else value)
    if callable(value):
        function: Any = value
        return FunctionExpert(function)
    raise InputError(
        f"an expert is a {type(value).__name__}, expected a function, a policy or a HostExpert"
    )


def is_pure(expert: Expert) -> bool:
    """Whether it can act inside a compiled program."""
    return not isinstance(expert, HostExpert)


def check_expert(
    expert: Expert, name: str, observation_space: Box, action_space: Space, examples: np.ndarray
) -> None:
    """Refuses, before a run begins, an expert that does not fit the environment.

    Args:
      expert: any; one that labels afterwards is not asked.
      name: the environment, for the message.
      observation_space: of the environment, flattened.
      action_space: of the environment.
      examples: (N, *O) observations of the environment, to ask it about.

    Raises:
      InputError: it cannot be called, or its actions have another shape, are not finite or lie
        outside the box.
    """
    if isinstance(expert, PolicyExpert):
        check_spaces(expert.policy, f"the expert in {name}", observation_space, action_space)
    if isinstance(expert, HostExpert) and expert.opened is not None:
        expert.opened(name, action_space)
    if not (isinstance(expert, HostExpert) and expert.afterwards):
        labels_of(expert, examples, action_space, name)


def labels_of(expert: Expert, observations: np.ndarray, space: Space, name: str) -> np.ndarray:
    """The expert's actions for a batch, on the host; in the environment's units.

    Args:
      expert: any.
      observations: (N, *O).
      space: of the actions.
      name: the environment, for the message.

    Returns:
      (N, *A) float32, or (N,) int32; a hair outside the box is moved onto its edge.

    Raises:
      InputError: the actions have another shape or kind, are not finite or lie outside the box.
    """
    try:
        if isinstance(expert, HostExpert):
            found = np.asarray(expert.function(observations))
        else:
            found = np.asarray(_act(expert, observations))
    except jax.errors.TracerArrayConversionError as error:
        raise InputError(
            f"{name}: the expert is a function of numpy, which cannot run inside a compiled "
            "program: give experts.HostExpert(function), and a gymnasium environment"
        ) from error
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        if isinstance(error, InputError):
            raise  # a person's labels that wait
        raise InputError(
            f"{name}: the expert fails for observations of shape {observations.shape}: "
            f"{type(error).__name__}: {error}"
        ) from error
    shape = () if isinstance(space, Discrete) else space.shape
    if found.shape != (len(observations), *shape) or found.dtype.kind not in "fiu":
        raise InputError(
            f"{name}: the expert gives {found.dtype} of shape {found.shape} for "
            f"{len(observations)} observations, expected shape {(len(observations), *shape)}"
        )
    wrong = ~np.asarray(is_label(found, space))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"{name}: the expert's action {found[first].tolist()} for the observation "
            f"{observations[first].tolist()} is {_why(found[first], space)}"
        )
    return np.asarray(fitted(found, space))


def wishes_of(expert: Expert, observations: np.ndarray, proposals: np.ndarray) -> np.ndarray:
    """Where the expert wants to take over from the learner, (N,) bool; on the host."""
    if expert.takes_over is None:
        return np.zeros(len(observations), bool)
    if isinstance(expert, HostExpert):
        return np.asarray(expert.takes_over(observations, proposals), bool)
    return np.asarray(_wish(expert.takes_over, observations, proposals))


def is_label(labels: Any, space: Space) -> jax.Array:
    """Whether each action (N, ...) of an expert is finite and inside the space, (N,) bool."""
    if isinstance(space, Discrete):
        labels = jnp.asarray(labels)
        whole = jnp.isfinite(labels) & (labels == jnp.round(labels))
        return whole & (labels >= space.start) & (labels < space.start + space.n)
    labels = jnp.asarray(labels, jnp.float32)
    low, high, slack = _bounds(space)
    inside = jnp.isfinite(labels) & (labels >= low - slack) & (labels <= high + slack)
    return jnp.all(inside.reshape(labels.shape[0], -1), axis=-1)


def fitted(labels: Any, space: Space) -> jax.Array:
    """Labels as the environment takes them; what is no label becomes the nearest action, or 0."""
    if isinstance(space, Discrete):
        clean = jnp.nan_to_num(jnp.asarray(labels))
        return jnp.clip(clean, space.start, space.start + space.n - 1).astype(jnp.int32)
    low, high, _ = _bounds(space)
    return jnp.clip(jnp.nan_to_num(jnp.asarray(labels, jnp.float32)), low, high)


def _bounds(space: Box) -> tuple[jax.Array, jax.Array, jax.Array]:
    low, high = (
        jnp.asarray(np.reshape(bound, space.shape), jnp.float32)
        for bound in (space.low, space.high)
    )
    width = jnp.where(jnp.isfinite(high - low), high - low, 0.0)
    return low, high, SLACK * width


def _why(label: np.ndarray, space: Space) -> str:
    if not np.isfinite(label).all():
        return "not finite"
    if isinstance(space, Discrete):
        return f"none of the actions {space.start} .. {space.start + space.n - 1}"
    return f"outside the box from {list(space.low)} to {list(space.high)}"


@functools.partial(jax.jit)
def _act(expert, observations):
    return jax.vmap(lambda one, row: one(row), (None, 0))(expert, observations)


@functools.partial(jax.jit, static_argnums=0)
def _wish(takes_over, observations, proposals):
    return jax.vmap(takes_over)(observations, proposals)
