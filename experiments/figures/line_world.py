"""Matching the behaviour's distribution against staying in its support, on a line.

    python experiments/figures/line_world.py

Positions -5 .. n, a start at 0, a goal at n that earns 1, discount 0.95. From the start on the
behaviour goes right one time in ten; left of the start it always goes left, so that going right
there is out of distribution. The geometry is that of Kumar's account of BEAR (2019); rewards and
probabilities are ours. Every learner is the exact fixed point of its own improvement operator
(`ddm.ops.improvement`), which never backs up an action that the behaviour never takes: its value
stays what it was initialised to, 0, or 2, which is above every return.

The KL constraint reaches the goal only where it allows ln(1 / 0.1) = 2.3 nats, and the less often
the longer the line. A divergence that is finite off the support (total variation; KL to a
smoothed estimate) lets optimistic values leak in. The support constraint does neither.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import drawing
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.tree_util import Partial

from ddm import runner
from ddm.envs import tabular
from ddm.envs.tabular.worlds import LEFT, RIGHT
from ddm.ops import improvement

_LENGTHS = flags.DEFINE_list("lengths", ["3", "5", "10"], "Positions of the goal.")

LEFT_END, RIGHT_SHARE, SMOOTHING = 5, 0.1, 0.02
INITIAL_VALUES = (0.0, 2.0)  # of pairs that are not in the data: neutral, optimistic
KL_LIMITS = (0.01, 0.1, 0.5, 1.0, 2.0, math.log(1.0 / RIGHT_SHARE))
KL_WEIGHTS = (1.0, 0.3, 0.1, 0.03)
TV_LIMITS = (0.3, 0.5, 0.8, 0.9)
EXPECTILES = (0.5, 0.7, 0.9, 0.99, 0.999)
INVERSE_TEMPERATURES = (3.0, 10.0, 100.0)


class Result(NamedTuple):
    """What a learner comes to; a leading axis is that of its settings."""

    policy: jax.Array  # (S, 2)
    action_values: jax.Array  # (S, 2)


def main(_):
    """Solve every learner on every line, print, write, draw."""
    jax.config.update("jax_enable_x64", True)
    rows = [row for length in map(int, _LENGTHS.value) for row in solve(length)]
    print_table(rows)
    folder = Path(drawing.OUTPUT_DIR.value)
    table = [{name: row[name] for name in row if name != "right"} for row in rows]
    drawing.write_table(folder / "line_world.csv", table)
    draw(rows, folder / "line_world.png")


def solve(length: int) -> list[dict[str, Any]]:
    """One row a learner, setting and initial value, on the line whose goal is at `length`.

    `right` is the list of probabilities of going right, one a position before the goal; the other
    entries are numbers or names.
    """
    mdp = tabular.line_world(length, left=LEFT_END)
    behavior = tabular.line_behavior(length, left=LEFT_END, right=RIGHT_SHARE)
    labels, results = [], []
    for learner, initial_value, settings, result in learners(mdp, behavior):
        labels += [(learner, setting, initial_value) for setting in settings]
        results.append(result)
    policies, action_values = jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)
    scores = jax.vmap(functools.partial(measure, mdp, behavior))(policies)
    scores |= {
        "right_at_start": policies[:, LEFT_END, RIGHT],
        "value_left": action_values[:, LEFT_END, LEFT],
        "value_right": action_values[:, LEFT_END, RIGHT],
    }
    scores = {name: np.asarray(values) for name, values in scores.items()}
    return [
        {"length": length, "learner": learner, "setting": setting, "initial_value": initial_value}
        | {name: float(values[i]) for name, values in scores.items()}
        | {"right": np.asarray(policies[i, :-1, RIGHT])}
        for i, (learner, setting, initial_value) in enumerate(labels)
    ]


def learners(
    mdp: tabular.TabularMDP, behavior: jax.Array
) -> Iterator[tuple[str, float | None, tuple[Any, ...], Result]]:
    """Name, initial value of unseen actions, settings, and results, one a setting.

    The settings are the divergence allowed (`kl_constraint`, in nats; `total_variation`), the
    weight of the penalty, or the expectile and the inverse temperature of the extraction (IQL).
    """
    smoothed = (1.0 - SMOOTHING) * behavior + SMOOTHING / 2
    _, values = tabular.evaluate_policy(mdp, behavior)
    yield "behavior", None, (None,), Result(behavior[None], values[None])
    for name, operator, settings in (
        ("unconstrained", lambda _, q: improvement.greedy(q), (None,)),
        ("support", lambda _, q: improvement.support(q, behavior), (None,)),
        ("kl_constraint", lambda x, q: improvement.kl_constraint(q, behavior, x), KL_LIMITS),
        ("kl_penalty", lambda x, q: improvement.kl_penalty(q, behavior, x), KL_WEIGHTS),
        ("smoothed_kl_penalty", lambda x, q: improvement.kl_penalty(q, smoothed, x), KL_WEIGHTS),
        ("total_variation", lambda x, q: improvement.total_variation(q, behavior, x), TV_LIMITS),
    ):
        solved = _fixed_points(mdp, operator, settings, behavior > 0.0)
        for i, initial_value in enumerate(INITIAL_VALUES):
            yield name, initial_value, settings, Result(*(part[i] for part in solved))
    solved, state_values = _expectiles(mdp, behavior)
    extract = jax.vmap(improvement.advantage_weighted, (0, 0, None, None))
    for inverse_temperature in INVERSE_TEMPERATURES:
        policies = extract(solved.action_values, state_values, behavior, inverse_temperature)
        settings = tuple(f"{level:g} {inverse_temperature:g}" for level in EXPECTILES)
        yield "iql", None, settings, Result(policies, solved.action_values)


def measure(
    mdp: tabular.TabularMDP, behavior: jax.Array, policy: jax.Array
) -> dict[str, jax.Array]:
    """Exact scores of a policy, all scalars.

    `reach` is the probability of ever entering the goal (within 10,000 steps, which is the same
    to four digits), `reach_within` that of entering it within 200; `off_support` is the largest
    probability, over positions, of an action that the behaviour never takes there.
    """
    goal = mdp.terminal
    off_support = jnp.sum(jnp.where(behavior > 0.0, 0.0, policy), axis=-1)
    return {
        "return": tabular.expected_return(mdp, policy),
        "reach": mdp.initial @ tabular.reach_within(mdp, policy, goal, 10_000),
        "reach_within": mdp.initial @ tabular.reach_within(mdp, policy, goal, 200),
        "kl_at_start": improvement.kl_divergence(policy, behavior)[LEFT_END],
        "off_support": jnp.max(jnp.where(goal, 0.0, off_support)),
    }


def find(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """The rows whose entries are the wanted ones."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Probability of reaching the goal, one column a line."""
    lengths = list(dict.fromkeys(row["length"] for row in rows))
    print(
        f"{'learner':22}{'setting':>10}{'unseen':>8}" + "".join(f"{f'n={n}':>12}" for n in lengths)
    )
    for first in find(rows, length=lengths[0]):
        same = {name: first[name] for name in ("learner", "setting", "initial_value")}
        setting = first["setting"]
        label = "" if setting is None else setting if isinstance(setting, str) else f"{setting:.4g}"
        unseen = "" if first["initial_value"] is None else f"{first['initial_value']:g}"
        reached = "".join(f"{row['reach']:12.3g}" for row in find(rows, **same))
        print(f"{first['learner']:22}{label:>10}{unseen:>8}{reached}")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Policies by position, reach against the KL allowed, and values of the two first steps."""
    lengths = list(dict.fromkeys(row["length"] for row in rows))
    shown = lengths[len(lengths) // 2]
    figure = drawing.new_figure(11.0, 6.4)
    panels = figure.subplots(2, 4)
    for axis, (title, wanted) in zip(panels[0], _SHOWN.items(), strict=True):
        [row] = find(rows, length=shown, **wanted)
        _draw_policy(axis, row)
        axis.set_title(f"{title}\nreaches the goal: {row['reach']:.2g}", fontsize=9)
    panels[0, 0].set_ylabel("probability of going right")
    grid = panels[1, 0].get_gridspec()
    for axis in panels[1]:
        axis.remove()
    _draw_reach(figure.add_subplot(grid[1, :2]), rows, lengths)
    _draw_optimism(figure.add_subplot(grid[1, 2:]), find(rows, length=shown))
    figure.suptitle(f"Line world: start at 0, goal at {shown}; grey: actions not in the data")
    drawing.save_figure(figure, path)


_SHOWN = {
    "behaviour": {"learner": "behavior"},
    "KL <= 0.5 nats": {"learner": "kl_constraint", "setting": 0.5, "initial_value": 2.0},
    "total variation <= 0.5, optimistic": {
        "learner": "total_variation", "setting": 0.5, "initial_value": 2.0
    },
    "support, optimistic": {"learner": "support", "setting": None, "initial_value": 2.0},
}  # fmt: skip


def _draw_policy(axis: Any, row: dict[str, Any]) -> None:
    positions = np.arange(-LEFT_END, row["length"])
    axis.axvspan(-LEFT_END - 0.5, -0.5, color="0.9", zorder=0)
    axis.bar(positions, row["right"], width=0.8, color=["C3" if p < 0 else "C0" for p in positions])
    for position, right in zip(positions, row["right"], strict=True):
        x = 0.35 * (2.0 * right - 1.0)  # the mean step
        axis.annotate(
            "", (position + x, 1.1), (position - x, 1.1), arrowprops={"arrowstyle": "->", "lw": 0.8}
        )
    axis.set(ylim=(0.0, 1.2), xlabel="position", xticks=positions[::2])
    drawing.tidy(axis)


def _draw_reach(axis: Any, rows: list[dict[str, Any]], lengths: list[int]) -> None:
    for i, length in enumerate(lengths):
        held = find(rows, length=length, learner="kl_constraint", initial_value=2.0)
        limits = [row["setting"] for row in held]
        axis.plot(
            limits, [row["reach"] for row in held], "o-", color=f"C{i}", label=f"goal at {length}"
        )
        [support] = find(rows, length=length, learner="support", initial_value=2.0)
        axis.plot(limits, [support["reach"]] * len(limits), "k--", lw=1.0)
    axis.axvline(KL_LIMITS[-1], color="0.6", lw=1.0)
    axis.text(KL_LIMITS[-1] * 0.97, 0.05, "ln(1 / 0.1)", ha="right", fontsize=8)
    axis.text(KL_LIMITS[0], 1.03, "support constraint, every length", fontsize=8)
    axis.set(xlabel="KL allowed (nats)", ylabel="reaches the goal", ylim=(-0.03, 1.12))
    axis.legend(frameon=False)
    drawing.tidy(axis)


def _draw_optimism(axis: Any, rows: list[dict[str, Any]]) -> None:
    chosen = (
        ("none", "unconstrained", None), ("total\nvariation 0.5", "total_variation", 0.5),
        ("smoothed KL,\nweight 0.03", "smoothed_kl_penalty", 0.03),
        ("KL, weight\n0.03", "kl_penalty", 0.03), ("support", "support", None),
    )  # fmt: skip
    for i, initial_value in enumerate(INITIAL_VALUES):
        found = [
            find(rows, learner=learner, setting=setting, initial_value=initial_value)[0]
            for _, learner, setting in chosen
        ]
        axis.bar(
            np.arange(len(chosen)) + 0.38 * (i - 0.5),
            [row["reach"] for row in found],
            width=0.36,
            label=f"unseen actions valued {initial_value:g}",
        )
    axis.set_xticks(range(len(chosen)), [label for label, _, _ in chosen], fontsize=8)
    axis.set(ylim=(0.0, 1.25), ylabel="reaches the goal")
    axis.legend(frameon=False, fontsize=8, ncols=2, loc="upper center")
    drawing.tidy(axis)


def _fixed_points(
    mdp: tabular.TabularMDP,
    operator: Callable[[jax.Array, jax.Array], improvement.Improved],
    settings: tuple[Any, ...],
    known: jax.Array,
) -> Result:
    """Results with leading axes (initial values, settings)."""

    def one(initial_value: jax.Array, setting: jax.Array) -> Result:
        improve = Partial(operator, setting)
        solution = tabular.value_iteration(mdp, improve, known=known, unknown_value=initial_value)
        return Result(solution.policy, solution.action_values)

    numbers = jnp.array([setting or 0.0 for setting in settings])
    over_settings = jax.vmap(one, (None, 0))
    return jax.vmap(over_settings, (0, None))(jnp.array(INITIAL_VALUES), numbers)


def _expectiles(mdp: tabular.TabularMDP, behavior: jax.Array) -> tuple[Result, jax.Array]:
    def one(level: jax.Array) -> tuple[Result, jax.Array]:
        improve = Partial(improvement.expectile, behavior=behavior, level=level)
        solution = tabular.value_iteration(mdp, improve, tolerance=1e-14)
        return Result(solution.policy, solution.action_values), solution.values

    return jax.vmap(one)(jnp.array(EXPECTILES))


if __name__ == "__main__":
    runner.launch(main)
