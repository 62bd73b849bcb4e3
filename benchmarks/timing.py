"""What the benchmarks share: a data set of noise, and timed scans of updates."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ddm import data


def random_dataset(
    observation_size: int, action_size: int, transitions: int = 100_000, num_actions: int = 0
) -> data.Dataset:
    """Random transitions in episodes of 1,000; with `num_actions`, actions are indices."""
    random = np.random.default_rng(0)
    truncations = np.arange(1, transitions + 1) % 1_000 == 0
    observations = random.normal(size=(transitions, observation_size)).astype(np.float32)
    actions = np.tanh(random.normal(size=(transitions, action_size))).astype(np.float32)
    if num_actions > 0:
        actions = random.integers(num_actions, size=transitions, dtype=np.int32)
    return data.from_arrays(
        observations,
        actions,
        random.normal(size=transitions).astype(np.float32),
        np.zeros(transitions, bool),
        truncations,
        next_observations=np.roll(observations, -1, axis=0),
    )


def compile_updates(
    algorithm: Any, config: Any, dataset: data.Dataset, batch_size: int, seconds: float
) -> tuple[Callable[[], float], float, int]:
    """A function that runs a scan of updates for about `seconds` and returns how long it took.

    Returns:
      The function, the seconds of compilation, and the gradient steps in one call. The state
      goes on from call to call.
    """
    spec = algorithm.batch_spec(config)

    def scan(config: Any, state: Any, key: jax.Array, dataset: data.Dataset, length: int) -> Any:
        def one(state: Any, _: None) -> tuple[Any, Any]:
            batch_key = jax.random.fold_in(key, state.step)
            return algorithm.update(
                config, state, data.sample(dataset, batch_key, batch_size, spec)
            )

        return jax.lax.scan(one, state, None, length=length)

    compiled = jax.jit(scan, static_argnames="length", donate_argnums=1)
    key = jax.random.key(0)
    state = algorithm.init(config, key, data.sample(dataset, key, spec.minibatches, spec))

    def call(state: Any, length: int) -> tuple[Any, float]:
        start = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(config, state, key, dataset, length=length))
        return state, time.perf_counter() - start

    state, first = call(state, 4)
    state, again = call(state, 4)
    length = max(4, int(4 * seconds / again))
    state, _ = call(state, length)
    box = [state]

    def run() -> float:
        box[0], elapsed = call(box[0], length)
        return elapsed

    run()
    return run, first - again, length * spec.minibatches


def median_seconds(function: Callable[[], Any], repeats: int, budget: float = 10.0) -> float:
    """Median time of a call whose results are waited for; the first call is not counted.

    After `budget` seconds no further call begins, so that of very slow ones a single one counts.
    """
    jax.block_until_ready(function())
    times: list[float] = []
    while len(times) < repeats and sum(times) < budget:
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def peak_mib() -> float:
    """Peak memory of the device, or of this process so far on a CPU."""
    statistics = jax.devices()[0].memory_stats()
    if statistics:
        return statistics["peak_bytes_in_use"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
