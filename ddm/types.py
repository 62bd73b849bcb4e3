"""The contract of an algorithm, and the values that travel between data, algorithm and runner.

An algorithm is a module; the module itself is the value that is passed around. See
:class:`Algorithm` for the names that it must have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.core
import numpy as np
from flax import struct

from ddm.configuration import Configuration as Configuration
from ddm.configuration import leaf as leaf
from ddm.configuration import static as static
from ddm.errors import InputError

PRNGKey = jax.Array  # a typed key, from `jax.random.key`
Metrics = Mapping[str, jax.Array]  # name -> scalar float
PyTree = Any


ABSENT: Any = None  # a field that was not declared; typed as an array, which it is after the check


class Batch(struct.PyTreeNode):
    """What one update sees; B rows, or B windows of T steps where a window is declared.

    Only the fields that the algorithm declares in its :class:`BatchSpec` are filled, all others
    are None (an empty pytree). Observations and actions are normalised: see
    ``ddm.data.Normalization``.
    """

    observations: jax.Array = ABSENT  # (B, *O) float32, or uint8 images
    actions: jax.Array = ABSENT  # (B, A) float32 in [-1, 1], or (B,) int32
    rewards: jax.Array = ABSENT  # (B,) float32
    next_observations: jax.Array = ABSENT  # (B, *O)
    terminations: jax.Array = ABSENT  # (B,) bool: the bootstrap stops here
    truncations: jax.Array = ABSENT  # (B,) bool: the episode was cut here, values go on
    next_actions: jax.Array = ABSENT  # (B, A); never taken from another episode
    returns_to_go: jax.Array = ABSENT  # (B,) undiscounted sum of rewards to the episode's end
    initial_observations: jax.Array = ABSENT  # (B, *O) first ones of episodes drawn for themselves
    mask: jax.Array = ABSENT  # (B, T) bool: True where the window lies inside its episode


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """What an algorithm needs in a batch, declared as a value; the data's sampler provides it."""

    fields: tuple[str, ...]  # names of Batch fields
    minibatches: int = 1  # gradient steps in one `update`: B = minibatches * batch_size rows
    window: int | None = None  # steps T of each window; None for single transitions
    history: int = 0  # how many of the T steps lie before the step that was drawn
    min_episode_steps: int = 1  # a dataset with a shorter episode is refused
    whole_dataset: bool = False  # all transitions, in order, whatever the batch size: exact sweeps


TRANSITION_FIELDS = ("observations", "actions", "rewards", "next_observations", "terminations")


@dataclasses.dataclass(frozen=True)
class Box:
    """Real vectors (or images) inside bounds; `low` and `high` are flat tuples of floats."""

    shape: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Discrete:
    """The integers start .. start + n - 1; algorithms see them counted from 0."""

    n: int
    start: int = 0  # in the environment's units


Space = Box | Discrete


class Algorithm(Protocol):
    """The names that an algorithm module has.

    ``Config``: frozen `flax.struct` dataclass; numeric hyper-parameters are leaves and may be
    traced or vmapped, structural ones are static fields.
    ``State``: one immutable pytree of arrays with at least `step` (int32 scalar, gradient steps
    done) and `key` (PRNG key).
    """

    Config: Any
    State: Any

    def batch_spec(self, config: Any) -> BatchSpec:
        """What `update` needs in its batch."""
        ...

    def init(self, config: Any, key: PRNGKey, batch: Batch) -> Any:
        """A fresh state; `batch` is an example, used for shapes and dtypes only."""
        ...

    def update(self, config: Any, state: Any, batch: Batch) -> tuple[Any, Metrics]:
        """One pure update (`batch_spec(config).minibatches` gradient steps)."""
        ...

    def act(
        self,
        config: Any,
        state: Any,
        observation: jax.Array,
        key: PRNGKey,
        policy_state: PyTree = (),
        *,
        deterministic: bool = False,
    ) -> tuple[jax.Array, PyTree]:
        """Action for one observation, and the policy state for the next call.

        A policy with memory or a plan also has `initial_policy_state(config, state)`; for all
        others the policy state is the empty tuple.
        """
        ...

    # An algorithm that can tell from its metrics that something is amiss, such as a behaviour
    # model that has not converged, also has `diagnose(config, metrics)`: see the function below.
    # One with a hyper-parameter that follows the run's length unless it is set also has
    # `resolve(config, num_updates)`: the configuration with the number in its place.


def initial_policy_state(algorithm: Algorithm, config: Any, state: Any) -> PyTree:
    """The policy state at the start of an episode; empty for a policy without memory."""
    make = getattr(algorithm, "initial_policy_state", None)
    return () if make is None else make(config, state)


def diagnose(algorithm: Algorithm, config: Any, metrics: Mapping[str, float]) -> list[str]:
    """What the algorithm says is amiss; outside of compiled code.

    Args:
      algorithm: the algorithm module.
      config: one lane's configuration, with numbers.
      metrics: that lane's metrics, means over an interval.

    Returns:
      Sentences for the user; none for an algorithm that has no `diagnose`.
    """
    find = getattr(algorithm, "diagnose", None)
    return [] if find is None else list(find(config, metrics))


def check_batch(batch: Batch, spec: BatchSpec, name: str) -> None:
    """Refuses, by name, a batch that lacks a declared field or whose rows do not line up.

    Args:
      batch: the batch that was handed to algorithm.
      spec: what the algorithm declared.
      name: the algorithm, for the message.

    Raises:
      InputError: a field is missing, has the wrong rank or another number of rows.
    """
    rows = None
    leading = 1 if spec.window is None else 2
    for field in spec.fields:
        value = getattr(batch, field)
        if value is None:
            raise InputError(
                f"{name}: batch.{field} is missing; the algorithm needs {', '.join(spec.fields)}"
            )
        scalar = field in ("rewards", "terminations", "truncations", "returns_to_go", "mask")
        if value.ndim < leading or (scalar and value.ndim != leading):
            expected = "(B,)" if leading == 1 else "(B, T)"
            raise InputError(
                f"{name}: batch.{field} has shape {value.shape}, expected {expected}"
                f"{'' if scalar else ' and the feature axes'}"
            )
        rows = value.shape[0] if rows is None else rows
        if value.shape[0] != rows:
            raise InputError(f"{name}: batch.{field} has {value.shape[0]} rows, expected {rows}")
    if rows is not None and rows % spec.minibatches:
        raise InputError(f"{name}: {rows} rows do not divide into {spec.minibatches} mini-batches")


def check_example(batch: Batch, spec: BatchSpec, name: str) -> None:
    """:func:`check_batch` for `init`, which needs shapes alone: one row will do.

    Raises:
      InputError: a field is missing, has the wrong rank or another number of rows.
    """
    check_batch(batch, dataclasses.replace(spec, minibatches=1), name)


def check_vectors(batch: Batch, name: str) -> None:
    """Refuses images, for an algorithm whose observations are rows of features.

    Raises:
      InputError: naming the algorithm and the shape.
    """
    if batch.observations.ndim != 2:
        raise InputError(
            f"{name}: batch.observations has shape {batch.observations.shape}, expected (B, O): "
            "the networks read vectors, one row of features for each transition, and no images"
        )


def check_continuous(batch: Batch, name: str) -> None:
    """Refuses integer actions, for an algorithm whose actions are real vectors.

    Raises:
      InputError: naming the algorithm and the dtype.
    """
    if jax.numpy.issubdtype(batch.actions.dtype, jax.numpy.integer):
        raise InputError(
            f"{name}: batch.actions are integers ({batch.actions.dtype}), expected real vectors: "
            "the policy is for continuous actions"
        )


def check_continuous_example(batch: Batch, spec: BatchSpec, name: str) -> None:
    """What `init` of a method with vectors for observations and actions checks.

    Raises:
      InputError: a field is missing or of a wrong shape; integer actions; images.
    """
    check_example(batch, spec, name)
    check_continuous(batch, name)
    check_vectors(batch, name)


def check_actions(batch: Batch, num_actions: int, name: str) -> None:
    """Refuses actions of the other kind, for an algorithm that takes both.

    Args:
      batch: with actions.
      num_actions: size of a discrete action space; 0 for continuous actions.
      name: the algorithm, for the message.

    Raises:
      InputError: integers where real vectors are expected, or the reverse; or an action that is
        not below `num_actions`.
    """
    discrete = jax.numpy.issubdtype(batch.actions.dtype, jax.numpy.integer)
    if discrete and num_actions < 1:
        raise InputError(
            f"{name}: batch.actions are integers ({batch.actions.dtype}); set num_actions, the "
            "number of discrete actions"
        )
    if not discrete and num_actions > 0:
        raise InputError(
            f"{name}: batch.actions are real vectors ({batch.actions.dtype}), expected integers "
            f"below num_actions={num_actions}; leave num_actions at 0 for continuous actions"
        )
    if discrete:
        check_indices(batch.actions, num_actions, name)


def check_indices(actions: jax.Array, num_actions: int, name: str) -> None:
    """Refuses actions that are not among 0 .. num_actions - 1.

    A table or a network reads another action in their place, without a word. Traced actions have
    no values yet and pass: what is compiled is checked where its data come from.

    Raises:
      InputError: naming the algorithm, the action and `num_actions`.
    """
    if isinstance(actions, jax.core.Tracer) or not actions.size:
        return
    values = np.asarray(actions)
    if values.min() < 0 or values.max() >= num_actions:
        wrong = values.min() if values.min() < 0 else values.max()
        raise InputError(
            f"{name}: the log has action {wrong} (counted from 0) and num_actions is "
            f"{num_actions}; expected actions from 0 to {num_actions - 1}"
        )


def find_choice(choice: Any, registry: Mapping[str, Any], field: str, name: str) -> Any:
    """The function that a configuration names; a function is taken as it is.

    Args:
      choice: a key of `registry`, or a function in place of its values.
      registry: the choices there are.
      field: of the configuration, for the message.
      name: the algorithm, for the message.

    Raises:
      InputError: the name is unknown.
    """
    if callable(choice):
        return choice
    if choice not in registry:
        raise InputError(
            f"{name}: {field}={choice} is unknown; choose one of {', '.join(registry)}"
        )
    return registry[choice]
