"""The contract of an algorithm, and the values that travel between data, algorithm and runner.

An algorithm is a module, and functions get the module itself as a value. See :class:`Algorithm` for
the names that it must have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.core
import numpy as np
from flax import struct

from ddm.configuration import Configuration as Configuration
from ddm.configuration import NetworkFn as NetworkFn
from ddm.configuration import choice as choice
from ddm.configuration import chosen as chosen
from ddm.configuration import leaf as leaf
from ddm.configuration import network as network
from ddm.configuration import own_networks
from ddm.configuration import static as static
from ddm.errors import InputError

PRNGKey = jax.Array  # a typed key, from `jax.random.key`
Metrics = Mapping[str, jax.Array]  # name -> scalar float
PyTree = Any


ABSENT: Any = None  # a field that was not declared; typed as an array: after the check it is one


class Batch(struct.PyTreeNode):
    """The data of one update: B rows, or B windows of T steps where a window is declared.

    Only the fields that the algorithm declares in its :class:`BatchSpec` are filled, all others
    are None (an empty pytree). Observations and actions are normalised: see
    ``ddm.data.Normalization``.
    """

    observations: jax.Array = ABSENT  # (B, *O) float32, or uint8 images
    actions: jax.Array = ABSENT  # (B, A) float32 in [-1, 1], or (B,) int32
    rewards: jax.Array = ABSENT  # (B,) float32
    next_observations: jax.Array = ABSENT  # (B, *O)
    terminations: jax.Array = ABSENT  # (B,) bool: the bootstrap stops here
    truncations: jax.Array = ABSENT  # (B,) bool: the episode was cut here, but values continue
    next_actions: jax.Array = ABSENT  # (B, A); never taken from another episode
    returns_to_go: jax.Array = ABSENT  # (B,) undiscounted sum of rewards to the episode's end
    initial_observations: jax.Array = ABSENT  # (B, *O) first ones of other, random episodes
    mask: jax.Array = ABSENT  # (B, T) bool: True where the window lies inside its episode


@dataclasses.dataclass(frozen=True)
class BatchSpec:
    """What an algorithm needs in a batch, declared as a value; the data's sampler provides it."""

    fields: tuple[str, ...]  # names of Batch fields
    # gradient steps in one `update`: B = minibatches * batch_size rows, or the whole dataset's
    minibatches: int = 1
    window: int | None = None  # steps T of each window; None for single transitions
    history: int = 0  # how many of the T steps lie before the step that was drawn
    min_episode_steps: int = 1  # a dataset with a shorter episode is refused
    # All transitions, in order, whatever the batch size: exact sweeps. With a window: the last T
    # steps of each copy of the environment, all by the present policy; never those of a log.
    whole_dataset: bool = False
    one_hot_observations: bool = False  # rows of a table: any other observation is refused
    num_actions: int = 0  # a log with a larger discrete action is refused; 0: any action


Spec = BatchSpec | Mapping[str, BatchSpec]  # of one source, or of several by their names


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a training that has several, such as a model before the policy.

    All stages of an algorithm share its State and count its `step`.
    """

    name: str  # stands before the stage's metrics
    update: Callable[[Any, Any, Any], tuple[Any, Metrics]]  # as `Algorithm.update`
    batch_spec: Spec
    num_steps: int | None = None  # gradient steps; None, for the last stage: the rest of the run
    # (config, state, sources, key) -> state, once at the end of the stage
    finish: Callable[[Any, Any, Any, PRNGKey], Any] | None = None
    evaluated: bool = True  # whether the policy is worth a score while the stage runs
    collects: bool = False  # whether the policy collects own experience while the stage runs


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
    """The names that an algorithm module has, beside those of :class:`PolicyAlgorithm`.

    A model of the environment has no policy. In place of `act` it has ``predict(config, state,
    observations, actions)``, what it expects, and ``transition(config, state, observations,
    actions, key)``, a sample.

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

    # The names below are optional.
    #
    # `batch_spec` may be a dict of specs, one for each source; `init` and `update` then get a dict
    # of batches. `stages(config)` gives the parts of a training, see :class:`Stage`.
    # `prepare(config, dataset)` fills in fields that are not set from the log: see `ddm.prepare`.
    # `collect_spec(config)` says how a policy collects own experience: `ddm.CollectSpec`, or None
    # if it collects nothing under this configuration. Where an expert labels what is collected, the
    # algorithm says who acts and what is asked: see `ddm.evaluation.supervision`.
    # `notes(config, dataset)` says to the user what `prepare` chose. `PARTS` names fields of the
    # State that a run of another algorithm can give (`--start_from`), such as a model.
    # `loss(config, state, batch, key)` gives metrics of held-out data; without it, they are the
    # metrics of an update whose result is discarded.
    #
    # An algorithm that can see a problem in its metrics, such as a behaviour model that has not
    # converged, also has `diagnose(config, metrics)`: see the function below. An algorithm with a
    # hyper-parameter that depends on the run's length, unless it is set, also has `resolve(config,
    # num_updates)`: the configuration with the number in its place.


class PolicyAlgorithm(Algorithm, Protocol):
    """An algorithm that learns to act."""

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


def stages_of(algorithm: Algorithm, config: Any) -> tuple[Stage, ...]:
    """The stages of an algorithm; one without a name where it declares none.

    Raises:
      InputError: a stage before the last has no length, one has no step or a length that its
        mini-batches do not divide, or two have the same name.
    """
    declared = getattr(algorithm, "stages", None)
    if declared is None:
        return (Stage("", algorithm.update, algorithm.batch_spec(config), collects=True),)
    stages = tuple(declared(config))
    if not stages or len({stage.name for stage in stages}) < len(stages):
        names = ", ".join(stage.name for stage in stages) or "none"
        raise InputError(f"the stages of a method need different names; given: {names}")
    for i, stage in enumerate(stages):
        minibatches = num_minibatches(stage.batch_spec)
        if stage.num_steps is None and i == len(stages) - 1:
            continue
        if not stage.num_steps or stage.num_steps < 1 or stage.num_steps % minibatches:
            raise InputError(
                f"stage '{stage.name}' has {stage.num_steps} steps, expected a positive multiple "
                f"of {minibatches}, the gradient steps of one update"
            )
    return stages


def num_minibatches(spec: Spec) -> int:
    """Gradient steps of one update.

    Raises:
      InputError: the specs of several sources disagree.
    """
    if not isinstance(spec, Mapping):
        return spec.minibatches
    counts = {one.minibatches for one in spec.values()}
    if len(counts) != 1:
        raise InputError(f"the specs of {', '.join(spec)} have different numbers of minibatches")
    return counts.pop()


def initial_policy_state(algorithm: Algorithm, config: Any, state: Any) -> PyTree:
    """The policy state at the start of an episode; empty for a policy without memory."""
    make = getattr(algorithm, "initial_policy_state", None)
    return () if make is None else make(config, state)


_FUNCTIONS = (
    "init", "update", "act", "batch_spec", "initial_policy_state", "log_prob", "stages", "loss",
    "predict", "transition", "begin_supervision", "supervise",
)  # fmt: skip


def program_key(algorithm: Algorithm) -> tuple[Any, ...]:
    """The key under which a compiled program of an algorithm is kept: its present functions.

    A module that is edited and reloaded stays the same object, but its functions are new. With this
    key the program is then compiled again; with the module as key it would be out of date.

    Returns:
      A hashable tuple, whatever the algorithm is: a module, a class, or an instance of one.
    """
    functions = (getattr(algorithm, name, None) for name in _FUNCTIONS)
    return tuple(f if _has_hash(f) else Identity(f) for f in functions)


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


class Identity:
    """An object as part of a key: always hashable, and equal to itself only."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.value is other.value


def diagnose(algorithm: Algorithm, config: Any, metrics: Mapping[str, float]) -> list[str]:
    """The problems that the algorithm reports; outside of compiled code.

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
      batch: the batch that the algorithm got.
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
        if field in ("actions", "next_actions"):
            _check_action_rank(value, leading, f"{name}: batch.{field}")
        rows = value.shape[0] if rows is None else rows
        if value.shape[0] != rows:
            raise InputError(f"{name}: batch.{field} has {value.shape[0]} rows, expected {rows}")
    if rows is not None and not spec.whole_dataset and rows % spec.minibatches:
        raise InputError(f"{name}: {rows} rows do not divide into {spec.minibatches} mini-batches")


def check_example(batch: Batch, spec: BatchSpec, name: str) -> None:
    """:func:`check_batch` for `init`, which needs only shapes: one row is enough.

    Raises:
      InputError: a field is missing, has the wrong rank or another number of rows.
    """
    check_batch(batch, dataclasses.replace(spec, minibatches=1), name)


def check_vectors(config: Any, batch: Batch, name: str) -> None:
    """Refuses images, unless all networks are the user's own: the others read rows of features.

    Raises:
      InputError: naming the algorithm, the shape, and the networks that read vectors.
    """
    if batch.observations.ndim == 2:
        return
    own = own_networks(config)
    ours = [field for field, given in own.items() if not given]
    if ours or not own:
        instead = f", unless you give {', '.join(ours)}" if ours else ""
        raise InputError(
            f"{name}: batch.observations has shape {batch.observations.shape}, expected (B, O): "
            f"the networks read vectors, one row of features for each transition{instead}"
        )


def _check_action_rank(actions: jax.Array, leading: int, where: str) -> None:
    """One axis of features for real vectors, none for discrete actions."""
    discrete = jax.numpy.issubdtype(actions.dtype, jax.numpy.integer)
    if actions.ndim != leading + (not discrete):
        integers, vectors = ("(B,)", "(B, A)") if leading == 1 else ("(B, T)", "(B, T, A)")
        raise InputError(
            f"{where} has shape {actions.shape} and dtype {actions.dtype}, expected {vectors} "
            f"real vectors or {integers} integers"
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


def check_continuous_example(config: Any, batch: Batch, spec: BatchSpec, name: str) -> None:
    """The checks in `init` of a method whose observations and actions are vectors.

    Raises:
      InputError: a field is missing or of a wrong shape; integer actions; images.
    """
    check_example(batch, spec, name)
    check_continuous(batch, name)
    check_vectors(config, batch, name)


def check_one_hot(observations: Any, name: str) -> None:
    """Refuses observations that do not name a row of a table.

    Traced observations have no values yet and are not checked: `ddm.data.check_episodes` checks
    those of a dataset, for an algorithm whose `batch_spec` says so.

    Args:
      observations: expected (N, S), one-hot.
      name: the algorithm or the dataset, for the message.

    Raises:
      InputError: naming the first row that is not one-hot.
    """
    if isinstance(observations, jax.core.Tracer):
        return
    rows = np.asarray(observations)
    expected = (
        "expected one-hot rows, one column a state: a table needs an observation space of "
        "Discrete(n), not standardised"
    )
    if rows.ndim != 2:
        raise InputError(f"{name}: observations have shape {rows.shape}, {expected}")
    one_hot = (np.count_nonzero(rows, axis=1) == 1) & (rows.max(axis=1, initial=0) == 1)
    if not one_hot.all():
        row = int(one_hot.argmin())
        shown = ", ".join(f"{value:g}" for value in rows[row, :6])
        more = ", ..." if rows.shape[1] > 6 else ""
        raise InputError(f"{name}: observation {row} is ({shown}{more}), {expected}")


def check_action_range(actions: Any, num_actions: int, name: str) -> None:
    """Refuses discrete actions that the policy does not have; traced ones are not checked.

    Args:
      actions: (...) integers.
      num_actions: all actions must be below it.
      name: the algorithm or the dataset, for the message.

    Raises:
      InputError: naming the largest or the smallest action.
    """
    if isinstance(actions, jax.core.Tracer) or not actions.size:
        return
    values = np.asarray(actions)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_actions:
        raise InputError(
            f"{name}: the log has action {low if low < 0 else high} and num_actions is "
            f"{num_actions}: expected actions from 0 to {num_actions - 1}"
        )


def check_actions(batch: Batch, num_actions: int, name: str) -> None:
    """Refuses actions of the other kind, for an algorithm that takes both.

    Args:
      batch: with actions.
      num_actions: size of a discrete action space; 0 for continuous actions.
      name: the algorithm, for the message.

    Raises:
      InputError: integers where real vectors are expected, or the reverse; an integer outside the
        action space, where its value is known.
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
        check_action_range(batch.actions, num_actions, name)
