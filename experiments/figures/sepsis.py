"""Learning to treat from logs: constrained and unconstrained learners in the sepsis simulator.

    python experiments/figures/sepsis.py

Clinicians who know who is diabetic treat almost optimally: a share epsilon of their actions is
another one. Learners see their logs, but not diabetes. Unconstrained value iteration in the
empirical MDP believes in whatever was hardly ever tried; with ten times the data it believes, and
does, worse. `optimism` is the value it starts from, which a pair without data keeps.

All learners are tables, swept until nothing changes; returns are exact, undiscounted and of 20
steps, estimates are the learner's own discounted value of the first states. Intervals are 95 %
bootstrap intervals of the mean over logs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import drawing
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.tree_util import Partial

import ddm
from ddm import data, envs, runner
from ddm.envs import tabular
from ddm.envs.tabular.sepsis import NUM_OBSERVATIONS, NUM_STEPS
from ddm.evaluation import statistics
from ddm.imitation import tabular_bc
from ddm.policy_constraint import constrained_iteration, spibb
from ddm.types import Discrete

_LOGS = flags.DEFINE_integer("logs_of_each_size", 3, "Logs of each size.", lower_bound=2)
_EPISODES = flags.DEFINE_list("log_episodes", ["1000", "10000"], "Episodes of a log.")
_EPSILON = flags.DEFINE_float("epsilon", 0.05, "Share of the clinicians' random actions.")
_SWEEPS = flags.DEFINE_integer("sweeps", 300, "Updates of each learner.", lower_bound=1)

NUM_ACTIONS = 8


def _iteration(**settings: Any) -> tuple[Any, Any]:
    return constrained_iteration, constrained_iteration.Config(num_actions=NUM_ACTIONS, **settings)


def _spibb(min_count: float) -> tuple[Any, Any]:
    return spibb, spibb.Config(num_actions=NUM_ACTIONS, min_count=min_count)


LEARNERS: dict[str, tuple[Any, Any]] = {
    "BC": (tabular_bc, tabular_bc.Config(num_actions=NUM_ACTIONS)),
    "none, optimism 0": _iteration(constraint="none", initial_value=0.0),
    "none, optimism 1": _iteration(constraint="none", initial_value=1.0),
    "BCQ, threshold 0.1": _iteration(constraint="support", threshold=0.1),
    "BCQ, threshold 0.3": _iteration(constraint="support", threshold=0.3),
    "SPIBB, 5 rows": _spibb(5.0),
    "SPIBB, 20 rows": _spibb(20.0),
}


def main(_):
    """Exact returns of those who know, learners on logs, table, picture."""
    mdp = tabular.sepsis_world()
    behavior = tabular.sepsis_behavior(mdp, _EPSILON.value)
    known = {"clinicians": behavior, "optimal": tabular.sepsis_behavior(mdp, 0.0)}
    for name, policy in known.items():
        print(f"{name:20}{exact_return(mdp, policy):8.3f}")
    rows = []
    for episodes in map(int, _EPISODES.value):
        logs = [sample_log(mdp, behavior, seed, episodes) for seed in range(_LOGS.value)]
        for name in LEARNERS:
            results = np.array([learn(name, mdp, log, _SWEEPS.value) for log in logs])
            rows.append(summarize(name, episodes, results))
            print(
                "{learner:20}{episodes:8d}{return:8.3f} [{low:.3f}, {high:.3f}]".format(**rows[-1])
                + ("" if rows[-1]["estimate"] is None else f"  believes {rows[-1]['estimate']:.3f}")
            )
    folder = Path(drawing.OUTPUT_DIR.value)
    drawing.write_table(folder / "sepsis.csv", rows)
    limits = {name: exact_return(mdp, policy) for name, policy in known.items()}
    draw(rows, limits, folder / "sepsis.png")


def exact_return(mdp: tabular.MDP, policy: jax.Array) -> float:
    """Undiscounted, of the episodes as they are cut."""
    visits = tabular.expected_visits(mdp, policy, discount=1.0, horizon=NUM_STEPS)
    return float(jnp.sum(visits * mdp.expected_rewards()))


def sample_log(mdp: tabular.MDP, behavior: jax.Array, seed: int, episodes: int) -> data.Dataset:
    """So many episodes of what learners see: one-hot rows without diabetes."""
    states = jnp.arange(mdp.num_states, dtype=jnp.float32)[:, None]
    environment = tabular.TabularEnvironment(tabular.sepsis_world)
    params = tabular.make_params(mdp, states, max_steps=NUM_STEPS)
    policy = Partial(_act, jnp.log(behavior))
    key = jax.random.key(seed)
    found = envs.collect(environment, policy, key, num_episodes=episodes, params=params)
    rows = np.eye(NUM_OBSERVATIONS, dtype=np.float32)
    for episode in found:
        states = episode["observations"][:, 0].astype(int)
        episode["observations"] = rows[states % NUM_OBSERVATIONS]
    return data.from_episodes(found, action_space=Discrete(NUM_ACTIONS), name="sepsis")


def _act(logits, observation, key, policy_state):
    row = logits[observation[0].astype(int)]
    return jax.random.categorical(key, row).astype(jnp.int32), policy_state


def learn(name: str, mdp: tabular.MDP, log: data.Dataset, sweeps: int) -> tuple[float, float]:
    """The return of the learned policy, and what it believes; NaN where it believes nothing."""
    algorithm, config = LEARNERS[name]
    updates = 1 if algorithm is tabular_bc else sweeps

    @jax.jit
    def train(log: data.Dataset) -> Any:
        return ddm.fit(algorithm, config, log, jax.random.key(0), updates)[0]

    state = train(log)
    patients = mdp.num_states // NUM_OBSERVATIONS
    value = exact_return(mdp, jnp.tile(state.policy, (patients, 1)))
    if not hasattr(state, "values"):
        return value, float("nan")
    first = jnp.sum(mdp.initial.reshape(patients, NUM_OBSERVATIONS), axis=0)
    return value, float(first @ state.values)


def summarize(name: str, episodes: int, results: np.ndarray) -> dict[str, Any]:
    """A row with means over logs, and the interval of the return."""
    returns, estimates = results.T
    low, high = statistics.bootstrap_interval(returns, statistics.mean)
    return {
        "learner": name, "episodes": episodes, "return": float(returns.mean()), "low": float(low),
        "high": float(high), "logs": len(returns),
        "estimate": None if np.isnan(estimates).any() else float(estimates.mean()),
    }  # fmt: skip


def draw(rows: list[dict[str, Any]], limits: dict[str, float], path: Path) -> None:
    """What each learner believes (open) and does (filled), by the size of its log."""
    figure = drawing.new_figure(9.0, 4.0)
    axis = figure.subplots()
    sizes = list(dict.fromkeys(row["episodes"] for row in rows))
    for i, size in enumerate(sizes):
        own = [row for row in rows if row["episodes"] == size]
        places = np.arange(len(own)) + 0.24 * (i - (len(sizes) - 1) / 2)
        means = np.array([row["return"] for row in own])
        ends = np.array([[row["low"], row["high"]] for row in own]).T
        style = {"color": f"C{i}", "ls": "none", "marker": "o"}
        label = f"{size:,} episodes"
        axis.errorbar(places, means, np.abs(ends - means), capsize=2, label=label, **style)
        beliefs = [np.nan if row["estimate"] is None else row["estimate"] for row in own]
        label = "what it believes" if i == 0 else None
        axis.plot(places, beliefs, mfc="none", label=label, **style)
    for (name, value), style in zip(limits.items(), (":", "--"), strict=True):
        axis.axhline(value, color="black", ls=style, lw=1.0, label=name)
    axis.set_xticks(range(len(LEARNERS)), list(LEARNERS), rotation=20, ha="right", fontsize=8)
    axis.set(ylabel="return", title="Treating sepsis from logs: beliefs and returns")
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    drawing.tidy(axis)
    drawing.save_figure(figure, path)


if __name__ == "__main__":
    runner.launch(main)
