"""Whether the game of GAIL converges: estimated divergence, accuracies of both sides, return.

    python experiments/figures/gail_convergence.py

GAIL learns on the grid of Berkeley's CS188 (`ddm.envs.tabular.discount_grid`) from sampled episodes
of a soft-optimal expert. Every update is drawn:

- `estimated_divergence`, what the discriminator's loss shows of the Jensen-Shannon divergence, and
  `divergence`, the exact one of both discounted occupancies, the absorbing state included. The
  discriminator sees undiscounted steps of finitely many episodes, so that the two do not agree to
  the last digit;
- `expert_accuracy` and `own_accuracy`, the shares of rows that it tells apart: a half each, if
  nothing is left to tell;
- `return`, the exact discounted return in the environment's reward, which nobody learns from;
- `discriminator_return`, the mean of the returns of the discriminator's reward.

Three contestants: the reward softplus(h) with absorbing states and without, and the reward h with
them. Without absorbing states a reward that is never below 0 pays for episodes that never end.
Lines are means over seeds, bands 95 % bootstrap intervals.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from pathlib import Path
from typing import Any

import drawing
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import ddm
from ddm import data, envs, runner
from ddm.envs import tabular
from ddm.evaluation import statistics
from ddm.imitation import gail
from ddm.ops import divergences, improvement

_SEEDS = flags.DEFINE_integer("policy_seeds", 3, "Seeds of each contestant.", lower_bound=1)
_UPDATES = flags.DEFINE_integer("policy_updates", 100, "Updates of each policy.", lower_bound=1)
_EPISODES = flags.DEFINE_integer("demonstrations", 100, "Episodes of the expert.", lower_bound=1)

DISCOUNT = 0.95
TEMPERATURE = 0.1  # of the expert
COPIES, MAX_STEPS, ROWS = 8, 100, 64
SHARED = gail.Config(
    head="tabular", window=32, hidden_sizes=(16,), discount=DISCOUNT, actor_learning_rate=0.01,
    value_learning_rate=1e-2, num_epochs=4, num_minibatches=4, decay_steps=0, entropy_weight=0.01,
    discriminator_hidden_sizes=(32,), discriminator_learning_rate=3e-3,
    gradient_penalty_weight=0.1,
)  # fmt: skip
CONTESTANTS = {
    "softplus(h)": SHARED,
    "softplus(h), no absorbing state": SHARED.replace(absorbing=False),
    "h": SHARED.replace(reward="airl"),
}
METRICS = (
    "estimated_divergence", "divergence", "expert_accuracy", "own_accuracy", "return",
    "discriminator_return",
)  # fmt: skip


def main(_):
    """Demonstrations, trainings, table, picture."""
    log = demonstrate(_EPISODES.value, jax.random.key(0))
    goal = float(tabular.expected_return(grid(), expert_policy()))
    print(f"{log.num_transitions} transitions of the expert, whose return is {goal:.3f}")
    rows = []
    for name, config in CONTESTANTS.items():
        found = learn(config, log, _UPDATES.value, _SEEDS.value)
        rows += summarize(name, found)
        last = rows[-1]
        print(
            ", ".join(f"{key} {_text(last[key])}" for key in ("contestant", *METRICS)), flush=True
        )
    folder = Path(drawing.OUTPUT_DIR.value)
    drawing.write_table(folder / "gail_convergence.csv", rows)
    draw(rows, goal, folder / "gail_convergence.png")


def grid() -> tabular.MDP:
    """The world."""
    return tabular.discount_grid(noise=0.2, discount=DISCOUNT)


WORLD = envs.TabularEnvironment(grid, max_steps=MAX_STEPS)


@functools.cache
def expert_policy() -> jax.Array:
    """(S, A) soft-optimal, so that it sometimes takes any way."""
    soft = jax.tree_util.Partial(improvement.soft_greedy, temperature=TEMPERATURE)
    return tabular.value_iteration(grid(), soft).policy


def demonstrate(episodes: int, key: jax.Array) -> data.Dataset:
    """Episodes of the expert; their rewards are left out."""
    log_policy = jnp.log(expert_policy())

    def act(observation: jax.Array, key: jax.Array, policy_state: Any = ()) -> Any:
        state = jnp.argmax(observation)
        return jax.random.categorical(key, log_policy[state]).astype(jnp.int32), policy_state

    drawn = envs.collect(WORLD, act, key, num_episodes=episodes)
    for episode in drawn:
        episode["rewards"] = np.zeros_like(episode["rewards"])
    space = WORLD.action_space(WORLD.default_params)
    return data.from_episodes(drawn, action_space=space, name="demonstrations")


def learn(config: Any, log: data.Dataset, updates: int, seeds: int) -> dict[str, np.ndarray]:
    """Trains all seeds in one program; `METRICS` (seeds, updates)."""
    spec = dataclasses.replace(gail.collect_spec(config), copies=COPIES)
    collector = ddm.Collector.create(WORLD, spec)
    steps = updates * config.discriminator_steps

    def one_seed(log: data.Dataset, key: jax.Array) -> dict[str, jax.Array]:
        _, metrics = ddm.fit_online(JUDGED, config, collector, key, steps, log=log, batch_size=ROWS)
        shown = {"discriminator_return": metrics["return"], "return": metrics["true_return"]}
        return {name: {**metrics, **shown}[name] for name in METRICS}

    run = jax.jit(jax.vmap(one_seed, (None, 0)))
    found = run(log, jax.random.split(jax.random.key(1), seeds))
    return {name: np.asarray(values) for name, values in found.items()}


def update_and_judge(config: Any, state: gail.State, batch: Any) -> tuple[gail.State, Any]:
    """GAIL's update, and what is exactly known of the policy after it."""
    state, metrics = gail.update(config, state, batch)
    return state, {**metrics, **judge(config, state)}


JUDGED: Any = types.SimpleNamespace(
    Config=gail.Config, State=gail.State, batch_spec=gail.batch_spec, init=gail.init, act=gail.act,
    update=update_and_judge,
)  # fmt: skip


def judge(config: Any, state: gail.State) -> dict[str, jax.Array]:
    """Exact return of the policy, and the exact divergence of its occupancy from the expert's."""
    mdp = grid()
    states, actions = jnp.eye(mdp.num_states), jnp.arange(mdp.num_actions)
    log_probs = jax.vmap(
        lambda action: gail.log_prob(config, state, states, jnp.full(len(states), action))
    )(actions)
    policy = jax.nn.softmax(log_probs.T)
    return {
        "true_return": tabular.expected_return(mdp, policy),
        "divergence": exact_divergence(policy, expert_policy()),
    }


def exact_divergence(policy: jax.Array, expert: jax.Array) -> jax.Array:
    """Jensen-Shannon divergence of two policies' discounted occupancies, in nats."""
    visits = [tabular.occupancy(grid(), each).ravel() for each in (policy, expert)]
    # Rounding may leave a little less than nothing for the absorbing state.
    ended = [jnp.maximum(1.0 - jnp.sum(each), 0.0) for each in visits]
    return divergences.categorical_js(*(map(jnp.append, visits, ended)))


def summarize(name: str, found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for each update: means over seeds, with intervals."""
    seeds, updates = found["return"].shape
    rows = []
    for update in range(updates):
        row: dict[str, Any] = {"contestant": name, "update": update + 1, "seeds": seeds}
        for metric in METRICS:
            values = found[metric][:, update]
            low, high = statistics.bootstrap_interval(values, statistics.mean)
            row[metric] = float(values.mean())
            row |= {f"{metric}_low": float(low), f"{metric}_high": float(high)}
        rows.append(row)
    return rows


def draw(rows: list[dict[str, Any]], goal: float, path: Path) -> None:
    """A column a contestant; divergence, accuracies, returns from above."""
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    figure = drawing.new_figure(3.2 * len(names), 8.0)
    panels = figure.subplots(4, len(names), squeeze=False, sharex=True, sharey="row")
    shown = (
        (("estimated_divergence", "estimated"), ("divergence", "exact")),
        (("expert_accuracy", "expert's rows"), ("own_accuracy", "own rows")),
        (("return", "in the world"),),
        (("discriminator_return", "of the discriminator"),),
    )
    for column, name in enumerate(names):
        own = [row for row in rows if row["contestant"] == name]
        for panel, lines in zip(panels[:, column], shown, strict=True):
            for color, (metric, label) in enumerate(lines):
                _line(panel, own, metric, label, f"C{color}")
            drawing.tidy(panel)
        panels[0, column].set_title(name, fontsize=10)
        panels[0, column].axhline(float(np.log(2.0)), color="0.5", lw=0.8, ls=":")
        panels[1, column].axhline(0.5, color="0.5", lw=0.8, ls=":")
        panels[2, column].axhline(goal, color="0.5", lw=0.8, ls=":")
        panels[3, column].set_xlabel("update")
    titles = ("divergence (nats)", "accuracy", "return", "return of the\nlearned reward")
    for row, title in enumerate(titles):
        panels[row, 0].set_ylabel(title)
    panels[0, 0].legend(fontsize=7)
    panels[1, 0].legend(fontsize=7)
    drawing.save_figure(figure, path)


def _line(panel: Any, rows: list[dict[str, Any]], metric: str, label: str, color: str) -> None:
    steps = [row["update"] for row in rows]
    panel.plot(steps, [row[metric] for row in rows], color=color, label=label, lw=1.2)
    low, high = ([row[f"{metric}_{end}"] for row in rows] for end in ("low", "high"))
    panel.fill_between(steps, low, high, color=color, alpha=0.2, lw=0)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.3f}"


if __name__ == "__main__":
    runner.launch(main)
