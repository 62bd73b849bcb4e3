"""What runs on the device: fresh lanes, and the updates between two rows of metrics."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm import data
from ddm.runner.lanes import unwrap_keys, wrap_keys
from ddm.runner.sweep import Lane
from ddm.types import (
    Algorithm,
    Batch,
    BatchSpec,
    Identity,
    Metrics,
    PRNGKey,
    PyTree,
    program_key,
)

Interval = Callable[[Any, PyTree, PRNGKey, data.Dataset], tuple[PyTree, tuple[Metrics, Metrics]]]


@dataclasses.dataclass(frozen=True)
class Program:
    """An algorithm as the key of what is compiled of it: equal only with the same functions."""

    algorithm: Any = dataclasses.field(compare=False)
    functions: tuple[Any, ...]

    @classmethod
    def of(cls, algorithm: Algorithm) -> Program:
        """The algorithm as it is now; a module that is reloaded is another program."""
        return cls(algorithm, (Identity(algorithm), *program_key(algorithm)))


def make_interval(
    algorithm: Algorithm, spec: BatchSpec, batch_size: int, updates: int, *, freeze: bool = False
) -> Interval:
    """The program of one lane between two rows of metrics.

    It returns the state after `updates` updates, and for each metric its mean over them and the
    index of the first update where it is not finite (`updates` if there is none).

    Args:
      algorithm: the algorithm module.
      spec: of its batch.
      batch_size: rows per gradient step.
      updates: how many.
      freeze: keep the state from before the first update with a metric that is not finite. The
        lane then stays where it is, also in later intervals: its state holds the step and the
        key, so that the same update is tried again and fails again. For several lanes, of which
        one must not end the others; a single lane is spared the selection.
    """
    return _make_interval(Program.of(algorithm), spec, batch_size, updates, freeze)


@functools.lru_cache(maxsize=64)  # the same functions again are the same program, compiled once
def _make_interval(
    program: Program, spec: BatchSpec, batch_size: int, updates: int, freeze: bool
) -> Interval:
    def run_interval(config, state, sampling_key, dataset):
        def step(carry, _):
            state, alive = carry
            # By the step's number, so that the batches do not depend on how a run is cut up.
            key = jax.random.fold_in(sampling_key, state.step)
            batch = data.sample(dataset, key, batch_size, spec)
            after, metrics = program.algorithm.update(config, state, batch)
            if freeze:
                alive &= _all_finite(metrics)
                after = jax.tree.map(functools.partial(jnp.where, alive), after, state)
            return (after, alive), metrics

        (state, _), metrics = jax.lax.scan(step, (state, jnp.array(True)), length=updates)
        means = jax.tree.map(lambda values: jnp.mean(values, axis=0), metrics)
        return state, (means, jax.tree.map(_first_not_finite, metrics))

    return run_interval


def _all_finite(metrics: Metrics) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(value) for value in metrics.values()]))


def _first_not_finite(values: jax.Array) -> jax.Array:
    wrong = ~jnp.isfinite(values)
    first = jnp.argmax(wrong).astype(jnp.int32)
    return jnp.where(jnp.any(wrong), first, values.shape[0])


def init_lanes(
    algorithm: Algorithm,
    configs: Any,
    lanes: Sequence[Lane],
    dataset: data.Dataset,
    batch_size: int,
) -> tuple[PyTree, PRNGKey]:
    """Fresh states and sampling keys with a leading axis of lanes, on the host.

    What a lane gets depends on its own seed only. The lanes are made one by one: under `vmap`,
    the initial weights would differ in the last bit with the number of lanes.
    """
    program = Program.of(algorithm)
    results = [
        _init(program, batch_size, _lane(configs, i), jax.random.key(lane.seed), dataset)
        for i, lane in enumerate(lanes)
    ]
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *map(unwrap_keys, results))
    return wrap_keys(stacked, results[0])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(program, batch_size, config, key, dataset):
    algorithm = program.algorithm
    init_key, sampling_key, example_key = jax.random.split(key, 3)
    batch = data.sample(dataset, example_key, batch_size, algorithm.batch_spec(config))
    return algorithm.init(config, init_key, batch), sampling_key


def _lane(tree: PyTree, i: int) -> PyTree:
    return jax.tree.map(lambda x: x[i], tree)


def example_batch(dataset: data.Dataset, spec: BatchSpec) -> Batch:
    """The shapes and types of a batch of one row per mini-batch; nothing is drawn."""
    return jax.eval_shape(lambda: data.sample(dataset, jax.random.key(0), 1, spec))
