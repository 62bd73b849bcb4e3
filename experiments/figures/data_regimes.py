"""What a log must hold for offline RL to beat cloning: three logs of one grid world.

    python experiments/figures/data_regimes.py

"DiscountGrid" with noise 0.2 and discount 0.99, where the optimal policy walks along the top to
the far exit. Three behaviour policies log it:

- `expert`: the optimal policy, and nothing else.
- `narrow`: the policy that a discount of 0.3 makes optimal (mostly to the near exit), but west
  in 30 % of its steps. The better way is not in its support.
- `broad`: the same, but a uniformly random action in 30 % of its steps. Everything is in its
  support; the return is that of `narrow` within 0.06.

Cloning earns what the behaviour earns. Offline RL earns the best of the behaviour's support, so
that cloning loses nothing on `expert`, almost nothing on `narrow`, and nearly all on `broad`.

Exact rows are the limit of endless data: the behaviour's own return, and value iteration among
its actions. Learners train on sampled logs of equal size, with their modules' defaults but for
`LEARNERS`; their policies (greedy for CQL, random ones otherwise) are scored exactly.
Intervals are 95 % bootstrap intervals of the mean over logs.
"""

from __future__ import annotations

import dataclasses
import functools
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
from ddm.envs.tabular.worlds import WEST
from ddm.evaluation import statistics
from ddm.imitation import tabular_bc
from ddm.lower_bound import tabular_cql
from ddm.ops import improvement
from ddm.policy_constraint import constrained_iteration, spibb
from ddm.types import Discrete

_LOGS = flags.DEFINE_integer("num_logs", 20, "Logs drawn from each behaviour.", lower_bound=2)
_STEPS = flags.DEFINE_integer("log_steps", 2_000, "Transitions of each log.", lower_bound=1)

NOISE, DISCOUNT, SHORT_SIGHT, RANDOM_SHARE, MAX_STEPS = 0.2, 0.99, 0.3, 0.3, 100
OPTIONS: dict[str, Any] = {"num_actions": 4, "discount": DISCOUNT}
# Name -> module, configuration, updates until nothing changes that matters.
LEARNERS: dict[str, tuple[Any, Any, int]] = {
    "BC": (tabular_bc, tabular_bc.Config(num_actions=4), 1),
    "support": (constrained_iteration, constrained_iteration.Config(**OPTIONS), 500),
    "KL penalty": (
        constrained_iteration,
        constrained_iteration.Config(**OPTIONS, constraint="kl_penalty"),
        500,
    ),
    "SPIBB": (spibb, spibb.Config(**OPTIONS), 500),
    "CQL": (
        tabular_cql,
        tabular_cql.Config(**OPTIONS, learning_rate=5.0, whole_dataset=True),
        4_000,
    ),
}


def main(_):
    """Exact limits, learners on sampled logs, table, picture."""
    mdp = tabular.discount_grid(NOISE, DISCOUNT)
    rows = []
    for number, (regime, behavior) in enumerate(behaviors().items()):
        rows += exact_rows(mdp, regime, behavior)
        key = jax.random.fold_in(jax.random.key(0), number)
        logs = sample_logs(behavior, key, _LOGS.value, _STEPS.value)
        for learner in LEARNERS:
            rows.append(summarize(regime, learner, learned_returns(learner, mdp, logs)))
    print_table(rows)
    folder = Path(drawing.OUTPUT_DIR.value)
    drawing.write_table(folder / "data_regimes.csv", rows)
    draw(rows, folder / "data_regimes.png")


def behaviors() -> dict[str, jax.Array]:
    """The three behaviour policies (S, 4)."""
    expert = tabular.value_iteration(tabular.discount_grid(NOISE, DISCOUNT)).policy
    short_sighted = tabular.value_iteration(tabular.discount_grid(NOISE, SHORT_SIGHT)).policy
    west = jax.nn.one_hot(jnp.full(len(expert), WEST), 4, dtype=expert.dtype)
    return {
        "expert": expert,
        "narrow": (1.0 - RANDOM_SHARE) * short_sighted + RANDOM_SHARE * west,
        "broad": (1.0 - RANDOM_SHARE) * short_sighted + RANDOM_SHARE * 0.25,
    }


def exact_rows(mdp: tabular.TabularMDP, regime: str, behavior: jax.Array) -> list[dict[str, Any]]:
    """Returns of cloning and of offline RL on endless data."""
    operator = Partial(improvement.support, behavior=behavior)
    best = tabular.value_iteration(mdp, operator)
    exact = {
        "BC, exact": tabular.expected_return(mdp, behavior),
        "offline RL, exact": mdp.initial @ best.values,
    }
    return [make_row(regime, name, float(value)) for name, value in exact.items()]


def make_row(
    regime: str,
    learner: str,
    value: float,
    ends: tuple[float, float] | None = None,
    logs: int | None = None,
) -> dict[str, Any]:
    """A row of the table; an exact one has neither interval nor logs."""
    low, high = ends or (None, None)
    return {
        "regime": regime, "learner": learner, "return": value, "low": low, "high": high,
        "logs": logs,
    }  # fmt: skip


def sample_logs(behavior: jax.Array, key: jax.Array, logs: int, steps: int) -> data.Dataset:
    """Logs with a leading axis. Every step is an episode, so that all logs have equal shapes."""
    environment = tabular.TabularEnvironment(
        functools.partial(tabular.discount_grid, NOISE, DISCOUNT), max_steps=MAX_STEPS
    )
    params = environment.default_params
    policy = Partial(_act, jnp.log(behavior))
    drawn = []
    for log_key in jax.random.split(key, logs):
        episodes = envs.collect(environment, policy, log_key, num_steps=steps, params=params)
        single = [one_step for episode in episodes for one_step in _split_steps(episode)]
        log = data.from_episodes(single, action_space=Discrete(4), name="log")
        # No learner here needs next actions, and as many are known as steps terminated.
        drawn.append(dataclasses.replace(log, next_action_ids=log.next_action_ids[:0]))
    return jax.tree.map(lambda *logs: jnp.stack(logs), *drawn)


def _split_steps(episode: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    episode = {**episode, "truncations": ~episode["terminations"]}
    return [
        {
            name: values[t : t + (2 if name == "observations" else 1)]
            for name, values in episode.items()
        }
        for t in range(len(episode["rewards"]))
    ]


def _act(logits, observation, key, policy_state):
    # The chosen row, not a product: minus infinity times zero is not a number.
    row = logits[jnp.argmax(observation)]
    return jax.random.categorical(key, row).astype(jnp.int32), policy_state


def learned_returns(learner: str, mdp: tabular.TabularMDP, logs: data.Dataset) -> np.ndarray:
    """Exact returns (logs,) of the policies learned from each log."""
    algorithm, config, updates = LEARNERS[learner]

    @jax.jit
    @jax.vmap
    def train(log: data.Dataset) -> jax.Array:
        state, _ = ddm.fit(algorithm, config, log, jax.random.key(0), updates)
        if hasattr(state, "policy"):
            return state.policy
        return improvement.greedy(state.action_values).policy

    policies = train(logs)
    return np.asarray(jax.vmap(lambda policy: tabular.expected_return(mdp, policy))(policies))


def summarize(regime: str, learner: str, returns: np.ndarray) -> dict[str, Any]:
    """A row with the mean over logs and its interval."""
    low, high = statistics.bootstrap_interval(returns, statistics.mean)
    return make_row(regime, learner, float(returns.mean()), (float(low), float(high)), len(returns))


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line a learner, one column a regime."""
    regimes = list(dict.fromkeys(row["regime"] for row in rows))
    print(f"{'return':20}" + "".join(f"{regime:>22}" for regime in regimes))
    for learner in dict.fromkeys(row["learner"] for row in rows):
        line = f"{learner:20}"
        for row in (row for row in rows if row["learner"] == learner):
            interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
            line += f"{row['return']:.3f}{interval}".rjust(22)
        print(line)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of the learners, grouped by regime; the exact limits as lines across a group."""
    regimes = list(dict.fromkeys(row["regime"] for row in rows))
    figure = drawing.new_figure(9.0, 4.4)
    axis = figure.subplots()
    width = 0.8 / len(LEARNERS)
    for i, learner in enumerate(LEARNERS):
        found = [row for row in rows if row["learner"] == learner]
        means = np.array([row["return"] for row in found])
        ends = np.array([[row["low"], row["high"]] for row in found]).T
        places = np.arange(len(regimes)) + width * (i - (len(LEARNERS) - 1) / 2)
        errors = np.abs(ends - means)
        axis.bar(places, means, width=0.92 * width, yerr=errors, capsize=2, label=learner)
    for name, style in (("BC, exact", ":"), ("offline RL, exact", "--")):
        for i, row in enumerate(row for row in rows if row["learner"] == name):
            label = name if i == 0 else None
            axis.hlines(
                row["return"], i - 0.45, i + 0.45, color="black", ls=style, lw=1.2, label=label
            )
    titles = {
        "expert": "expert only",
        "narrow": "poor, little coverage",
        "broad": "poor, covers all",
    }
    axis.set_xticks(range(len(regimes)), [titles[regime] for regime in regimes])
    axis.set(ylabel="return of the learned policy", title="Cloning or offline RL? It is the log")
    axis.legend(frameon=False, fontsize=8, ncols=2)
    axis.axhline(0.0, color="black", lw=0.8)
    drawing.tidy(axis)
    drawing.save_figure(figure, path)


if __name__ == "__main__":
    runner.launch(main)
