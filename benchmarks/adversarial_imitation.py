"""Environment steps per second of GAIL on PPO, and of PPO alone, beside two other libraries.

    python3 -m venv peer && peer/bin/pip install imitation==1.0.1 "setuptools<81"
    peer/bin/pip install jax flax optax chex distrax
    python benchmarks/adversarial_imitation.py --imitation_python=peer/bin/python

`imitation` runs GAIL on the PPO of Stable-Baselines3, which is measured alone, too. All learn in
the same environment, we in its pure form by one `ddm.fit_online` for all seeds, the others in its
gymnasium face. All have the same layers, copies of the environment, windows, epochs, mini-batches
and step sizes, and as many steps of the discriminator on as many rows. Steps count all seeds
together. Demonstrations are the same episodes of the environment's expert.

Several seeds on a few cores are arranged as in `online.py`: ours as lanes one after the other or in
one vmapped program; theirs as one process with all threads, or as one single-threaded process per
core. Each library's faster arrangement counts.

Returns are those of the environment's own reward after `--learn_steps` steps of each seed, which
are taken before the measurement: whoever is fast at learning nothing would be seen.

The committed table is of --learn_steps=4096 --turns=1 --turn_seconds=5.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from peer import Peer

import ddm
from ddm import data, envs, runner, training
from ddm.envs import point_mass
from ddm.imitation import gail
from ddm.on_policy import ppo
from ddm.types import BatchSpec, num_minibatches

_PYTHON = flags.DEFINE_string("imitation_python", "", "Python with imitation and what ddm needs.")
_SEEDS = flags.DEFINE_integer("seeds", 8, "Seeds that learn.", 1)
_CORES = flags.DEFINE_integer("cores", os.cpu_count() or 1, "Cores of the machine.", 1)
_TURNS = flags.DEFINE_integer("turns", 3, "Measurements of each; the median counts.", 1)
_LENGTH = flags.DEFINE_float("turn_seconds", 10.0, "Length of one measurement.", 0.1)
_LEARN = flags.DEFINE_integer("learn_steps", 100_000, "Steps of each seed before them.", 1)
_EPISODES = flags.DEFINE_integer("demonstrations", 20, "Episodes of the expert.", 1)
_COPIES = flags.DEFINE_integer("copies", 8, "Copies of the environment of each seed.", 1)
_WINDOW = flags.DEFINE_integer("window", 128, "Steps of each copy before an update.", 1)
_HIDDEN = flags.DEFINE_list("hidden_sizes", ["64", "64"], "Hidden layers of policy and values.")
_ROWS = flags.DEFINE_integer("batch_size", 256, "Rows of a side in a discriminator's step.", 1)
_CSV = flags.DEFINE_string("csv", "", "File for the table, beside the screen.")

ENVIRONMENT = "PointMass-8-v0"
EPOCHS, MINIBATCHES, DISCRIMINATOR_STEPS, RATE = 10, 16, 4, 1e-3
OURS, PEERS = "ddm", {"gail": "imitation", "ppo": "stable_baselines3"}


def main(_):
    """Measures all arrangements in turns."""
    log = demonstrate(_EPISODES.value)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demonstrations.npz"
        save(log, path)
        for method in PEERS:
            rows += compare(method, log, path)
    report(rows)
    if _CSV.value:
        runner.write_csv(_CSV.value, rows)


def demonstrate(episodes: int) -> data.Dataset:
    """Episodes of the environment's expert."""
    environment = envs.make(ENVIRONMENT)
    params = environment.default_params
    policy = point_mass.behavior_policy("expert", params)
    drawn = envs.collect(environment, policy, jax.random.key(0), num_episodes=episodes)
    return data.from_episodes(drawn, action_space=environment.action_space(params), name="expert")


def save(log: data.Dataset, path: Path) -> None:
    """The log's transitions as arrays, for the other library."""
    spec = BatchSpec(
        fields=("observations", "actions", "next_observations", "terminations"), whole_dataset=True
    )
    rows = data.sample(log, jax.random.key(0), 1, spec)
    arrays: dict[str, Any] = {name: np.asarray(getattr(rows, name)) for name in spec.fields}
    np.savez(path, **arrays)


def compare(method: str, log: data.Dataset, path: Path) -> list[dict[str, Any]]:
    """Both libraries' rows of one method, each in both arrangements."""
    found: dict[tuple[str, str], list[float]] = {}
    processes = min(_CORES.value, _SEEDS.value)
    arrangements: dict[tuple[str, str], Callable[[], Any]] = {
        (OURS, "lanes one after the other"): lambda: Lanes(method, log, one_after_the_other),
        (OURS, "lanes by vmap"): lambda: Lanes(method, log, jax.vmap),
        (PEERS[method], f"processes: {processes}"): lambda: SideBySide(method, path, processes, 1),
        (PEERS[method], f"threads: {_CORES.value}"): lambda: SideBySide(
            method, path, 1, _CORES.value
        ),
    }
    contestants: dict[tuple[str, str], Any] = {}
    for key, start in arrangements.items():
        contestants[key] = start()
        score = contestants[key].learn(_LEARN.value)
        print(f"{method}, {', '.join(key)}: return {score:.1f} after {_LEARN.value} steps a seed")
        found[key] = []
    for turn in range(_TURNS.value):
        for key, contestant in contestants.items():
            rate = contestant.measure(_LENGTH.value)
            found[key].append(rate)
            print(f"{method}, turn {turn + 1}: {', '.join(key)}: {rate:.0f} steps/s", flush=True)
    versions = contestants[PEERS[method], f"threads: {_CORES.value}"].versions()
    rows = [
        make_row(method, *key, found[key], contestants[key].score, versions) for key in contestants
    ]
    for contestant in contestants.values():
        contestant.close()
    return rows


def one_after_the_other(train: Callable[[Any, jax.Array], Any]) -> Callable[[Any, jax.Array], Any]:
    """Lanes in one program, each with the whole machine."""
    return lambda learners, keys: jax.lax.map(lambda lane: train(*lane), (learners, keys))


def make_config(method: str) -> Any:
    """Our settings, which the other library gets by its names."""
    shared = {
        "hidden_sizes": layers(), "window": _WINDOW.value, "num_epochs": EPOCHS,
        "num_minibatches": MINIBATCHES, "decay_steps": 0,
    }  # fmt: skip
    if method == "ppo":
        return ppo.Config(**shared)
    return gail.Config(
        **shared,
        discriminator_steps=DISCRIMINATOR_STEPS,
        discriminator_learning_rate=RATE,
        discriminator_hidden_sizes=(32, 32),
    )


class Lanes:
    """All seeds of ours in one program; the state goes on from call to call."""

    def __init__(self, method: str, log: data.Dataset, over_lanes: Callable[[Any], Any]):
        algorithm: Any = {"gail": gail, "ppo": ppo}[method]
        config = make_config(method)
        spec = dataclasses.replace(algorithm.collect_spec(config), copies=_COPIES.value)
        collector = ddm.Collector.create(envs.make(ENVIRONMENT), spec)
        given = log if method == "gail" else None
        per_update = num_minibatches(algorithm.batch_spec(config))

        def train(updates: int, learner: Any, key: jax.Array) -> Any:
            learner, metrics = training.fit_online(
                algorithm, config, collector, key, updates * per_update,
                log=given, batch_size=_ROWS.value, learner=learner,
            )  # fmt: skip
            return learner, metrics["collect/return"][-1]

        self._keys = jax.random.split(jax.random.key(0), _SEEDS.value)
        self._train = jax.jit(
            lambda learners, keys, updates: over_lanes(
                lambda learner, key: train(updates, learner, key)
            )(learners, keys),
            static_argnums=2,
            donate_argnums=0,
        )
        self._learners, _ = jax.jit(jax.vmap(lambda key: train(1, None, key)))(self._keys)
        self._updates = 0  # of each seed in one measurement; 0: not known yet
        self.score = 0.0

    def learn(self, steps: int) -> float:
        """The mean return after so many steps of each seed."""
        _, self.score = self._run(max(1, steps // (_COPIES.value * _WINDOW.value)))
        return self.score

    def measure(self, seconds: float) -> float:
        """Environment steps per second of all seeds."""
        if not self._updates:
            self._run(2)  # compiles
            rate, _ = self._run(2)
            each = _SEEDS.value * _COPIES.value * _WINDOW.value  # steps of an update
            self._updates = max(2, int(seconds * rate / each))
            self._run(self._updates)
        return self._run(self._updates)[0]

    def close(self) -> None:
        """Nothing is to be ended."""

    def _run(self, updates: int) -> tuple[float, float]:
        start = time.perf_counter()
        self._learners, returns = jax.block_until_ready(
            self._train(self._learners, self._keys, updates)
        )
        seconds = time.perf_counter() - start
        steps = _SEEDS.value * updates * _COPIES.value * _WINDOW.value
        return steps / seconds, float(jnp.mean(returns))


class SideBySide:
    """Processes of the other library that learn at the same time, one seed each."""

    def __init__(self, method: str, path: Path, count: int, threads: int):
        self._peers = [
            Peer(_PYTHON.value, "imitation_worker.py", flag="imitation_python", library="imitation")
            for _ in range(count)
        ]
        config = make_config(method)
        for seed, peer in enumerate(self._peers):
            peer.ask(
                do="start",
                environment=ENVIRONMENT,
                seed=seed,
                threads=threads,
                copies=_COPIES.value,
                window=_WINDOW.value,
                layers=list(layers()),
                discriminator_layers=[32, 32],
                demonstrations=str(path) if method == "gail" else "",
                rows=_ROWS.value,
                discriminator_steps=DISCRIMINATOR_STEPS,
                discriminator_learning_rate=RATE,
                batch_size=_COPIES.value * _WINDOW.value // MINIBATCHES,
                n_epochs=EPOCHS,
                learning_rate=config.actor_learning_rate,
                gamma=config.discount,
                gae_lambda=config.trace_decay,
                clip_range=config.clip_ratio,
                max_grad_norm=config.max_gradient_norm,
            )
        self._steps = 0
        self.score = 0.0

    def learn(self, steps: int) -> float:
        """The mean return after so many steps of each seed."""
        _, self.score = self._run(steps)
        return self.score

    def measure(self, seconds: float) -> float:
        """Environment steps per second of all processes."""
        update = _COPIES.value * _WINDOW.value
        if not self._steps:
            rate, _ = self._run(update)
            self._steps = max(1, round(seconds * rate / len(self._peers) / update)) * update
        return self._run(self._steps)[0]

    def versions(self) -> dict[str, str]:
        """Of the libraries."""
        return self._peers[0].ask(do="versions")

    def close(self) -> None:
        """Ends the processes."""
        for peer in self._peers:
            peer.close()

    def _run(self, steps: int) -> tuple[float, float]:
        # Whole updates: both libraries go on until one is full.
        update = _COPIES.value * _WINDOW.value
        steps = -(-steps // update) * update
        for peer in self._peers:
            peer.send(do="learn", steps=steps)
        answers = [peer.receive() for peer in self._peers]
        rate = sum(steps / seconds for seconds, _ in answers)
        return rate, statistics.mean(found for _, found in answers)


def layers() -> tuple[int, ...]:
    """Hidden layers of policy and values."""
    return tuple(map(int, _HIDDEN.value))


def make_row(
    method: str, library: str, arrangement: str, rates: list[float], score: float, peer: Any
) -> dict[str, Any]:
    """One row of the table: medians over turns."""
    return {
        "method": method,
        "library": library,
        "arrangement": arrangement,
        "steps_per_second": statistics.median(rates),
        "slowest": min(rates),
        "fastest": max(rates),
        "return": score,
        "learn_steps": _LEARN.value,
        "environment": ENVIRONMENT,
        "seeds": _SEEDS.value,
        "copies": _COPIES.value,
        "window": _WINDOW.value,
        "hidden_sizes": " ".join(_HIDDEN.value),
        "cores": _CORES.value,
        "turns": len(rates),
        "python": platform.python_version(),
        "ddm": ddm.__version__,
        "jax": jax.__version__,
        **peer,
    }


def report(rows: list[dict[str, Any]]) -> None:
    """A line per arrangement, then the ratios of the fastest."""
    print(
        "{environment}, {seeds} seeds, layers {hidden_sizes}, {cores} cores, jax {jax}, imitation "
        "{imitation}, stable-baselines3 {stable_baselines3}, torch {torch}".format(**rows[0])
    )
    for row in rows:
        print(
            "{method:6}{library:18}{arrangement:26}{steps_per_second:8.0f} steps/s [{slowest:.0f}, "
            "{fastest:.0f}], return {return:.1f}".format(**row)
        )
    for method, peer in PEERS.items():
        best = {
            library: max(
                row["steps_per_second"]
                for row in rows
                if (row["method"], row["library"]) == (method, library)
            )
            for library in (OURS, peer)
        }
        print(f"{method}: {best[OURS] / best[peer]:.1f} times {peer}")


if __name__ == "__main__":
    app.run(main)
