"""Updates per second of every algorithm, beside the floor that its matrix products set.

    python benchmarks/throughput.py

All modules of the library that have the names of an algorithm are measured, at their defaults;
`--hidden_sizes=256,256` gives all networks these layers. The floor counts the products of an
update from its jaxpr (see `products.py`), and times exactly these, at their shapes, in the same
process, in turns with the update. The fraction of the floor says how much of an update is matrix
products; the rest is element-wise work, optimisers, random numbers, gathers. Batches are drawn
from a dataset inside the compiled loop, as in a run.

For 13 of 18 methods the count equals one by hand. For five it is larger:

- awac 6 %, crr 8 %, cql 1 %: the policy is applied twice at the same observations and parameters,
  for its samples and for its loss. The compiler computes these products once, so the true floor is
  lower.
- algae_dice 1.5 %: the gradient of the orthogonality penalty is two products for each kernel, and
  the count by hand had one.
- kl_control 66 %: either the prior or the policy is fitted in an update, by two `cond`s, and both
  expensive branches are counted.
"""

from __future__ import annotations

from typing import Any

import algorithms
import jax
import numpy as np
import products
import timing
from absl import app, flags

import ddm
from ddm import runner
from ddm.types import num_minibatches

_BATCH = flags.DEFINE_integer("batch_size", 256, "Rows of one gradient step.")
_ONLY = flags.DEFINE_list("only", [], "Names of algorithms; empty: all.")
_HIDDEN = flags.DEFINE_list("hidden_sizes", [], "Hidden layers; empty: each algorithm's default.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Measurements; the median counts.")
_SECONDS = flags.DEFINE_float("seconds", 1.0, "Length of one measurement.")
_CSV = flags.DEFINE_string("csv", "", "File for the table, beside the screen.")


def main(_):
    """One row an algorithm."""
    found = ddm.algorithms()
    if unknown := [name for name in _ONLY.value if name not in found]:
        raise app.UsageError(f"--only={unknown[0]} is unknown; choose among {', '.join(found)}")
    rows = []
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, batch {_BATCH.value}")
    header = ("algorithm", "updates/s", "ms", "floor ms", "fraction", "compile s", "GFLOP/s", "MiB")
    print("{:21}{:>11}{:>9}{:>10}{:>10}{:>11}{:>9}{:>7}".format(*header))
    for name in _ONLY.value or found:
        row = measure(name, found[name])
        rows.append(row)
        print(
            "{algorithm:21}{updates_per_second:11.0f}{milliseconds:9.3f}{floor_milliseconds:10.3f}"
            "{fraction_of_floor:10.2f}{compile_seconds:11.1f}{gflops:9.0f}{peak_mib:7.0f}".format(
                **row
            ),
            flush=True,
        )
        if _CSV.value:  # what is done is kept
            runner.write_csv(_CSV.value, rows)


def measure(name: str, algorithm: Any) -> dict[str, Any]:
    """Times updates and their products in turns."""
    overrides = {"hidden_sizes": tuple(map(int, _HIDDEN.value))} if _HIDDEN.value else {}
    config, dataset = algorithms.configure(name, algorithm, _BATCH.value, **overrides)
    run, compile_seconds, steps = timing.compile_updates(
        algorithm, config, dataset, _BATCH.value, _SECONDS.value
    )
    floor, operations = floor_of(algorithm, config, dataset, _BATCH.value, _SECONDS.value)
    updates, floors = [], []
    for _ in range(_REPEATS.value):
        updates.append(run() / steps)
        floors.append(floor())
    seconds = float(np.median(updates))
    return {
        "algorithm": name,
        "updates_per_second": 1 / seconds,
        "milliseconds": 1e3 * seconds,
        "floor_milliseconds": 1e3 * float(np.median(floors)),
        "fraction_of_floor": float(np.median(np.array(floors) / np.array(updates))),
        "compile_seconds": compile_seconds,
        "gflops": operations / seconds / 1e9,
        "peak_mib": timing.peak_mib(),
    }


def floor_of(
    algorithm: Any, config: Any, dataset: Any, batch_size: int, seconds: float
) -> tuple[Any, float]:
    """A function that times the products of a gradient step, and their operations."""
    learner = timing.last_stage(algorithm, config)
    counted = algorithms.count_products(learner, config, dataset, batch_size)
    if not counted:  # a table
        return lambda: 0.0, 0.0
    minibatches = num_minibatches(learner.batch_spec(config))
    timer = products.floor_timer(counted, minibatches, seconds)
    return timer, products.operations(counted) / minibatches


if __name__ == "__main__":
    app.run(main)
