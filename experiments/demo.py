"""Stitching: reach a goal that no logged trajectory goes to from the start.

    python experiments/demo.py

A maze has two entrances (S, B) and two exits (G, D) that share one corridor. The log holds
walks from S to D and from B to G: every piece of the way from S to G, and no walk that goes it.
Behaviour cloning imitates what is common in the corridor; IQL and CQL learn what each place is
worth, and stitch the halves.

Prints one table and writes two pictures, learning curves and trajectories.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ddm import data, envs, runner
from ddm.imitation import bc
from ddm.lower_bound import cql
from ddm.policy_constraint import iql

_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds of each algorithm.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "Folder of pictures and runs; empty: a new one in runs.")

ENVIRONMENT = cast(envs.PointMaze, envs.make("PointMaze-Stitch-v0"))
SHARE_TO_GOAL = 0.3  # of the logged walks end at G; the others at D
SMALL = {"hidden_sizes": (64, 64), "discount": 0.98}

# Algorithm, hyper-parameters and gradient steps.
CONTESTANTS: dict[str, tuple[Any, Any, int]] = {
    "BC": (bc, bc.Config(hidden_sizes=(64, 64)), 2_000),
    "IQL": (
        iql,
        iql.Config(
            **SMALL, expectile=0.9, inverse_temperature=3.0, target_rate=0.02,
            actor_learning_rate=1e-3, value_learning_rate=1e-3,
        ),
        3_000,
    ),
    "CQL": (
        cql,
        cql.Config(
            **SMALL, alpha=1.0, num_samples=4, target_rate=0.02, actor_learning_rate=3e-4,
            critic_learning_rate=1e-3, initial_temperature=0.01, temperature_learning_rate=0.0,
        ),
        5_000,
    ),
}  # fmt: skip


def main(_):
    """Collect, train each algorithm, evaluate, report."""
    out = pathlib.Path(_OUT.value or time.strftime("runs/demo-%Y%m%d-%H%M%S"))
    log = collect_log(jax.random.key(0))
    print(data.describe(log))
    # A reward of -1 until the goal: CQL raises the values of logged actions, and with rewards
    # of 0 a value that bootstraps on itself would rise without end.
    dataset = data.normalize(log, observations="standardize", rewards="minus_one")
    results = {name: train(name, dataset, out) for name in CONTESTANTS}
    print(table(results))
    runner.plot_comparison(
        out / "learning_curves.png",
        {name: result.run_dir for name, result in results.items()},
        title="The log never goes from S to G",
        score="share of walks that reach G",
    )
    draw_trajectories(out / "trajectories.png", dataset, results)
    print(f"pictures: {out / 'learning_curves.png'} and {out / 'trajectories.png'}")


def collect_log(key: jax.Array) -> data.Dataset:
    """Noisy way-point walks from S to D and from B to G; only reaching G is rewarded."""
    walks = []
    keys = jax.random.split(key, 2)
    legs = (("S", "D", 1.0 - SHARE_TO_GOAL), ("B", "G", SHARE_TO_GOAL))
    for leg_key, (entrance, exit_, share) in zip(keys, legs, strict=True):
        params = dataclasses.replace(
            ENVIRONMENT.default_params, start_cells=ENVIRONMENT.cells(entrance)
        )
        target = ENVIRONMENT.cells(exit_)[0]
        walks += envs.collect(
            ENVIRONMENT,
            envs.waypoint_policy(ENVIRONMENT, params, noise=0.3),
            leg_key,
            num_episodes=round(800 * share),
            params=params,
            initial_policy_state=lambda _, target=target: target,
            stop=lambda observation, target: jnp.linalg.norm(observation[:2] - target) < 0.5,
        )
    params = ENVIRONMENT.default_params
    return data.from_episodes(
        walks,
        action_space=ENVIRONMENT.action_space(params),
        name="stitch",
        environment_id=ENVIRONMENT.name,
    )


def train(name: str, dataset: data.Dataset, out: pathlib.Path) -> runner.Result:
    """All seeds of one algorithm."""
    algorithm, config, num_updates = CONTESTANTS[name]
    options = runner.Options(
        dataset="stitch",
        seeds=_SEEDS.value,
        num_updates=num_updates,
        batch_size=128,
        log_every=500,
        eval_every=num_updates // 8,
        eval_episodes=50,
        checkpoint_every=0,
        run_dir=str(out / name.lower()),
    )
    return runner.train(algorithm, config, dataset, ENVIRONMENT, options)


def table(results: dict[str, runner.Result]) -> str:
    """Share of the evaluation walks that reach G, with an interval across seeds."""
    lines = [f"{'':6}{'reaches G':>10}{'95 % interval':>18}"]
    for name, result in results.items():
        score = result.summary["score"]["points"][0]
        ends = score["mean_interval"]  # one seed has none
        interval = f"{ends[0]:.0%} to {ends[1]:.0%}" if ends else ""
        lines.append(f"{name:6}{score['mean']:10.0%}{interval:>18}")
    return "\n".join(lines)


def draw_trajectories(
    path: pathlib.Path, dataset: data.Dataset, results: dict[str, runner.Result]
) -> None:
    """The log, and walks of each algorithm's first seed from S."""
    from matplotlib import pyplot

    logged = [
        walk["observations"][:, :2]
        for walk in data.to_episodes(dataset)[:: len(dataset.rewards) // 400]
    ]
    panels = {"log": logged}
    for name, result in results.items():
        policy = jax.tree.map(
            lambda leaf: leaf[0], dataclasses.replace(result.policy, normalization=None)
        )
        policy = dataclasses.replace(policy, normalization=dataset.normalization)
        walks = envs.collect(ENVIRONMENT, policy, jax.random.key(1), num_episodes=20)
        panels[name] = [walk["observations"][:, :2] for walk in walks]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.0))
    for axis, (name, walks) in zip(axes, panels.items(), strict=True):
        height, width = ENVIRONMENT.walls.shape
        axis.imshow(
            ENVIRONMENT.walls, origin="lower", cmap="Greys", vmax=2, extent=(0, width, 0, height)
        )
        for walk in walks:
            axis.plot(*np.asarray(walk).T, color="tab:blue", alpha=0.3, linewidth=0.8)
        for mark in "SBGD":
            axis.text(*ENVIRONMENT.cells(mark)[0], mark, ha="center", va="center", weight="bold")
        axis.set(title=name, xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    runner.launch(main)
