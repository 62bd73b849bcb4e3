"""The programs for the device: fresh lanes, and the updates between two rows of metrics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm import data, experience, training
from ddm.runner.lanes import unwrap_keys, wrap_keys
from ddm.runner.sources import Shared, example
from ddm.runner.sweep import Lane
from ddm.training import Learner
from ddm.types import (
    Algorithm,
    Identity,
    Metrics,
    PRNGKey,
    PyTree,
    program_key,
    stages_of,
)

# One lane: (config, (learner, alive), sampling_key, shared) -> ((learner, alive), (means, firsts))
Interval = Callable[
    [Any, tuple[Learner, jax.Array], PRNGKey, Shared],
    tuple[tuple[Learner, jax.Array], tuple[Metrics, Metrics]],
]

STATE = "state"  # name among the metrics for a state that is not finite


@dataclasses.dataclass(frozen=True)
class Program:
    """An algorithm as the key of its compiled programs: equal only with the same functions."""

    algorithm: Any = dataclasses.field(compare=False)
    functions: tuple[Any, ...]

    @classmethod
    def of(cls, algorithm: Algorithm) -> Program:
        """The algorithm with its present functions; a reloaded module gives another program."""
        return cls(algorithm, (Identity(algorithm), *program_key(algorithm)))


def make_interval(
    algorithm: Algorithm, batch_size: int, updates: int, stage: int = 0, *, freeze: bool = False
) -> Interval:
    """The program of one lane between two rows of metrics.

    It returns the learner after `updates` updates, and for each metric its mean over them and the
    index of the first update where it is not finite (`updates` if there is none). If the state
    stops being finite before a metric shows it, it is reported as `STATE`.

    Args:
      algorithm: the algorithm module.
      batch_size: rows per gradient step.
      updates: how many.
      stage: which of the algorithm's stages.
      freeze: keeps the state of a lane that is not alive, and of one that diverges, from its first
        bad update on. This is for several lanes, because one must not end the others. A single lane
        saves this selection, and its state is only checked after the last update.
    """
    return _make_interval(Program.of(algorithm), batch_size, updates, stage, freeze)


@functools.lru_cache(maxsize=64)  # the same functions again are the same program, compiled once
def _make_interval(
    program: Program, batch_size: int, updates: int, stage: int, freeze: bool
) -> Interval:
    def run_interval(config, carried, sampling_key, shared):
        now = stages_of(program.algorithm, config)[stage]

        def step(carry, _):
            (state, seen), alive = carry
            collected = {}
            if now.collects and shared.collects_inside:
                seen, collected = experience.collect(
                    shared.collector, program.algorithm, config, state, seen
                )
            source = shared.source(seen, now.batch_spec)
            # By the step's number, so that batches do not depend on how a run is split.
            batch = training.draw(source, sampling_key, state.step, batch_size, now.batch_spec)
            after, metrics = now.update(config, state, batch)
            wrong = {name: ~jnp.isfinite(value) for name, value in metrics.items()}
            if freeze:
                wrong[STATE] = _spoils(state, after)
                alive &= ~jnp.any(jnp.stack(list(wrong.values())))
                after = jax.tree.map(functools.partial(jnp.where, alive), after, state)
            return (Learner(after, seen), alive), ({**metrics, **collected}, wrong)

        after, (metrics, wrong) = jax.lax.scan(step, carried, length=updates)
        if not freeze:
            last = jnp.arange(updates) == updates - 1
            wrong[STATE] = last & _spoils(carried[0].state, after[0].state)
        means = jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)
        return after, (means, jax.tree.map(_first, wrong))

    return run_interval


def insert_rows(config: Any, carried: Any, sampling_key: PRNGKey, shared: Shared) -> Any:
    """Puts rows that were collected on the host into the buffer of one lane."""
    del config, sampling_key, shared
    learner, (rows, asked, memory) = carried
    seen = learner.experience
    units = seen.buffer.normalization
    seen = seen.replace(buffer=seen.buffer.insert(experience.to_units(rows, units), asked))
    if memory is not None:
        seen = seen.replace(memory=memory)
    return (learner._replace(experience=seen), (rows, asked, memory)), ()


def make_finish(algorithm: Algorithm, stage: int) -> Callable[..., Any]:
    """The action at the end of a stage: a program of one lane with an interval's arguments."""
    return _make_finish(Program.of(algorithm), stage)


@functools.lru_cache(maxsize=64)
def _make_finish(program: Program, stage: int) -> Callable[..., Any]:
    def run_finish(config, learner, sampling_key, shared):
        stages = stages_of(program.algorithm, config)
        now = stages[stage]
        source = shared.source(learner.experience, now.batch_spec)
        state = training.finish(stages, now, config, learner.state, source, sampling_key)
        return learner._replace(state=state), ()

    return run_finish


_HELD_OUT_BATCHES = 8  # metrics on held-out data are means over so many batches


def make_holdout(algorithm: Algorithm, batch_size: int, stage: int) -> Callable[..., Any]:
    """Metrics of one lane on data that it does not learn from, with the arguments of an interval.

    They come from the algorithm's `loss(config, state, batch, key)` if it has one, and otherwise
    from an update whose result is discarded. The batches are the same at every step.
    """
    return _make_holdout(Program.of(algorithm), batch_size, stage)


@functools.lru_cache(maxsize=64)
def _make_holdout(program: Program, batch_size: int, stage: int) -> Callable[..., Any]:
    def run_holdout(config, state, sampling_key, holdout):
        now = stages_of(program.algorithm, config)[stage]
        loss = getattr(program.algorithm, "loss", None)

        def measure(number):
            key = jax.random.fold_in(jax.random.key(0), number)
            batch_key, loss_key = jax.random.split(key)
            batch = data.sample(holdout, batch_key, batch_size, now.batch_spec)
            if loss is not None:
                return loss(config, state, batch, loss_key)
            return now.update(config, state, batch)[1]

        metrics = jax.lax.map(measure, jnp.arange(_HELD_OUT_BATCHES))
        means = {f"holdout/{name}": jnp.mean(values) for name, values in metrics.items()}
        return state, means

    return run_holdout


def _spoils(before: PyTree, after: PyTree) -> jax.Array:
    """Whether a number of the state was finite before and is not afterwards."""
    changes = [
        jnp.any(jnp.isfinite(x) & ~jnp.isfinite(y))
        for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
        if jnp.issubdtype(y.dtype, jnp.floating)
    ]
    return jnp.any(jnp.stack(changes)) if changes else jnp.array(False)


def _first(wrong: jax.Array) -> jax.Array:
    first = jnp.argmax(wrong).astype(jnp.int32)
    return jnp.where(jnp.any(wrong), first, wrong.shape[0])


def init_lanes(
    algorithm: Algorithm, configs: Any, lanes: Sequence[Lane], shared: Shared, batch_size: int
) -> tuple[Learner, PRNGKey]:
    """Fresh learners and sampling keys with a leading axis of lanes, on the host.

    The values of a lane depend only on its own seed. The lanes are made one by one: under `vmap`,
    the last bit of the initial weights would depend on the number of lanes.
    """
    program = Program.of(algorithm)
    results = [
        _init(program, batch_size, _lane(configs, i), jax.random.key(lane.seed), shared)
        for i, lane in enumerate(lanes)
    ]
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *map(unwrap_keys, results))
    return wrap_keys(stacked, results[0])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(program, batch_size, config, key, shared):
    algorithm, collector = program.algorithm, shared.collector
    spec = algorithm.batch_spec(config)
    init_key, sampling_key, example_key = jax.random.split(key, 3)
    if collector is None:
        batch = data.sample(shared.logs, example_key, batch_size, spec)
        return Learner(algorithm.init(config, init_key, batch)), sampling_key
    batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), example(shared, spec))
    state = algorithm.init(config, init_key, batch)
    # The example needs no key here, as nothing is drawn.
    seen = experience.begin(collector, algorithm, config, state, example_key, shared.first_log)
    return Learner(state, seen), sampling_key


def _lane(tree: PyTree, i: int) -> PyTree:
    return jax.tree.map(lambda x: x[i], tree)
