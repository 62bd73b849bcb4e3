"""A plan that believes its model cuts through the gap in the data; one that doubts it goes round.

    python experiments/figures/model_planning.py

    s' = s + v(s) (0.15 a + 0.04 sin(5 (s_2, s_1))),    r = -|| s' - goal ||

in the plane, with v = 1 but in a swamp between start and goal, where v = 0.02: who enters it does
not get out. The log holds independent transitions, and none begins near the swamp. So the model
knows the current everywhere around, and nothing of the swamp: what it makes of the gap is what it
learned at the gap's edges, that one walks as anywhere else. In the model the way through the gap is
the shortest. In the world it ends in the swamp.

MBPO plans with this model as it is, and earns far less than it believes. MOPO and MOReL plan with
the same model, and pay for the members' disagreement or stop at it: their ways bend towards the
data, miss the swamp, and earn what they believe. That is no promise. They too cross the upper part
of the gap, where the members still agree; with a swamp up to s_2 = 0, two of three plans of MOPO
and one of three of MOReL end in it.

Each policy starts at the same place and acts for 40 steps
without noise, once in the model (the mean of the elites) and once in the world.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import drawing
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import ddm
from ddm import data, runner
from ddm.model_based import dynamics, mbpo, mopo, morel
from ddm.model_based.parts import members
from ddm.model_based.parts.uncertainty import max_disagreement

_TRANSITIONS = flags.DEFINE_integer("transitions", 6_000, "Of the log.", lower_bound=10)
_EPOCHS = flags.DEFINE_integer("epochs", 40, "Of the model at most.", lower_bound=1)
_UPDATES = flags.DEFINE_integer("updates", 4_000, "Of the policy, by 250.", lower_bound=250)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Of log, model and policy.", lower_bound=1)

START, GOAL = (-0.8, -0.5), (0.8, -0.5)
STEPS, BATCH = 40, 128  # of a way; rows of a gradient step
SWAMP = (0.3, -0.2)  # |s_1| and s_2 are below these
GAP = (0.6, 0.5)  # no transition of the log begins here; it ends at most 0.2 inside
_MODEL = {
    "model_hidden_sizes": (64, 64, 64),
    "model_weight_decay": (1e-5,),
    "termination": "never",
    "model_batch_size": 64,
    "model_learning_rate": 3e-3,
}
_POLICY = {
    **_MODEL,
    "uncertainty": "max_disagreement",
    "discount": 0.97,
    "hidden_sizes": (64, 64),
    "actor_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "rollout_frequency": 250,
    "num_rollouts": 1_000,
    "max_epochs": 0,  # the model is given
}
METHODS = {
    "MBPO": (mbpo, {}),
    "MOPO": (mopo, {"penalty": 60.0}),
    "MOReL": (morel, {"threshold_coefficient": 5.0, "halt_penalty": 30.0}),
}
_IMAGINED, _REAL = "#c0392b", "#1f4e79"


def main(_):
    """Train, walk, print, write, draw."""
    rows = []
    for seed in range(_SEEDS.value):
        log = make_log(_TRANSITIONS.value, seed)
        model = train_model(log, _EPOCHS.value, seed)
        for name in METHODS:
            config, state = plan(name, log, model, _UPDATES.value, seed)
            rows += [{"method": name, "seed": seed, **row} for row in walk(name, config, state)]
    print_table(rows)
    folder = Path(drawing.OUTPUT_DIR.value)
    drawing.write_table(folder / "model_planning.csv", rows)
    draw(rows, make_log(_TRANSITIONS.value, 0), folder / "model_planning.png")


# The task.


def inside(states: Any, box: tuple[float, float]) -> Any:
    """(...) whether states (..., 2) lie in the swamp, or in the gap."""
    return (abs(states[..., 0]) < box[0]) & (states[..., 1] < box[1])


def move(states: Any, actions: Any) -> Any:
    """(..., 2) what follows."""
    speed = jnp.where(inside(states, SWAMP), 0.02, 1.0)[..., None]
    current = 0.04 * jnp.sin(5.0 * states[..., ::-1])
    return states + speed * (0.15 * actions + current)


def reward(following: Any) -> Any:
    """(...) of arriving at (..., 2)."""
    return -jnp.sqrt(jnp.sum((following - jnp.array(GOAL)) ** 2, axis=-1))


def make_log(count: int, seed: int) -> data.Dataset:
    """Independent transitions from outside of the gap, each an episode of one step."""
    random = np.random.default_rng(seed)
    states = random.uniform(-1.0, 1.0, (4 * count, 2)).astype(np.float32)
    states = states[~inside(states, GAP)][:count]
    actions = random.uniform(-1.0, 1.0, (count, 2)).astype(np.float32)
    following = np.asarray(move(states, actions))
    return data.from_arrays(
        states,
        actions,
        rewards=np.asarray(reward(following)),
        terminations=np.zeros(count, bool),
        truncations=np.ones(count, bool),
        next_observations=following,
        action_space=(-np.ones(2), np.ones(2)),
        name="plane with a gap",
    )


# Model and plan.


def train_model(log: data.Dataset, epochs: int, seed: int) -> dynamics.State:
    """An ensemble of seven members, the same for all methods."""
    config = ddm.prepare(dynamics, dynamics.Config(**_MODEL, max_epochs=epochs), log)
    return _fit(config, log, jax.random.key(seed), epochs * config.steps_per_epoch)


@functools.partial(jax.jit, static_argnums=3)
def _fit(config: Any, log: data.Dataset, key: Any, steps: int) -> dynamics.State:
    return ddm.fit(dynamics, config, log, key, steps)[0]


def plan(
    name: str, log: data.Dataset, model: dynamics.State, updates: int, seed: int
) -> tuple[Any, Any]:
    """A policy by one of `METHODS` in a model that is given: configuration and state."""
    algorithm, own = METHODS[name]
    config = ddm.prepare(algorithm, algorithm.Config(**_POLICY, **own), log)
    rounds = updates // config.rollout_frequency
    return config, _plan(name, config, log, model, jax.random.key(seed), rounds)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _plan(
    name: str, config: Any, log: data.Dataset, model: dynamics.State, key: Any, rounds: int
) -> Any:
    algorithm, _ = METHODS[name]
    *before, learning = algorithm.stages(config)
    init_key, key = jax.random.split(key)
    example = data.sample(log, init_key, 1, algorithm.batch_spec(config))
    state = algorithm.init(config, init_key, example).replace(model=model)
    for stage in before:  # MOReL measures the disagreement on the log
        state, _ = stage.update(config, state, data.sample(log, key, 1, stage.batch_spec))

    def learn(state: Any, key: Any) -> tuple[Any, None]:
        batch = data.sample(log, key, BATCH, learning.batch_spec)
        return learning.update(config, state, batch)[0], None

    return jax.lax.scan(learn, state, jax.random.split(key, rounds))[0]


def walk(name: str, config: Any, state: Any) -> list[dict[str, float]]:
    """One row a step, in the model and in the world: place, return so far, disagreement."""
    algorithm, _ = METHODS[name]

    def step(places: tuple[jax.Array, jax.Array], _: None):
        actions = [
            algorithm.act(config, state, place, jax.random.key(0), deterministic=True)[0]
            for place in places
        ]
        found = dynamics.predict(config, state.model, places[0][None], actions[0][None])
        elites = members.elites(config, state.model.holdout_errors)
        mean = jnp.mean(found.means[elites, 0], axis=0)
        imagined, real = mean[1:], move(places[1], actions[1])
        unsure = members.uncertainty(config, found, max_disagreement)[0]
        return (imagined, real), (imagined, mean[0], unsure, real, reward(real))

    start = jnp.array(START)
    _, found = jax.lax.scan(step, (start, start), length=STEPS)
    imagined, believed, unsure, real, earned = map(np.asarray, found)
    believed, earned = np.cumsum(believed), np.cumsum(earned)
    return [
        {
            "step": i + 1,
            "imagined_x": float(imagined[i, 0]),
            "imagined_y": float(imagined[i, 1]),
            "believed": float(believed[i]),
            "disagreement": float(unsure[i]),
            "real_x": float(real[i, 0]),
            "real_y": float(real[i, 1]),
            "earned": float(earned[i]),
        }
        for i in range(STEPS)
    ]


# What it says.


def paths(rows: list[dict[str, Any]], method: str, kind: str) -> np.ndarray:
    """(seeds, STEPS + 1, 2) where the policies of a method go, "imagined" or "real"."""
    own = [row for row in rows if row["method"] == method]
    places = np.array([(row[f"{kind}_x"], row[f"{kind}_y"]) for row in own]).reshape(-1, STEPS, 2)
    return np.concatenate([np.broadcast_to(START, (len(places), 1, 2)), places], axis=1)


def returns(rows: list[dict[str, Any]], method: str, name: str) -> np.ndarray:
    """(seeds,) "believed" or "earned" at the last step."""
    return np.array([r[name] for r in rows if r["method"] == method and r["step"] == STEPS])


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line a method: mean returns, and how many ways lead through the gap."""
    print(f"{'method':10}{'believed':>10}{'earned':>10}{'through the gap':>18}")
    for method in METHODS:
        through = inside(paths(rows, method, "imagined"), SWAMP).any(axis=1)
        numbers = [returns(rows, method, name).mean() for name in ("believed", "earned")]
        count = f"{through.sum()} of {len(through)}"
        print(f"{method:10}{numbers[0]:10.1f}{numbers[1]:10.1f}{count:>18}")


def draw(rows: list[dict[str, Any]], log: data.Dataset, path: Path) -> None:
    """The ways of each method over the log's states."""
    from matplotlib.patches import Rectangle

    figure = drawing.new_figure(12.6, 4.9)
    axes = figure.subplots(1, len(METHODS), sharey=True)
    seen = np.asarray(log.observations)[::2]  # of each episode the first
    for axis, method in zip(axes, METHODS, strict=True):
        axis.plot(*seen.T, ".", ms=1.2, color="#b9c7d6", label="states of the log")
        swamp = Rectangle(
            (-SWAMP[0], -1.0), 2 * SWAMP[0], 1.0 + SWAMP[1], color="#8d6e4f", alpha=0.35
        )
        axis.add_patch(swamp)
        axis.text(0.0, -0.88, "swamp", ha="center", va="center", fontsize=9, color="#5d4630")
        for kind, color, style in (("imagined", _IMAGINED, "--"), ("real", _REAL, "-")):
            for i, way in enumerate(paths(rows, method, kind)):
                label = (
                    f"way in the {'model' if kind == 'imagined' else 'world'}" if not i else None
                )
                axis.plot(*way.T, style, color=color, lw=1.6, label=label)
        axis.plot(*START, "ko", ms=5)
        axis.plot(*GOAL, "k*", ms=11)
        numbers = [returns(rows, method, name).mean() for name in ("believed", "earned")]
        axis.set_title(f"{method}: believed {numbers[0]:.1f}, earned {numbers[1]:.1f}")
        axis.set(xlim=(-1.03, 1.03), ylim=(-1.03, 1.03), aspect="equal")
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    drawing.save_figure(figure, path)


if __name__ == "__main__":
    runner.launch(main)
