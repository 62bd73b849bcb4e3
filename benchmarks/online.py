"""Online SAC's environment steps per second, beside those of Stable-Baselines3's SAC.

    python3 -m venv sb3 && sb3/bin/pip install stable-baselines3 .
    python benchmarks/online.py --sb3_python=sb3/bin/python

Both learn in the same environment, we in its pure form by `ddm.fit_online`, Stable-Baselines3 in
its gymnasium face. Both have the same layers, batch size, learning rates and buffer, and one
update of critics, policy and temperature after each environment step. Steps count all seeds
together.

Several seeds on a few cores can be arranged in two ways, and each library is measured in both, in
turns: ours as lanes one after the other (what the runner does on a CPU) or in one vmapped program;
Stable-Baselines3's as one process with all threads, or as one single-threaded process per core.
The ratio compares the faster arrangement of each. Returns are those of the last training episodes,
to show that both learn.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from absl import app, flags
from peer import Peer

import ddm
from ddm import envs, runner
from ddm.off_policy import sac

_PYTHON = flags.DEFINE_string("sb3_python", "", "Python with stable-baselines3 and ddm.")
_ENVIRONMENT = flags.DEFINE_string("environment", "PointMass-8-v0", "A pure environment.")
_SEEDS = flags.DEFINE_integer("seeds", 8, "Seeds that learn.", 1)
_CORES = flags.DEFINE_integer("cores", os.cpu_count(), "Cores of the machine.", 1)
_TURNS = flags.DEFINE_integer("turns", 5, "Measurements of each; the median counts.", 1)
_LENGTH = flags.DEFINE_float("turn_seconds", 10.0, "Length of one measurement.", 0.1)
_BATCH = flags.DEFINE_integer("batch_size", 256, "Rows of one update.", 1)
_HIDDEN = flags.DEFINE_list("hidden_sizes", ["256", "256"], "Hidden layers of all networks.")
_RANDOM = flags.DEFINE_integer("random_steps", 1_000, "Random steps before the first update.", 1)
_CAPACITY = flags.DEFINE_integer("capacity", 100_000, "Transitions that a buffer holds.", 1)
_CSV = flags.DEFINE_string("csv", "", "File for the table, beside the screen.")

# Takes about so many seconds, and returns environment steps per second and a mean return.
Measure = Callable[[float], tuple[float, float]]


def main(_):
    """Measures all arrangements in turns."""
    peers = start_peers(min(_CORES.value, _SEEDS.value), threads=1)
    alone = start_peers(1, threads=_CORES.value)
    contestants: dict[tuple[str, str], Measure] = {
        ("ddm", "lanes one after the other"): Lanes(one_after_the_other).measure,
        ("ddm", "lanes by vmap"): Lanes(jax.vmap).measure,
        ("stable_baselines3", f"processes: {len(peers)}"): SideBySide(peers).measure,
        ("stable_baselines3", f"threads: {_CORES.value}"): SideBySide(alone).measure,
    }
    found = {key: [] for key in contestants}
    for turn in range(_TURNS.value):
        for key, measure in contestants.items():
            found[key].append(measure(_LENGTH.value))
            print(f"turn {turn + 1}: {', '.join(key)}: {found[key][-1][0]:.0f} steps/s", flush=True)
    versions = peers[0].ask(do="versions")
    for peer in peers + alone:
        peer.close()
    rows = [make_row(*key, turns, versions) for key, turns in found.items()]
    report(rows)
    if _CSV.value:
        runner.write_csv(_CSV.value, rows)


def one_after_the_other(train: Callable[[Any, jax.Array], Any]) -> Callable[[Any, jax.Array], Any]:
    """Lanes in one program, each with the whole machine."""
    return lambda learners, keys: jax.lax.map(lambda lane: train(*lane), (learners, keys))


class Lanes:
    """All seeds of ours in one program; the state goes on from call to call."""

    def __init__(self, over_lanes: Callable[[Any], Any]):
        environment = envs.make(_ENVIRONMENT.value)
        spec = ddm.CollectSpec(capacity=_CAPACITY.value, random_steps=_RANDOM.value)
        collector = ddm.Collector.create(environment, spec)
        config = sac.Config(hidden_sizes=layers())

        def train(steps: int, learner: Any, key: jax.Array) -> Any:
            learner, metrics = ddm.fit_online(
                sac, config, collector, key, steps, batch_size=_BATCH.value, learner=learner
            )
            return learner, metrics["collect/return"][-1]

        self._keys = jax.random.split(jax.random.key(0), _SEEDS.value)
        self._train = jax.jit(
            lambda learners, keys, steps: over_lanes(
                lambda learner, key: train(steps, learner, key)
            )(learners, keys),
            static_argnums=2,
            donate_argnums=0,
        )
        self._learners, _ = jax.jit(jax.vmap(lambda key: train(1, None, key)))(self._keys)
        self._steps = 0  # of each seed in one measurement; 0: not known yet

    def measure(self, seconds: float) -> tuple[float, float]:
        """Environment steps per second of all seeds, and the mean return."""
        if not self._steps:
            self._run(16)  # compiles
            rate, _ = self._run(16)
            self._steps = max(16, int(seconds * rate / _SEEDS.value))
            self._run(self._steps)
        return self._run(self._steps)

    def _run(self, steps: int) -> tuple[float, float]:
        start = time.perf_counter()
        self._learners, returns = jax.block_until_ready(
            self._train(self._learners, self._keys, steps)
        )
        return _SEEDS.value * steps / (time.perf_counter() - start), float(jnp.mean(returns))


class SideBySide:
    """Processes of the other library that learn at the same time, one seed each."""

    def __init__(self, peers: list[Peer]):
        self._peers = peers
        self._steps = 0

    def measure(self, seconds: float) -> tuple[float, float]:
        """Environment steps per second of all processes, and the mean return."""
        if not self._steps:
            rate, _ = self._run(200)
            self._steps = max(200, int(seconds * rate / len(self._peers)))
        return self._run(self._steps)

    def _run(self, steps: int) -> tuple[float, float]:
        for peer in self._peers:
            peer.send(do="learn", steps=steps)
        answers = [peer.receive() for peer in self._peers]
        rate = sum(steps / seconds for seconds, _ in answers)
        return rate, statistics.mean(found for _, found in answers)


def layers() -> tuple[int, ...]:
    """Hidden layers of all networks."""
    return tuple(map(int, _HIDDEN.value))


def start_peers(count: int, threads: int) -> list[Peer]:
    """Processes with a seed each, with our settings by the other library's names."""
    peers = [
        Peer(_PYTHON.value, "sb3_worker.py", flag="sb3_python", library="stable-baselines3")
        for _ in range(count)
    ]
    config = sac.Config()
    for seed, peer in enumerate(peers):
        peer.ask(
            do="start",
            environment=_ENVIRONMENT.value,
            seed=seed,
            threads=threads,
            random_steps=_RANDOM.value,
            layers=list(layers()),
            batch_size=_BATCH.value,
            buffer_size=_CAPACITY.value,
            learning_rate=config.critic_learning_rate,
            gamma=config.discount,
            tau=config.target_rate,
        )
    return peers


def make_row(
    library: str, arrangement: str, turns: list[tuple[float, float]], peer: dict[str, str]
) -> dict[str, Any]:
    """One row of the table: medians over turns."""
    return {
        "library": library,
        "arrangement": arrangement,
        "steps_per_second": statistics.median(rate for rate, _ in turns),
        "slowest": min(rate for rate, _ in turns),
        "fastest": max(rate for rate, _ in turns),
        "return": turns[-1][1],
        "environment": _ENVIRONMENT.value,
        "seeds": _SEEDS.value,
        "batch_size": _BATCH.value,
        "hidden_sizes": " ".join(_HIDDEN.value),
        "cores": _CORES.value,
        "turns": len(turns),
        "python": platform.python_version(),
        "ddm": ddm.__version__,
        "jax": jax.__version__,
        **peer,
    }


def report(rows: list[dict[str, Any]]) -> None:
    """A line per arrangement, then the ratio of the fastest."""
    print(
        "{environment}, {seeds} seeds, batch {batch_size}, layers {hidden_sizes}, {cores} cores, "
        "jax {jax}, stable-baselines3 {stable_baselines3}, torch {torch}".format(**rows[0])
    )
    for row in rows:
        print(
            "{library:18}{arrangement:26}{steps_per_second:8.0f} steps/s [{slowest:.0f}, "
            "{fastest:.0f}], return {return:.1f}".format(**row)
        )
    best = {
        library: max(row["steps_per_second"] for row in rows if row["library"] == library)
        for library in ("ddm", "stable_baselines3")
    }
    print(f"ratio {best['ddm'] / best['stable_baselines3']:.1f}")


if __name__ == "__main__":
    app.run(main)
