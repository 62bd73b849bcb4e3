"""Which policy classes average the modes of a demonstrator: forks with 1 to 8 branches.

    python experiments/figures/mode_averaging.py

At each position the demonstrator takes one of K branches by a fair die (`ddm.envs.fork`). Each
branch is right, their mean is wrong. Every class is trained by its own module on the same number
of demonstrations and updates, on a circle of K branches in two dimensions and on the
two-branch bandit in one; the policies of the bandit also walk the corridor of five decisions.

- `valid`: share of sampled actions near a branch, with a Wilson interval over seeds and samples,
  and a 95 % bootstrap interval over seeds (`valid_seeds_low`, `valid_seeds_high`).
- `deterministic_valid`: the same for deterministic actions.
- `balance`: entropy of the branches that valid samples at one position take, over log K, mean over
  positions: 1 for the demonstrator, 0 for a policy that has chosen.
- `gap`: mean log-likelihood of held-out actions under the demonstrator less that under the
  policy, in nats, where the module has a density; bootstrap interval over seeds. For `CVAE` an
  upper bound (importance weights).
- `corridor`: share of sampled episodes whose five decisions were all right; Wilson interval.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import drawing
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import ddm
from ddm import data, runner
from ddm.envs.fork import Fork
from ddm.evaluation import statistics
from ddm.imitation import act, autoregressive, bc, cvae, diffusion, flow_matching, implicit_bc
from ddm.imitation import reverse_kl as rkl
from ddm.types import initial_policy_state

_SEEDS = flags.DEFINE_integer("policy_seeds", 3, "Seeds of each policy class.", lower_bound=1)
_UPDATES = flags.DEFINE_integer("policy_updates", 3_000, "Updates of each policy.", lower_bound=1)
_WIDTH = flags.DEFINE_integer(
    "policy_width", 64, "Units of each of two hidden layers.", lower_bound=4
)
_BRANCHES = flags.DEFINE_list("branches", "1,2,3,5,8", "Numbers of branches on the circle.")
_CLASSES = flags.DEFINE_list("classes", "", "Labels of the policy classes; empty: all.")
_BANDIT = flags.DEFINE_boolean("bandit", True, "Also the fork in one dimension, and the corridor.")

ROWS, DEMONSTRATIONS, HELD_OUT = 128, 10_000, 2_000
POSITIONS, SAMPLES = 20, 100  # of the evaluation
EPISODES = 400  # in the corridor, for each seed
SHOWN = 0.5  # the position of the picture
ONE_STEP = {"observation_steps": 1, "chunk_size": 1, "execute_steps": 1}


class Class(NamedTuple):
    """A policy class: a module, how it is configured, and what can be asked of it."""

    algorithm: Any
    options: Callable[[Fork, int, int], dict[str, Any]]  # (fork, updates, width)
    density: bool = True  # has a log-density of actions
    time_axis: bool = False  # which takes windows
    when_deterministic: dict[str, Any] = {}  # noqa: RUF012  # options that differ then


def _bc(head: str) -> Callable[[Fork, int, int], dict[str, Any]]:
    return lambda fork, updates, width: {
        "head": head, "num_components": 10, "hidden_sizes": (width, width),
        "learning_rate": 2e-3, "decay_steps": updates,
    }  # fmt: skip


def _cvae(prior: str) -> Callable[[Fork, int, int], dict[str, Any]]:
    return lambda fork, updates, width: {
        "prior": prior, "num_components": 10, "hidden_sizes": (width, width),
        "learning_rate": 2e-3, "decay_steps": updates,
    }  # fmt: skip


def _autoregressive(decoder: str) -> Callable[[Fork, int, int], dict[str, Any]]:
    return lambda fork, updates, width: ONE_STEP | {
        "decoder": decoder, "hidden_sizes": (width, width), "width": width, "num_layers": 1,
        "num_heads": 2, "dropout_rate": 0.0, "decode": "dither", "learning_rate": 2e-3,
        "warmup_steps": 100, "decay_steps": updates,
    }  # fmt: skip


def _denoising(fork: Fork, updates: int, width: int) -> dict[str, Any]:
    return ONE_STEP | {
        "hidden_sizes": (2 * width,) * 3, "learning_rate": 2e-3, "decay_steps": updates
    }  # fmt: skip


def _act(fork: Fork, updates: int, width: int) -> dict[str, Any]:
    return ONE_STEP | {
        "width": width, "num_heads": 2, "num_layers": 1, "latent": "sample",
        "dropout_rate": 0.0, "learning_rate": 1e-3, "decay_steps": updates,
    }  # fmt: skip


def _implicit(fork: Fork, updates: int, width: int) -> dict[str, Any]:
    return {
        "observation_steps": 1, "width": width, "num_negatives": 64, "num_samples": 256,
        "learning_rate": 2e-3, "decay_steps": updates,
    }  # fmt: skip


def _reverse_known(fork: Fork, updates: int, width: int) -> dict[str, Any]:
    return {
        "ratio": "known", "expert_log_prob": fork.log_prob, "hidden_sizes": (width, width),
        "num_samples": 4, "learning_rate": 2e-3, "decay_steps": updates,
    }  # fmt: skip


def _reverse_learned(fork: Fork, updates: int, width: int) -> dict[str, Any]:
    return {
        "hidden_sizes": (width, width), "num_samples": 4, "learning_rate": 1e-3,
        "discriminator_learning_rate": 3e-3, "instance_noise": 0.025, "decay_steps": 5 * updates,
    }  # fmt: skip


CLASSES: dict[str, Class] = {
    "MSE": Class(bc, _bc("mse"), density=False),
    "Gaussian": Class(bc, _bc("gaussian")),
    "tanh-Gaussian": Class(bc, _bc("tanh_gaussian")),
    "mixture": Class(bc, _bc("mixture")),
    "CVAE": Class(cvae, _cvae("standard_normal")),
    "CVAE, mixture prior": Class(cvae, _cvae("mixture")),
    "factorised bins": Class(autoregressive, _autoregressive("factorised")),
    "autoregressive LSTM": Class(autoregressive, _autoregressive("lstm")),
    "autoregressive transformer": Class(autoregressive, _autoregressive("transformer")),
    "diffusion": Class(diffusion, _denoising, density=False),
    "flow matching": Class(flow_matching, _denoising, time_axis=True),
    "ACT": Class(act, _act, density=False, when_deterministic={"latent": "zero"}),
    "implicit": Class(implicit_bc, _implicit, density=False),
    "reverse KL": Class(rkl, _reverse_known),
    "reverse KL, learned": Class(rkl, _reverse_learned),
}


class Trained(NamedTuple):
    """The seeds of one class on one fork."""

    label: str
    fork: Fork
    config: Any
    states: Any  # with a leading axis of seeds

    @property
    def algorithm(self) -> Any:
        """The module."""
        return CLASSES[self.label].algorithm


def main(_):
    """Trains all classes on all forks; table and picture."""
    folder = Path(drawing.OUTPUT_DIR.value)
    rows, pictures = [], {}
    for label in _CLASSES.value or CLASSES:
        for fork in forks():
            trained = fit(label, fork, _SEEDS.value, _UPDATES.value, _WIDTH.value)
            rows.append(measure(trained))
            print_row(rows[-1])
            if fork.num_dimensions == 2:
                pictures[label, fork.num_branches] = samples_at(trained, SHOWN)
        drawing.write_table(folder / "mode_averaging.csv", rows)  # what is done is kept
    draw(pictures, folder / "mode_averaging.png")


def forks() -> list[Fork]:
    """The circle by number of branches, and the bandit."""
    circles = [Fork(num_branches=int(k), num_dimensions=2) for k in _BRANCHES.value]
    return circles + [Fork()] * _BANDIT.value


def fit(label: str, fork: Fork, seeds: int, updates: int, width: int) -> Trained:
    """Trains every seed on demonstrations of its own."""
    algorithm, options = CLASSES[label].algorithm, CLASSES[label].options
    config = algorithm.Config(**options(fork, updates, width))
    keys = jax.random.split(jax.random.key(0), seeds)
    logs = jax.tree.map(lambda *seeds: jnp.stack(seeds), *(make_log(fork, key) for key in keys))
    states = _train(algorithm, config, logs, keys, updates)
    return Trained(label, fork, config, jax.block_until_ready(states))


def demonstrations(fork: Fork, key: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """Positions (rows, 1), and actions (rows, A) taken there."""
    position_key, action_key = jax.random.split(key)
    positions = jax.random.uniform(position_key, (rows, 1), minval=-1.0, maxval=1.0)
    return positions, fork.demonstrate(action_key, positions)


def make_log(fork: Fork, key: jax.Array) -> data.Dataset:
    """Demonstrations as episodes of one step."""
    positions, actions = demonstrations(fork, key, DEMONSTRATIONS)
    return data.from_arrays(
        positions,
        actions,
        terminations=np.ones(DEMONSTRATIONS, bool),
        action_space=fork.action_space(fork.default_params),
        clip_actions=True,  # at least 5 standard deviations from any branch
        name=fork.name,
    )


@functools.partial(jax.jit, static_argnames=("algorithm", "updates"))
def _train(algorithm: Any, config: Any, logs: data.Dataset, keys: jax.Array, updates: int) -> Any:
    num_steps = updates * algorithm.batch_spec(config).minibatches

    def one(log: data.Dataset, key: jax.Array) -> Any:
        return ddm.fit(algorithm, config, log, key, num_steps, batch_size=ROWS)[0]

    return jax.vmap(one)(logs, keys)


@functools.partial(jax.jit, static_argnames=("algorithm", "deterministic"))
def _first_actions(
    algorithm: Any, config: Any, states: Any, positions: jax.Array, deterministic: bool
) -> jax.Array:
    """First actions (S, N, A) of episodes that begin at positions (N, 1)."""

    def first(state: Any, position: jax.Array, key: jax.Array) -> jax.Array:
        memory = initial_policy_state(algorithm, config, state)
        return algorithm.act(config, state, position, key, memory, deterministic=deterministic)[0]

    seeds = len(jax.tree.leaves(states)[0])
    keys = jax.random.split(jax.random.key(1), (seeds, len(positions)))
    return jax.vmap(jax.vmap(first, (None, 0, 0)), (0, None, 0))(states, positions, keys)


def actions_at(trained: Trained, positions: jax.Array, deterministic: bool = False) -> jax.Array:
    """Actions (S, N, A) of every seed at positions (N, 1)."""
    config = trained.config
    if deterministic:
        config = config.replace(**CLASSES[trained.label].when_deterministic)
    return _first_actions(trained.algorithm, config, trained.states, positions, deterministic)


def samples_at(trained: Trained, position: float) -> np.ndarray:
    """Sampled actions (SAMPLES, A) of the first seed."""
    return np.asarray(actions_at(trained, jnp.full((POSITIONS * SAMPLES, 1), position)))[
        0, :SAMPLES
    ]


def measure(trained: Trained) -> dict[str, Any]:
    """A row of the table."""
    fork = trained.fork
    positions = jnp.repeat(jnp.linspace(-1.0, 1.0, POSITIONS), SAMPLES)[:, None]
    row: dict[str, Any] = {
        "class": trained.label, "dimensions": fork.num_dimensions, "branches": fork.num_branches,
        "seeds": len(trained.states.step), "updates": _UPDATES.value, "width": _WIDTH.value,
    }  # fmt: skip
    for name, deterministic in (("valid", False), ("deterministic_valid", True)):
        actions = actions_at(trained, positions, deterministic)
        valid = np.asarray(fork.is_valid(positions, actions))
        row |= _share(name, valid)
        row |= _over_seeds(f"{name}_seeds", valid.mean(axis=1))
        if not deterministic:
            row["balance"] = balance(fork, positions, actions, valid)
    row |= _over_seeds("gap", log_likelihood_gaps(trained), with_mean=True)
    return row | _share("corridor", corridor_successes(trained))


def balance(
    fork: Fork, positions: jax.Array, actions: jax.Array, valid: np.ndarray
) -> float | None:
    """Entropy of branches at a position over log K, mean over positions with a valid sample."""
    if fork.num_branches == 1:
        return None
    branches = np.asarray(fork.nearest_branch(positions, actions))
    taken = (branches[..., None] == np.arange(fork.num_branches)) & valid[..., None]
    counts = taken.reshape(len(valid), POSITIONS, SAMPLES, -1).sum(axis=2)
    totals = counts.sum(axis=-1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    entropies = -np.sum(shares * np.log(np.maximum(shares, 1e-12)), axis=-1)
    known = totals[..., 0] > 0
    return float(entropies[known].mean() / np.log(fork.num_branches)) if known.any() else None


def log_likelihood_gaps(trained: Trained) -> np.ndarray | None:
    """(S,) nats by which the demonstrator's own likelihood of held-out actions is higher."""
    kind = CLASSES[trained.label]
    if not kind.density:
        return None
    positions, actions = demonstrations(trained.fork, jax.random.key(99), HELD_OUT)
    inputs = (positions[:, None], actions[:, None]) if kind.time_axis else (positions, actions)
    log_prob = functools.partial(trained.algorithm.log_prob, trained.config)
    log_probs = jax.jit(jax.vmap(lambda state: log_prob(state, *inputs)))(trained.states)
    best = trained.fork.log_prob(positions, actions)
    return np.asarray(jnp.mean(best - log_probs, axis=-1))


def corridor_successes(trained: Trained) -> np.ndarray | None:
    """(S, EPISODES) whether sampled episodes of the corridor were right throughout; bandit only."""
    if trained.fork.num_dimensions != 1:
        return None
    corridor = Fork(num_decisions=5)
    params = corridor.default_params

    def episode(state: Any, key: jax.Array) -> jax.Array:
        reset_key, walk_key = jax.random.split(key)
        memory = initial_policy_state(trained.algorithm, trained.config, state)

        def decide(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            observation, place, memory = carry
            act_key, step_key = jax.random.split(key)
            action, memory = trained.algorithm.act(
                trained.config, state, observation, act_key, memory
            )
            observation, place, *_, info = corridor.step(step_key, place, action, params)
            return (observation, place, memory), info["success"]

        start = (*corridor.reset(reset_key, params), memory)
        return jax.lax.scan(decide, start, jax.random.split(walk_key, corridor.num_decisions))[1][
            -1
        ]

    keys = jax.random.split(jax.random.key(2), EPISODES)
    return np.asarray(
        jax.jit(jax.vmap(jax.vmap(episode, (None, 0)), (0, None)))(trained.states, keys)
    )


def _share(name: str, right: np.ndarray | None) -> dict[str, float | None]:
    """The share of what is right, with its Wilson interval."""
    if right is None:
        return dict.fromkeys([name, f"{name}_low", f"{name}_high"])
    low, high = statistics.wilson_interval(right.sum(), right.size)
    return {name: float(right.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


def _over_seeds(
    name: str, values: np.ndarray | None, with_mean: bool = False
) -> dict[str, float | None]:
    """A bootstrap interval of the mean over seeds."""
    mean = None if values is None else float(values.mean())
    ends = (
        (None, None) if values is None else statistics.bootstrap_interval(values, statistics.mean)
    )
    low, high = (None if end is None else float(end) for end in ends)
    return ({name: mean} if with_mean else {}) | {f"{name}_low": low, f"{name}_high": high}


def print_row(row: dict[str, Any]) -> None:
    """One line."""
    shown = {
        key: row[key] for key in ("valid", "deterministic_valid", "balance", "gap", "corridor")
    }
    numbers = "  ".join(f"{key} {value:.3f}" for key, value in shown.items() if value is not None)
    print(f"{row['class']:28}{row['branches']} in {row['dimensions']}-D  {numbers}", flush=True)


def draw(pictures: dict[tuple[str, int], np.ndarray], path: Path) -> None:
    """Samples at one position over the demonstrator's density: classes across, branches down."""
    labels = list(dict.fromkeys(label for label, _ in pictures))
    numbers = list(dict.fromkeys(number for _, number in pictures))
    figure = drawing.new_figure(1.35 * len(labels) + 0.4, 1.35 * len(numbers) + 0.6)
    panels = figure.subplots(len(numbers), len(labels), squeeze=False, sharex=True, sharey=True)
    line = np.linspace(-1.1, 1.1, 111)
    points = jnp.asarray(np.stack(np.meshgrid(line, line), axis=-1))
    for i, number in enumerate(numbers):
        fork = Fork(num_branches=number, num_dimensions=2)
        density = np.exp(np.asarray(fork.log_prob(jnp.full((1,), SHOWN), points)))
        for j, label in enumerate(labels):
            axis, actions = panels[i, j], pictures[label, number]
            axis.contourf(
                line, line, density**0.5, cmap="Greys", levels=8, vmax=1.6 * density.max() ** 0.5
            )
            axis.plot(*actions.T, ".", color="C3", ms=2.0, alpha=0.6)
            axis.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), xticks=[], yticks=[], aspect="equal")
            if i == 0:
                axis.set_title(label.replace(", ", ",\n").replace(" ", "\n", 1), fontsize=7)
        panels[i, 0].set_ylabel(f"K = {number}", fontsize=8)
    figure.suptitle(
        "Sampled actions (red) and the demonstrator's density (grey) at one position", fontsize=9
    )
    drawing.save_figure(figure, path)


if __name__ == "__main__":
    runner.launch(main)
