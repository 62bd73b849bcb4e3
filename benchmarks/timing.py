"""What the benchmarks share: a data set of noise, and timed training."""

from __future__ import annotations

import functools
import resource
import time
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import ddm
from ddm import data
from ddm.types import num_minibatches, stages_of


def random_dataset(
    observation_size: int, action_size: int, transitions: int = 100_000, num_actions: int = 0
) -> data.Dataset:
    """Random vectors and real actions; with `num_actions`, actions are indices."""
    random = np.random.default_rng(0)
    observations = random.normal(size=(transitions, observation_size)).astype(np.float32)
    actions = np.tanh(random.normal(size=(transitions, action_size))).astype(np.float32)
    if num_actions > 0:
        actions = random.integers(num_actions, size=transitions, dtype=np.int32)
    return random_log(observations, actions)


def random_log(observations: np.ndarray, actions: np.ndarray) -> data.Dataset:
    """These transitions with random rewards, in episodes of 1,000."""
    transitions = len(observations)
    return data.from_arrays(
        observations,
        actions,
        np.random.default_rng(1).normal(size=transitions).astype(np.float32),
        truncations=np.arange(1, transitions + 1) % 1_000 == 0,
        next_observations=np.roll(observations, -1, axis=0),
    )


def last_stage(algorithm: Any, config: Any) -> Any:
    """The algorithm itself; of one with stages the last stage, where a run spends its time."""
    if not hasattr(algorithm, "stages"):
        return algorithm
    stage = stages_of(algorithm, config)[-1]
    return types.SimpleNamespace(
        Config=algorithm.Config,
        init=algorithm.init,
        update=stage.update,
        batch_spec=lambda config: stage.batch_spec,
    )


def compile_updates(
    algorithm: Any, config: Any, dataset: data.Dataset, batch_size: int, seconds: float
) -> tuple[Callable[[], float], float, int]:
    """A function that runs `ddm.fit` for about `seconds` and returns how long it took.

    Returns:
      The function, the seconds of compilation, and the gradient steps in one call. The state
      goes on from call to call.
    """
    algorithm = last_stage(algorithm, config)
    minibatches = num_minibatches(algorithm.batch_spec(config))

    @functools.partial(jax.jit, static_argnames="num_steps", donate_argnames="state")
    def train(config: Any, state: Any, key: jax.Array, dataset: Any, num_steps: int) -> Any:
        return ddm.fit(
            algorithm, config, dataset, key, num_steps, batch_size=batch_size, state=state
        )

    key = jax.random.key(0)
    example = data.sample(dataset, key, minibatches, algorithm.batch_spec(config))
    state = algorithm.init(config, key, example)

    def call(state: Any, updates: int) -> tuple[Any, float]:
        start = time.perf_counter()
        done = train(config, state, key, dataset, num_steps=updates * minibatches)
        state, _ = jax.block_until_ready(done)
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
    return run, first - again, length * minibatches


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
