"""An ensemble of models: the price of seven members, a loop of PyTorch, and imagined episodes.

    python benchmarks/ensemble.py --torch_python=PATH --csv=benchmarks/results/ensemble.csv

Members have four layers of 200 units, data are of the size of Hopper. `member_ratio` is the time of
a gradient step of all members over that of one: at most their number if batching loses nothing.
`torch_ratio` is the time of a plain loop over members in PyTorch over ours; the loop runs in a
process of its own, in turns with ours. Rollouts are those of MOPO: 50,000 states, 5 steps,
with the policy and the penalty, in turns with the same in PyTorch. All times are medians.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import numpy as np
import timing
from absl import app, flags
from peer import Peer

import ddm
from ddm import data, runner
from ddm.model_based import dynamics, mopo
from ddm.model_based.parts import branched

_PYTHON = flags.DEFINE_string("torch_python", "", "Python in which torch is; empty: without it.")
_MEMBERS = flags.DEFINE_integer("members", 7, "Of the ensemble.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 50, "Gradient steps of one timed call.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed calls; the median counts.", lower_bound=1)
_STATES = flags.DEFINE_integer("states", 50_000, "Where imagined episodes begin.", lower_bound=1)
_LENGTH = flags.DEFINE_integer("length", 5, "Steps of an imagined episode.", lower_bound=1)
_THREADS = flags.DEFINE_integer("threads", 0, "Of PyTorch; 0: as many as there are cores.")
_CSV = flags.DEFINE_string("csv", "", "File for the table, beside the screen.")

OBSERVATION_SIZE, ACTION_SIZE = 11, 3  # of Hopper


def main(_):
    """Train in turns, roll out, print, write."""
    log = data.normalize(timing.random_dataset(OBSERVATION_SIZE, ACTION_SIZE, 50_000))
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {os.cpu_count()} cores")
    peer = start_peer(log) if _PYTHON.value else None
    seconds, imagined = training_seconds(log, peer), rollout_seconds(log, peer)
    if peer is not None:
        peer.close()
    row = {
        "device": jax.devices()[0].device_kind,
        "members": _MEMBERS.value,
        "step_ms": 1e3 * seconds["ensemble"],
        "one_member_ms": 1e3 * seconds["one"],
        "member_ratio": seconds["ensemble"] / seconds["one"],
        "torch_step_ms": 1e3 * seconds["torch"],
        "torch_ratio": seconds["torch"] / seconds["ensemble"],
        "states": _STATES.value,
        "length": _LENGTH.value,
        "rollout_seconds": imagined["ours"],
        "torch_rollout_seconds": imagined["torch"],
        "rollout_ratio": imagined["torch"] / imagined["ours"],
    }
    for name, value in row.items():
        print(f"{name:18}{value:.4g}" if isinstance(value, float) else f"{name:18}{value}")
    if _CSV.value:
        runner.write_csv(_CSV.value, [row])


def start_peer(log: data.Dataset) -> Peer:
    """PyTorch's ensemble, of the same sizes, in its own process."""
    config = _members(log, _MEMBERS.value)
    peer = Peer(_PYTHON.value, "ensemble_worker.py", flag="torch_python", library="torch")
    peer.ask(
        do="start", members=config.num_members, layers=list(config.model_hidden_sizes),
        observation_size=OBSERVATION_SIZE, action_size=ACTION_SIZE, rows=40_000,
        batch_size=config.model_batch_size, decays=list(config.model_weight_decay),
        learning_rate=config.model_learning_rate, threads=_THREADS.value or os.cpu_count(),
    )  # fmt: skip
    return peer


def in_turns(timed: dict[str, Any]) -> dict[str, float]:
    """Median seconds of functions that give theirs; not a number for PyTorch without it."""
    found = {name: [] for name in timed}
    for _ in range(_REPEATS.value):
        for name, run in timed.items():
            found[name].append(run())
    return {"torch": float("nan")} | {name: float(np.median(x)) for name, x in found.items()}


# Training.


def training_seconds(log: data.Dataset, peer: Peer | None) -> dict[str, float]:
    """Seconds of a gradient step of the ensemble, of one member, and of PyTorch; in turns."""
    timed = {
        name: epoch_of(_members(log, count), log)
        for name, count in (("ensemble", _MEMBERS.value), ("one", 1))
    }
    if peer is not None:
        timed["torch"] = lambda: peer.ask(do="train", steps=_STEPS.value)
    return {name: seconds / _STEPS.value for name, seconds in in_turns(timed).items()}


def _members(log: data.Dataset, count: int) -> dynamics.Config:
    """MOPO's model; it never stops early, so that all calls are alike."""
    config = dynamics.Config(
        num_members=count, num_elites=1, steps_per_epoch=_STEPS.value, patience=10**6
    )
    return ddm.prepare(dynamics, config, log)


def epoch_of(config: dynamics.Config, log: data.Dataset) -> Any:
    """A function that takes the gradient steps of one epoch and returns their seconds."""
    spec, key = dynamics.batch_spec(config), jax.random.key(0)
    batch = data.sample(log, key, config.model_batch_size, spec)
    state = dynamics.init(config, key, batch)
    update = jax.jit(dynamics.update)
    return functools.partial(timing.median_seconds, lambda: update(config, state, batch), 1)


# Imagined episodes.


def rollout_seconds(log: data.Dataset, peer: Peer | None) -> dict[str, float]:
    """Seconds of one round of MOPO's imagined episodes, the buffer included; in turns."""
    config = mopo.Config(
        num_rollouts=_STATES.value, rollout_length=_LENGTH.value, retained_rounds=1,
        steps_per_epoch=1, rollout_frequency=1, num_members=_MEMBERS.value,
        num_elites=min(5, _MEMBERS.value),
    )  # fmt: skip
    config = ddm.prepare(mopo, config, log)
    batch = data.sample(log, jax.random.key(0), _STATES.value, mopo.batch_spec(config))
    state = jax.jit(mopo.init)(config, jax.random.key(1), batch)
    judge = functools.partial(mopo.penalized, config)
    imagine = jax.jit(lambda state, batch, key: branched.imagine(config, state, batch, key, judge))

    def ours() -> float:
        return timing.median_seconds(lambda: imagine(state, batch, jax.random.key(2)), 1, 60.0)

    timed = {"ours": ours}
    if peer is not None:
        sizes = {"states": _STATES.value, "length": _LENGTH.value, "elites": config.num_elites}
        timed["torch"] = lambda: peer.ask(do="imagine", **sizes)
    return in_turns(timed)


if __name__ == "__main__":
    app.run(main)
