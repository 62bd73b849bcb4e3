"""The contract of an algorithm, and the values that travel between data, algorithm and runner.

An algorithm is a module, and functions get the module itself as a value. See :class:`Algorithm` for
the names that it must have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

from ddm.batch import ABSENT as ABSENT
from ddm.batch import TRANSITION_FIELDS as TRANSITION_FIELDS
from ddm.batch import Batch as Batch
from ddm.batch import BatchSpec as BatchSpec
from ddm.checks import check_action_range as check_action_range
from ddm.checks import check_actions as check_actions
from ddm.checks import check_batch as check_batch
from ddm.checks import check_continuous as check_continuous
from ddm.checks import check_continuous_example as check_continuous_example
from ddm.checks import check_example as check_example
from ddm.checks import check_one_hot as check_one_hot
from ddm.checks import check_vectors as check_vectors
from ddm.configuration import Configuration as Configuration
from ddm.configuration import NetworkFn as NetworkFn
from ddm.configuration import choice as choice
from ddm.configuration import chosen as chosen
from ddm.configuration import leaf as leaf
from ddm.configuration import network as network
from ddm.configuration import own_networks as own_networks
from ddm.configuration import static as static
from ddm.errors import InputError

PRNGKey = jax.Array  # a typed key, from `jax.random.key`
Metrics = Mapping[str, jax.Array]  # name -> scalar float
PyTree = Any


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

    # Any: a `Spec`, and a `Batch` or a dict of them, as the algorithm declares.

    def batch_spec(self, config: Any) -> Any:
        """What `update` needs in its batch."""
        ...

    def init(self, config: Any, key: PRNGKey, batch: Any) -> Any:
        """A fresh state; `batch` is an example, used for shapes and dtypes only."""
        ...

    def update(self, config: Any, state: Any, batch: Any) -> tuple[Any, Metrics]:
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
