"""The sources of a run's lanes: shared logs, and each lane's own experience."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from flax import struct

from ddm import data, envs, training
from ddm.errors import InputError
from ddm.evaluation.collecting import HostStream
from ddm.evaluation.evaluate import resolve_environment
from ddm.evaluation.experts import Expert, is_pure
from ddm.experience import Collector, CollectSpec, needed_expert
from ddm.runner.flags import algorithm_name
from ddm.runner.options import Options
from ddm.types import Algorithm, Spec


class Shared(struct.PyTreeNode):
    """The sources that all lanes share: the logs, and the environment that they collect in."""

    logs: Any  # a dataset, a dict of them by name, or None: only own experience
    collector: Collector | None  # None: nothing is collected inside the program
    log_share: float = struct.field(pytree_node=False)  # of a batch, if there is experience too

    def source(self, experience: Any, spec: Spec) -> Any:
        """The source for `data.sample`, for a lane with this experience (None: without)."""
        if experience is None:
            return self.logs
        return training.own_sources(experience.buffer, self.logs, self.log_share, spec)

    @property
    def collects_inside(self) -> bool:
        """Whether experience is collected inside the compiled program."""
        return self.collector is not None and self.collector.environment is not None

    @property
    def first_log(self) -> data.Dataset | None:
        """The log whose units and spaces hold for all sources; None without a log."""
        if isinstance(self.logs, Mapping):
            return next(iter(self.logs.values()), None)
        return self.logs

    @property
    def units(self) -> data.Dataset | data.Buffer:
        """The object with the spaces and the normalization of all sources."""
        return self.first_log or _no_rows(self, 1)


def share(
    algorithm: Algorithm,
    config: Any,
    logs: Any,
    environment: Any,
    options: Options,
    expert: Any = None,
) -> Shared:
    """The sources of a run.

    Args:
      algorithm: one that has a `collect_spec` for this configuration always collects.
      config: its configuration.
      logs: a dataset, a dict of them by name, or None.
      environment: the one for the score; experience is collected there.
      options: whether and how much is collected.
      expert: labels what is collected, for a method that asks one.

    Raises:
      InputError: there is no source, no environment in which to collect experience, or no expert,
        or one that does not fit the environment.
    """
    declare = getattr(algorithm, "collect_spec", None)
    declared = None if declare is None else declare(config)
    if declared is None and not options.online:
        if logs is None:
            raise InputError("there is nothing to learn from: give a log, or collect with --online")
        return Shared(logs, None, options.log_share)
    if environment is None and declared is not None and declared.labelled:
        raise InputError(
            f"{algorithm_name(algorithm)} asks an expert about states of an environment, and there "
            "is none: give --environment"
        )
    if environment is None:
        raise InputError("--online collects experience, and there is no environment to do so in")
    spec = _collect_spec(CollectSpec() if declared is None else declared, options)
    expert = needed_expert(expert) if spec.labelled else None
    environment = collected_in(environment, expert)
    if isinstance(environment, envs.Environment):
        collector = Collector.create(environment, spec, expert=expert)
        return Shared(logs, collector, options.log_share)
    hosted = Collector(None, None, spec, *host_spaces(environment, expert), expert)
    return Shared(logs, hosted, options.log_share)


def collected_in(environment: Any, expert: Expert | None) -> Any:
    """The environment in which experience is collected.

    It is pure, or a function that makes gymnasium environments. A pure one shows its gymnasium face
    to an expert that cannot act inside a compiled program.
    """
    environment = resolve_environment(environment)
    if expert is None or is_pure(expert) or not isinstance(environment, envs.Environment):
        return environment
    from ddm.envs.gym import GymnasiumFace

    return functools.partial(GymnasiumFace, environment)


def host_spaces(environment: Any, expert: Any = None) -> tuple[Any, Any]:
    """Flattened observation and action space of a gymnasium environment, by making one.

    Raises:
      InputError: the expert, where there is one, does not fit them.
    """
    stream = HostStream(environment, [0], copies=1)
    try:
        if expert is not None:
            stream.check_expert(expert)
    finally:
        stream.close()
    return stream.observation_space, stream.action_space


def _collect_spec(spec: CollectSpec, options: Options) -> CollectSpec:
    """The algorithm's own numbers, unless an option sets others.

    Raises:
      InputError: an option for what a method keeps that keeps nothing.
    """
    given = [name for name in ("random_steps", "buffer_capacity") if getattr(options, name)]
    if spec.labelled and options.random_steps:
        raise InputError(
            f"random_steps is {options.random_steps}, and the method labels its own steps alone: "
            "leave it out"
        )
    if spec.on_policy and given:
        raise InputError(
            f"{given[0]} is {getattr(options, given[0])}, and the method learns from the steps of "
            "its present policy alone: leave it out"
        )
    asked = {
        "steps_per_update": options.collect_steps,
        "copies": options.collect_copies,
        "capacity": options.buffer_capacity,
        "random_steps": options.random_steps,
    }
    return dataclasses.replace(spec, **{name: value for name, value in asked.items() if value})


def example(shared: Shared, spec: Spec) -> Any:
    """Shapes and types of a batch of one row per mini-batch; nothing is drawn."""
    seen = None if shared.collector is None else _Seen(_no_rows(shared, 1))
    return jax.eval_shape(lambda: _draw_example(shared.source(seen, spec), spec))


def check_room(shared: Shared, lanes: int, algorithm: Algorithm, config: Any) -> None:
    """Refuses buffers that do not fit the memory, before anything is computed.

    They are those of own experience, and those in a method's state, as of imagined transitions.

    Raises:
      InputError: naming both sizes.
    """
    collector = shared.collector
    if collector is not None:
        buffer = jax.eval_shape(lambda: _no_rows(shared))
        name = f"with a buffer_capacity of {collector.spec.capacity}"
        _check_fits(buffer, lanes, name)
    batch = example(shared, algorithm.batch_spec(config))
    state = jax.eval_shape(functools.partial(algorithm.init, config), jax.random.key(0), batch)
    is_buffer = lambda part: isinstance(part, data.Buffer)  # noqa: E731
    for buffer in filter(is_buffer, jax.tree.leaves(state, is_leaf=is_buffer)):
        _check_fits(buffer, lanes, f"with room for {buffer.capacity}")


def _check_fits(buffer: data.Buffer, lanes: int, room: str) -> None:
    each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(buffer.rows))
    data.check_fits(lanes * each, name=f"{buffer.info.name} of {lanes} lanes {room}")


def check(shared: Shared, spec: Spec, batch_size: int) -> None:
    """Refuses sources that cannot give what a spec asks for.

    Raises:
      InputError: naming the source.
    """
    collector = shared.collector
    seen = None
    if collector is not None:
        seen = _Seen(jax.eval_shape(lambda: _no_rows(shared)))
    data.check_sources(shared.source(seen, spec), spec, batch_size)


class _Seen(NamedTuple):
    """Experience with only a buffer; its other fields are not used."""

    buffer: data.Buffer


def _no_rows(shared: Shared, capacity: int | None = None) -> data.Buffer:
    assert shared.collector is not None
    return shared.collector.empty_buffer(shared.first_log, capacity)


def _draw_example(source: Any, spec: Spec) -> Any:
    if isinstance(spec, Mapping):
        return {
            name: _draw_example(data.find_source(source, name), one) for name, one in spec.items()
        }
    source = data.only_source(source)
    if isinstance(source, data.Mixture):
        source = source.parts[0]
    if isinstance(source, data.Buffer):
        return source.example(spec)
    return data.sample(source, jax.random.key(0), 1, spec)
