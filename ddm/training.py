"""`fit`: the one pure training loop. It runs under jit and vmap, and can be continued."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.core
import numpy as np

from ddm import data, experience
from ddm.errors import InputError
from ddm.types import Algorithm, Discrete, Metrics, PRNGKey, Stage, num_minibatches, stages_of


def fit(
    algorithm: Algorithm,
    config: Any,
    source: Any,
    key: PRNGKey,
    num_steps: int,
    *,
    batch_size: int = 256,
    state: Any = None,
) -> tuple[Any, Metrics]:
    """Trains on logged data.

    Pure: wrap it in `jax.jit`, and in `jax.vmap` over keys or configurations. Pass `source` to a
    jitted function as an argument, so that the data do not become a constant of the program.

        train = jax.jit(lambda key, log: ddm.fit(iql, iql.Config(), log, key, 10_000))
        state, metrics = train(jax.random.key(0), log)

    The batch of a step depends on `key` and `state.step` only. So 100 steps, and 100 more from that
    state with the same key, equal 200 steps, bit for bit.

    What the data decide of a configuration is filled in, see :func:`prepare`. Take the same
    configuration to act: `ddm.prepare(algorithm, config, source)`.

    A method with stages runs through them. To continue such a method, call `fit` outside of jit,
    because `state.step` must be a number.

    Args:
      algorithm: the algorithm module.
      config: its configuration.
      source: a dataset, a buffer, a mixture, or a dict of them: see :func:`ddm.data.sample`.
      key: PRNG key; the same for a run and its continuation.
      num_steps: gradient steps, a multiple of the algorithm's mini-batches.
      batch_size: rows per gradient step.
      state: the state to continue from; None: a fresh one.

    Returns:
      The state, and the metrics of every update, (num_steps / minibatches,); for a method with
      stages, those of each stage under its name.

    Raises:
      InputError: the source lacks what the algorithm needs, or `num_steps` does not divide.
    """
    config = prepare(algorithm, config, source)
    init_key, sampling_key = jax.random.split(key)
    stages = stages_of(algorithm, config)
    if state is None:
        state, done = init(algorithm, config, source, init_key), 0
    else:
        done = _steps_done(state) if len(stages) > 1 else 0
    metrics: dict[str, jax.Array] = {}
    for stage, steps, ends in plan(stages, done, num_steps):
        state, found = _run_stage(stage, config, state, source, sampling_key, steps, batch_size)
        metrics |= found
        if ends:
            state = finish(stages, stage, config, state, source, sampling_key)
    return state, metrics


def _run_stage(
    stage: Stage, config: Any, state: Any, source: Any, key: PRNGKey, steps: int, batch_size: int
) -> tuple[Any, dict[str, jax.Array]]:
    """So many gradient steps of one stage."""

    def step(state, _):
        batch = draw(source, key, state.step, batch_size, stage.batch_spec)
        state, metrics = stage.update(config, state, batch)
        return state, named(stage, metrics)

    return jax.lax.scan(step, state, length=num_updates(steps, stage.batch_spec))


class Learner(NamedTuple):
    """A policy that learns, and its own experience: `fit_online` continues from both."""

    state: Any  # of the algorithm
    experience: experience.Experience | None = None  # None: it learns only from logs


def fit_online(
    algorithm: Algorithm,
    config: Any,
    collector: experience.Collector,
    key: PRNGKey,
    num_steps: int,
    *,
    log: data.Dataset | None = None,
    log_share: float = 0.5,
    batch_size: int = 256,
    learner: Learner | None = None,
) -> tuple[Learner, Metrics]:
    """Trains on the policy's own experience in a pure environment, beside a log if there is one.

    Pure, as :func:`fit`. Before each update every copy of the environment takes
    `collector.spec.steps_per_update` steps. An algorithm whose `batch_spec` is a dict gets its
    own experience as "own" and the log under the other name; any other gets rows of both in one
    batch. One that
    learns from its present policy alone, such as PPO, has a `collect_spec` for the collector:

        collector = ddm.Collector.create(environment, ppo.collect_spec(config))
        learner, metrics = ddm.fit_online(ppo, config, collector, key, 100)

    Args:
      algorithm: the algorithm module.
      config: its configuration.
      collector: environment, and how much is collected.
      key: PRNG key; the same for a run and its continuation.
      num_steps: gradient steps, a multiple of the algorithm's mini-batches.
      log: logged data in the environment's spaces; its normalization holds for both.
      log_share: share of the log in each batch.
      batch_size: rows per gradient step.
      learner: the learner to continue from; None: a fresh one.

    Returns:
      The learner, and the metrics of every update, (num_steps / minibatches,).

    Raises:
      InputError: the policy does not fit the environment, the buffer is smaller than a batch, or
        `num_steps` does not divide.
    """
    with jax.ensure_compile_time_eval():  # the units are numbers, also under jit
        config = prepare(algorithm, config, collector.empty_buffer(log, 1))
    spec = algorithm.batch_spec(config)
    init_key, sampling_key, collect_key = jax.random.split(key, 3)
    if learner is None:
        buffer = collector.empty_buffer(log)
        data.check_sources(own_sources(buffer, log, log_share, spec), spec, batch_size)
        state = algorithm.init(config, init_key, _example(collector, buffer, log, spec))
        begun = experience.begin(collector, algorithm, config, state, collect_key, log)
        learner = Learner(state, begun)

    def step(learner, _):
        seen, collected = experience.collect(collector, algorithm, config, *learner)
        source = own_sources(seen.buffer, log, log_share, spec)
        batch = draw(source, sampling_key, learner.state.step, batch_size, spec)
        state, metrics = algorithm.update(config, learner.state, batch)
        return Learner(state, seen), {**metrics, **collected}

    return jax.lax.scan(step, learner, length=num_updates(num_steps, spec))


def _example(collector: experience.Collector, buffer: data.Buffer, log: Any, spec: Any) -> Any:
    """Shapes and types for an algorithm's `init`; a dict of them if it asks for several sources."""
    if not data.is_named(spec):
        return collector.example(buffer, spec)
    sources = own_sources(buffer, log, 0.5, spec)
    return {
        name: collector.example(buffer, one)
        if name == experience.OWN
        else data.sample(data.find_source(sources, name), jax.random.key(0), 1, one)
        for name, one in spec.items()
    }


def prepare(algorithm: Algorithm, config: Any, source: Any) -> Any:
    """The configuration with fields from the data, where they are not set.

    The number of discrete actions becomes the log's. If the policy class is a default for real
    vectors, it becomes a categorical one. The algorithm's own `prepare(config, dataset)` adds what
    else it takes from the data, such as the edges of bins. Everything that trains calls this.

    Args:
      algorithm: the algorithm module.
      config: its configuration.
      source: a dataset, a buffer, or a dict of them; the first one decides.

    Raises:
      InputError: `num_actions` is given and the data have more.
    """
    first = next(iter(source.values())) if isinstance(source, Mapping) else source
    config = _fit_actions(config, first.info)
    own = getattr(algorithm, "prepare", None)
    return config if own is None else own(config, first)


def notes(algorithm: Algorithm, config: Any, source: Any) -> list[str]:
    """Sentences for the user on what a prepared configuration took from the data."""
    first = next(iter(source.values())) if isinstance(source, Mapping) else source
    find = getattr(algorithm, "notes", None)
    return [] if find is None else list(find(config, first))


def _fit_actions(config: Any, info: Any) -> Any:
    space = info.action_space
    if not isinstance(space, Discrete) or not hasattr(config, "num_actions"):
        return config
    head = getattr(config, "head", None)
    if head is not None and head == type(config)().head:
        config = config.replace(head="categorical")
    if not config.num_actions:
        return config.replace(num_actions=space.n)
    if config.num_actions < space.n:
        raise InputError(
            f"num_actions is {config.num_actions}, and {info.name} has {space.n} actions: "
            "expected at least as many"
        )
    return config


def init(algorithm: Algorithm, config: Any, source: Any, key: PRNGKey) -> Any:
    """A fresh state for the shapes of a source."""
    spec = algorithm.batch_spec(config)
    example_key, init_key = jax.random.split(key)
    if isinstance(source, data.Mixture):
        source = source.parts[0]  # one row has no shares
    return algorithm.init(config, init_key, data.sample(source, example_key, 1, spec))


def draw(source: Any, sampling_key: PRNGKey, step: jax.Array, batch_size: int, spec: Any) -> Any:
    """The batch of a gradient step; it depends on the step's number, not on how a run is split."""
    return data.sample(source, jax.random.fold_in(sampling_key, step), batch_size, spec)


def own_sources(buffer: data.Buffer, log: Any, log_share: float, spec: Any) -> Any:
    """The sources of an algorithm that collects.

    Args:
      buffer: its own experience.
      log: a dataset, a dict of them, or None.
      log_share: share of the log in each batch, for an algorithm without named sources.
      spec: of its batch.
    """
    if log is None:
        return {experience.OWN: buffer}
    if data.is_named(spec):
        others = [name for name in spec if name != experience.OWN]
        name = others[0] if len(others) == 1 else "log"
        return {experience.OWN: buffer, **(log if isinstance(log, Mapping) else {name: log})}
    return data.Mixture((data.only_source(log), buffer), (log_share, 1.0 - log_share))


def plan(stages: Sequence[Stage], done: int, num_steps: int) -> list[tuple[Stage, int, bool]]:
    """Which stages the next steps belong to.

    Args:
      stages: of the algorithm.
      done: gradient steps before.
      num_steps: gradient steps to come.

    Returns:
      Stages, the steps of each, and whether the stage ends after them.

    Raises:
      InputError: no step, or the stages end before the steps do.
    """
    if num_steps < 1:
        raise InputError(f"num_steps is {num_steps}, expected a positive number")
    result, begin = [], 0
    for stage in stages:
        end = done + num_steps if stage.num_steps is None else begin + stage.num_steps
        steps = min(end, done + num_steps) - max(begin, done)
        if steps > 0:
            ends = stage.num_steps is not None and done + num_steps >= end
            result.append((stage, steps, ends))
        begin = end
    if begin < done + num_steps:
        raise InputError(
            f"the stages end after {begin} gradient steps, and {done + num_steps} are asked for"
        )
    return result


def finish(
    stages: Sequence[Stage], stage: Stage, config: Any, state: Any, source: Any, key: PRNGKey
) -> Any:
    """What a stage does once at its end; its key differs from the keys of all batches."""
    if stage.finish is None:
        return state
    last = jax.random.split(key, len(stages) + 1)[1:]
    return stage.finish(config, state, source, last[list(stages).index(stage)])


def named(stage: Stage, metrics: Metrics) -> dict[str, jax.Array]:
    """Metrics under the name of their stage, where it has one."""
    return {f"{stage.name}/{name}" if stage.name else name: x for name, x in metrics.items()}


def _steps_done(state: Any) -> int:
    if isinstance(state.step, jax.core.Tracer):
        raise InputError("a method with stages goes on outside of jit: state.step is traced here")
    return int(np.max(state.step))


def num_updates(num_steps: int, spec: Any) -> int:
    """The number of updates for a number of gradient steps.

    Raises:
      InputError: they do not divide, or there is none.
    """
    minibatches = num_minibatches(spec)
    if num_steps < 1 or num_steps % minibatches:
        raise InputError(
            f"num_steps is {num_steps}, expected a positive multiple of {minibatches}, the "
            "gradient steps of one update"
        )
    return num_steps // minibatches
