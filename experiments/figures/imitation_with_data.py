"""Imitation as demonstrations grow, and as the world becomes noisier than it was for the expert.

    python experiments/figures/imitation_with_data.py --num_updates=2000 --episodes=20

A point in eight dimensions moves by a tenth of its action, for 50 steps, and pays its distance to a
goal. The expert is almost optimal and narrow. Left: the return of the policies learned from 1 to 25
of its episodes. Right: from `NOISE_EPISODES` of them, with noise added to every action that the
world executes; the demonstrations have none. What a clone never saw, it meets there.

All methods get the same demonstrations, the same number of updates, and batches of the same size;
those that are marked in `METHODS` as online also act in the world, without noise, one step for each
update. Every seed has its own demonstrations. A log with fewer episodes than the largest repeats
them, which changes no batch's distribution: so one program trains on all logs. Intervals are 95 %
bootstrap intervals of the mean over seeds.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import drawing
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import struct

import ddm
from ddm import data, envs, evaluation, runner
from ddm.configuration import broadcast
from ddm.envs import base, point_mass
from ddm.evaluation import statistics
from ddm.imitation import bc, iq_learn, sqil, value_dice

_SEEDS = flags.DEFINE_integer("seeds", 5, "Seeds of each method.", lower_bound=2)
_UPDATES = flags.DEFINE_integer("num_updates", 3_000, "Gradient steps.", lower_bound=1)
_EPISODES = flags.DEFINE_integer("episodes", 50, "Episodes of a score.", lower_bound=1)
_ONLY = flags.DEFINE_list("only", [], "Names of methods; empty: all.")

COUNTS = (1, 5, 25)  # episodes of the expert; each divides the last
NOISES = (0.0, 0.25, 0.5, 1.0)  # standard deviation of the noise on executed actions
NOISE_EPISODES = 5
ROWS, RANDOM_STEPS = 64, 500
SIZES: dict[str, Any] = {"hidden_sizes": (64, 64)}


class Method(NamedTuple):
    """One curve."""

    algorithm: Any
    config: Any
    online: bool = False  # acts in the world while it learns


METHODS: dict[str, Method] = {
    "BC": Method(bc, bc.Config(head="tanh_gaussian", **SIZES)),
    "IQ-Learn": Method(
        iq_learn,
        iq_learn.Config(
            num_critics=1, critic_learning_rate=1e-3, actor_learning_rate=1e-3, **SIZES
        ),
    ),
    "ValueDICE": Method(value_dice, value_dice.Config(actor_learning_rate=3e-4, **SIZES)),
    "SQIL (online)": Method(
        sqil,
        sqil.Config(critic_learning_rate=1e-3, actor_learning_rate=1e-3, **SIZES),
        online=True,
    ),
}


@struct.dataclass
class NoisyParams:
    """Of a world, and of the noise on actions that it executes."""

    world: Any
    scale: float | jax.Array = 0.0

    @property
    def max_steps(self) -> Any:
        """The world's."""
        return self.world.max_steps


@dataclasses.dataclass(frozen=True)
class Disturbed(base.Environment):
    """A world that executes every action with normal noise."""

    world: base.Environment
    name: str = "Disturbed"

    @property
    def default_params(self) -> NoisyParams:
        """The world's, without noise."""
        return NoisyParams(self.world.default_params)

    def reset(self, key: jax.Array, params: NoisyParams) -> tuple[jax.Array, Any]:
        """The world's."""
        return self.world.reset(key, params.world)

    def step(self, key: jax.Array, state: Any, action: jax.Array, params: NoisyParams) -> Any:
        """A step with another action than the given one."""
        noise_key, step_key = jax.random.split(key)
        noise = params.scale * jax.random.normal(noise_key, action.shape, action.dtype)
        return self.world.step(step_key, state, action + noise, params.world)

    def observation_space(self, params: NoisyParams) -> Any:
        """The world's."""
        return self.world.observation_space(params.world)

    def action_space(self, params: NoisyParams) -> Any:
        """The world's."""
        return self.world.action_space(params.world)


def main(_):
    """Train and score every method, write the table and draw it after each of them."""
    world, folder, seeds = point_mass.PointMass(), Path(drawing.OUTPUT_DIR.value), _SEEDS.value
    logs = demonstrate(world, seeds)
    rows = expert_rows(world, seeds, _EPISODES.value)
    for name in _ONLY.value or METHODS:
        policy = learn(METHODS[name], world, logs, _UPDATES.value)
        rows += rows_of(name, score(policy, world, _EPISODES.value), seeds)
        drawing.write_table(folder / "imitation_with_data.csv", rows)
        draw(rows, folder / "imitation_with_data.png")


def rows_of(name: str, returns: np.ndarray, seeds: int) -> list[dict[str, Any]]:
    """Rows of a method from its returns (noises, counts * seeds)."""
    by_count = returns.reshape(len(NOISES), len(COUNTS), seeds)
    return [
        make_row(name, count, noise, by_count[i, j])
        for i, noise in enumerate(NOISES)
        for j, count in enumerate(COUNTS)
        if noise == 0.0 or count == NOISE_EPISODES
    ]


def make_row(method: str, count: int, noise: float, returns: np.ndarray) -> dict[str, Any]:
    """A row with the mean over seeds and its interval."""
    low, high = statistics.bootstrap_interval(returns, statistics.mean)
    return {
        "method": method, "demonstrations": count, "noise": noise,
        "return": float(np.mean(returns)), "low": float(low), "high": float(high),
        "seeds": len(returns),
    }  # fmt: skip


def demonstrate(world: base.Environment, seeds: int) -> data.Dataset:
    """Logs of the expert with a leading axis (counts * seeds): all seeds of the first count first.

    Each holds as many episodes as the largest, and repeats its own so often.
    """
    expert, params = (
        point_mass.behavior_policy("expert", world.default_params),
        world.default_params,
    )
    episodes = [
        envs.collect(world, expert, jax.random.key(seed), num_episodes=COUNTS[-1])
        for seed in range(seeds)
    ]
    logs = [
        data.from_episodes(
            played[:count] * (COUNTS[-1] // count),
            action_space=world.action_space(params),
            observation_space=world.observation_space(params),
            name="demonstrations",
        )
        for count in COUNTS
        for played in episodes
    ]
    # How many actions were on the edge of the box is written down in each, and is not the same.
    logs = [dataclasses.replace(log, info=logs[0].info) for log in logs]
    return jax.tree.map(lambda *each: jnp.stack(each), *logs)


def expert_rows(world: base.Environment, seeds: int, episodes: int) -> list[dict[str, Any]]:
    """What the expert earns, with each noise."""
    expert, noisy = point_mass.behavior_policy("expert", world.default_params), Disturbed(world)
    rows = []
    for noise in NOISES:
        params, returns = NoisyParams(world.default_params, jnp.float32(noise)), []
        for seed in range(seeds):
            played = envs.collect(
                noisy, expert, jax.random.key(seed), num_episodes=episodes, params=params
            )
            returns.append(np.mean([np.sum(episode["rewards"]) for episode in played]))
        rows.append(make_row("expert", 0, noise, np.asarray(returns)))
    return rows


def learn(
    method: Method, world: base.Environment, logs: data.Dataset, num_updates: int
) -> evaluation.Policy:
    """Policies (lanes) of a method, one for each log."""
    algorithm, config, online = method
    lanes = len(logs.rewards)
    # Shapes and units, which all logs have in common.
    first = jax.tree.map(lambda leaf: leaf[0], logs)
    config = ddm.prepare(algorithm, config, first)

    def train(key_and_log: tuple[jax.Array, data.Dataset]) -> Any:
        key, log = key_and_log
        if not online:
            return ddm.fit(algorithm, config, log, key, num_updates, batch_size=ROWS)[0]
        spec = algorithm.collect_spec(config)
        if not spec.on_policy:
            spec = dataclasses.replace(
                spec, random_steps=RANDOM_STEPS, capacity=num_updates + 1_000
            )
        collector = ddm.Collector.create(world, spec)
        learner, _ = ddm.fit_online(
            algorithm, config, collector, key, num_updates, log=log, batch_size=ROWS
        )
        return learner.state

    keys = jax.random.split(jax.random.key(1), lanes)
    # One after the other: on a CPU that is faster than batches of small matrix products.
    states = jax.jit(lambda *inputs: jax.lax.map(train, inputs))(keys, logs)
    return evaluation.Policy(
        algorithm, broadcast(config, lanes), states, first.normalization, first.info.action_space
    )


def score(policy: evaluation.Policy, world: base.Environment, episodes: int) -> np.ndarray:
    """Mean returns (noises, lanes) of the policies' modes."""
    found = []
    for noise in NOISES:
        params = NoisyParams(world.default_params, jnp.float32(noise))
        result = evaluation.evaluate(
            policy, Disturbed(world), seed=7, num_episodes=episodes, params=params
        )
        found.append(np.mean(np.asarray(result.returns), axis=1))
    return np.stack(found)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Return against demonstrations, and against noise; the expert is a black line."""
    figure = drawing.new_figure(10.0, 4.2)
    left, right = figure.subplots(1, 2)
    names = [name for name in dict.fromkeys(row["method"] for row in rows) if name != "expert"]
    panels = (
        (left, "demonstrations", lambda row: row["noise"] == 0.0),
        (right, "noise", lambda row: row["demonstrations"] == NOISE_EPISODES),
    )
    for axis, over, belongs in panels:
        for i, name in enumerate(names):
            found = [row for row in rows if row["method"] == name and belongs(row)]
            places = [row[over] for row in found]
            axis.plot(
                places, [row["return"] for row in found], "o-", ms=3, color=f"C{i}", label=name
            )
            ends = [[row[end] for row in found] for end in ("low", "high")]
            axis.fill_between(places, *ends, color=f"C{i}", alpha=0.2, lw=0)
        axis.set(ylabel="return")
        drawing.tidy(axis)
    expert = [row for row in rows if row["method"] == "expert"]
    left.axhline(expert[0]["return"], color="black", lw=1.0, ls="--", label="expert")
    noises, returns = [row["noise"] for row in expert], [row["return"] for row in expert]
    right.plot(noises, returns, color="black", lw=1.0, ls="--")
    left.set(xscale="log", xlabel="episodes of the expert", title="as demonstrations grow")
    left.set_xticks(COUNTS, [str(count) for count in COUNTS])
    left.minorticks_off()
    right.set(
        xlabel="noise on executed actions", title=f"{NOISE_EPISODES} episodes, a noisier world"
    )
    left.legend(frameon=False, fontsize=8)
    drawing.save_figure(figure, path)


if __name__ == "__main__":
    runner.launch(main)
