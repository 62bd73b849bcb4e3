"""Measures lanes run at once (vmap) against one after the other (sequential).

    python benchmarks/lanes.py --algorithm=ddm.policy_constraint.td3_bc --counts=1,4,8

For each number of lanes it prints gradient steps per second of all lanes together in both modes,
and their ratio. The two are measured in turns, and the best of the turns counts.
"""

from __future__ import annotations

import importlib
import time

import jax
import numpy as np
from absl import app, flags

from ddm import data
from ddm.runner.lanes import Layout, map_lanes
from ddm.runner.program import init_lanes, make_interval
from ddm.runner.sources import Shared
from ddm.runner.sweep import expand

_ALGORITHM = flags.DEFINE_string("algorithm", "ddm.policy_constraint.td3_bc", "Algorithm module.")
_COUNTS = flags.DEFINE_list("counts", ["1", "4", "8"], "Numbers of lanes.")
_UPDATES = flags.DEFINE_integer("updates", 200, "Updates in one call of the device.")
_TURNS = flags.DEFINE_integer("turns", 3, "Calls of each mode, in turns.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Transitions in a batch.")

MODES = ("vmap", "sequential")


def make_dataset(num_transitions: int = 20_000) -> data.Dataset:
    """Random transitions with the shapes of Hopper."""
    generator = np.random.default_rng(0)
    return data.from_arrays(
        observations=generator.normal(size=(num_transitions, 11)).astype(np.float32),
        actions=generator.uniform(-1, 1, (num_transitions, 3)).astype(np.float32),
        rewards=generator.normal(size=num_transitions).astype(np.float32),
        terminations=np.arange(num_transitions) % 500 == 499,
    )


def measure(algorithm, dataset: data.Dataset, count: int) -> dict[str, float]:
    """Gradient steps per second of `count` lanes together, for each mode."""
    configs, lanes = expand(algorithm.Config(), seeds=count)
    spec = algorithm.batch_spec(configs)
    layout = Layout.create(count, devices=1)
    log = Shared(dataset, None, 0.5)
    shared = layout.replicate(log)
    interval = make_interval(algorithm, _BATCH_SIZE.value, _UPDATES.value)
    programs = {mode: map_lanes(interval, mode, layout.devices) for mode in MODES}
    states, best = {}, dict.fromkeys(MODES, 0.0)
    for mode in MODES:  # compiles
        state, keys = layout.place(init_lanes(algorithm, configs, lanes, log, _BATCH_SIZE.value))
        state = (state, layout.place(np.ones(count, bool)))
        config = layout.place(configs)
        states[mode], _ = jax.block_until_ready(programs[mode](config, state, keys, shared))
    for _ in range(_TURNS.value):
        for mode in MODES:
            started = time.perf_counter()
            states[mode], _ = jax.block_until_ready(
                programs[mode](config, states[mode], keys, shared)
            )
            steps = count * _UPDATES.value * spec.minibatches
            best[mode] = max(best[mode], steps / (time.perf_counter() - started))
    return best


def main(_) -> None:
    """Prints the table."""
    algorithm, dataset = importlib.import_module(_ALGORITHM.value), make_dataset()
    print(f"{_ALGORITHM.value} on {jax.devices()[0].device_kind}, batch {_BATCH_SIZE.value}")
    print(f"{'lanes':>5} {'vmap':>10} {'sequential':>10} {'vmap / sequential':>18}")
    for count in map(int, _COUNTS.value):
        rates = measure(algorithm, dataset, count)
        ratio = rates["vmap"] / rates["sequential"]
        print(f"{count:5} {rates['vmap']:10.0f} {rates['sequential']:10.0f} {ratio:18.2f}")


if __name__ == "__main__":
    app.run(main)
