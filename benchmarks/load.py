"""How long a Minari dataset takes to load, beside minari's own reading, episode by episode.

    python benchmarks/load.py

Two sets of random numbers are written to a temporary folder: one of long episodes, read from HDF5
every time, and one of many short ones, converted once to a memory-mapped cache. Each time is the
best of a few. minari's time is that of collecting its episodes in a list: what any conversion to
contiguous arrays starts from.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from absl import app, flags

from ddm import data

FLAGS = flags.FLAGS
flags.DEFINE_integer("transitions", 1_000_000, "transitions in each set")
flags.DEFINE_integer("long_episodes", 1_000, "episodes in the first set")
flags.DEFINE_integer("short_episodes", 45_000, "episodes in the second set")
flags.DEFINE_integer("observation_size", 11, "numbers in an observation")
flags.DEFINE_integer("action_size", 3, "numbers in an action")
flags.DEFINE_integer("repeats", 3, "the best of so many times is printed")


def main(arguments: list[str]) -> None:
    """Writes both sets, measures, and prints a table."""
    del arguments
    folder = Path(tempfile.mkdtemp(prefix="ddm-load-"))
    os.environ["DDM_CACHE"] = str(folder / "cache")
    print(f"{FLAGS.transitions} transitions, {os.cpu_count()} cores")
    print(f"{'set':<28}{'read':<20}{'ddm':>9}{'minari':>9}{'ratio':>8}")
    try:
        long = write_dataset(folder / "long", FLAGS.long_episodes)
        floor, _ = measure(lambda: minari_episodes(long))
        print_row(FLAGS.long_episodes, "HDF5", measure(lambda: data.load(long))[0], floor)

        short = write_dataset(folder / "short", FLAGS.short_episodes)
        floor, _ = measure(lambda: minari_episodes(short), repeats=1)
        first, _ = measure(lambda: data.load(short, cache=True), repeats=1)
        print_row(FLAGS.short_episodes, "HDF5, into cache", first, floor)
        again, dataset = measure(lambda: data.load(short, cache=True))
        print_row(FLAGS.short_episodes, "from cache", again, floor)
        seconds, _ = measure(lambda: data.describe(dataset))
        print(f"describe of the second set: {seconds:.2f} s")
    finally:
        shutil.rmtree(folder)


def write_dataset(folder: Path, episodes: int) -> Path:
    """A Minari dataset as minari lays it out, in float64 as MuJoCo's environments give it."""
    lengths = np.full(episodes, FLAGS.transitions // episodes)
    lengths[: FLAGS.transitions % episodes] += 1
    rng = np.random.default_rng(0)
    folder.mkdir()
    with h5py.File(folder / "main_data.hdf5", "w", track_order=True) as file:
        for episode, steps in enumerate(lengths):
            group = file.create_group(f"episode_{episode}")
            group.attrs["id"] = episode
            group.attrs["total_steps"] = steps
            arrays = {
                "observations": rng.normal(size=(steps + 1, FLAGS.observation_size)),
                "actions": rng.uniform(-1, 1, (steps, FLAGS.action_size)).astype(np.float32),
                "rewards": rng.normal(size=steps),
                "terminations": np.arange(steps) == steps - 1,
                "truncations": np.zeros(steps, bool),
            }
            for name, array in arrays.items():
                limits = (None, *array.shape[1:])
                group.create_dataset(name, data=array, chunks=True, maxshape=limits)
    metadata = {
        "total_episodes": episodes,
        "total_steps": FLAGS.transitions,
        "data_format": "hdf5",
        "dataset_id": f"benchmark/{folder.name}-v0",
        "minari_version": minari.__version__,
        "observation_space": json.dumps(box(FLAGS.observation_size, np.inf, "float64")),
        "action_space": json.dumps(box(FLAGS.action_size, 1.0, "float32")),
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def box(size: int, bound: float, dtype: str) -> dict[str, Any]:
    """A space as Minari's metadata describe it."""
    bounds = {"low": [-bound] * size, "high": [bound] * size}
    return {"type": "Box", "dtype": dtype, "shape": [size], **bounds}


def minari_episodes(folder: Path) -> list[Any]:
    """All episodes of a dataset through minari."""
    return list(minari.MinariDataset(folder).iterate_episodes())


def measure(function: Callable[[], Any], repeats: int | None = None) -> tuple[float, Any]:
    """Seconds of the fastest call, and what it returned."""
    seconds, result = [], None
    for _ in range(repeats or FLAGS.repeats):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def print_row(episodes: int, kind: str, seconds: float, floor: float) -> None:
    """One line of the table; the ratio is how many times faster than minari."""
    label = f"{episodes} episodes"
    print(f"{label:<28}{kind:<20}{seconds:>7.2f} s{floor:>7.2f} s{floor / seconds:>7.1f}x")


if __name__ == "__main__":
    app.run(main)
