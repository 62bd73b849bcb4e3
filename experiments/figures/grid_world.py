"""The optimal values of the lecture's grid world, beside the published ones.

    python experiments/figures/grid_world.py

The grid is "DiscountGrid" of Berkeley's CS188: a near exit (+1), a far one (+10), a row of cliffs
(-10). CS287 prints its optimal values for a discount of 0.99 and noise 0.5 with two decimals; the
fifteen free cells here must agree after rounding. The other three answers to the course's
question (which discount and noise make the agent take which exit, along which way?) stand beside
it. Values are exact: value iteration in float64.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import drawing
import jax
import numpy as np

from ddm import runner
from ddm.envs import tabular

# Rows from the top. Walls are the blanks of the slide; the bottom row and two cells are exits.
PUBLISHED = np.array(
    [
        [8.67, 8.93, 9.11, 9.30, 9.42],
        [8.49, np.nan, 9.09, 9.42, 9.68],
        [8.33, np.nan, 1.00, np.nan, 10.00],
        [7.13, 5.04, 3.15, 5.68, 8.45],
        [-10.0, -10.0, -10.0, -10.0, -10.0],
    ]
)
PUBLISHED_FOR = (0.99, 0.5)  # discount and noise
QUESTIONS = ((0.99, 0.5), (0.99, 0.0), (0.1, 0.5), (0.1, 0.0))
ACTIONS = "NESW"
_ARROWS = {"N": (0.0, -1.0), "E": (1.0, 0.0), "S": (0.0, 1.0), "W": (-1.0, 0.0)}  # x, y down


def main(_):
    """Solve, print beside the published numbers, write, draw."""
    jax.config.update("jax_enable_x64", True)
    rows = [row for discount, noise in QUESTIONS for row in solve(discount, noise)]
    for discount, noise in QUESTIONS:
        print(f"discount {discount}, noise {noise}")
        print_grid(select(rows, discount, noise))
    compared = [row for row in rows if row["published"] is not None]
    equal = sum(round(row["value"], 2) == row["published"] for row in compared)
    worst = max(row["difference"] for row in compared)
    print(f"{equal} of {len(compared)} published values agree to two decimals (within {worst:.4f})")
    folder = Path(drawing.OUTPUT_DIR.value)
    drawing.write_table(folder / "grid_world.csv", rows)
    draw(rows, folder / "grid_world.png")


def solve(discount: float, noise: float) -> list[dict[str, Any]]:
    """One row a cell that is not a wall: value and greedy action, "exit" in exits."""
    mdp = tabular.discount_grid(noise, discount)
    solution = tabular.value_iteration(mdp, tolerance=1e-10)
    values, policy = np.asarray(solution.values), np.asarray(solution.policy)
    leaves = np.asarray(mdp.transitions)[:, :, -1].min(axis=1) == 1.0  # whatever the action
    rows = []
    for state, (row, column) in enumerate(tabular.grid_cells(tabular.DISCOUNT_GRID)):
        known = (discount, noise) == PUBLISHED_FOR
        published = float(PUBLISHED[row, column]) if known else None
        value = float(values[state])
        rows.append(
            {
                "discount": discount,
                "noise": noise,
                "row": int(row),
                "column": int(column),
                "value": value,
                "action": "exit" if leaves[state] else ACTIONS[policy[state].argmax()],
                "published": published,
                "difference": None if published is None else abs(value - published),
            }
        )
    return rows


def select(rows: list[dict[str, Any]], discount: float, noise: float) -> list[dict[str, Any]]:
    """The rows of one question."""
    return [row for row in rows if (row["discount"], row["noise"]) == (discount, noise)]


def print_grid(rows: list[dict[str, Any]]) -> None:
    """Values to two decimals with the action's letter; x marks an exit, blanks are walls."""
    cells = {(row["row"], row["column"]): row for row in rows}
    for i in range(PUBLISHED.shape[0]):
        line = ""
        for j in range(PUBLISHED.shape[1]):
            cell = cells.get((i, j))
            action = "x" if cell and cell["action"] == "exit" else cell and cell["action"]
            line += f"{cell['value']:8.2f} {action}" if cell else " " * 10
        print(line)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel a question: heat map, numbers, arrows."""
    figure = drawing.new_figure(9.0, 8.2)
    panels = figure.subplots(2, 2).flat
    for axis, (discount, noise) in zip(panels, QUESTIONS, strict=True):
        values = np.full(PUBLISHED.shape, np.nan)
        for row in select(rows, discount, noise):
            values[row["row"], row["column"]] = row["value"]
            _draw_cell(axis, row)
        axis.set_facecolor("0.3")
        axis.imshow(values, cmap="RdYlGn", vmin=-10.0, vmax=10.0)
        axis.set(xticks=[], yticks=[], title=f"discount {discount}, noise {noise}")
        for i, j in itertools.product(*map(range, values.shape)):
            axis.plot([j - 0.5, j + 0.5], [i + 0.5, i + 0.5], color="white", lw=1.0)
            axis.plot([j + 0.5, j + 0.5], [i - 0.5, i + 0.5], color="white", lw=1.0)
    figure.suptitle("Optimal values and policies; the first panel is the published table")
    drawing.save_figure(figure, path)


def _draw_cell(axis: Any, row: dict[str, Any]) -> None:
    column, line = row["column"], row["row"]
    if row["action"] == "exit":
        axis.text(column, line, f"{row['value']:g}", ha="center", va="center", weight="bold")
        return
    axis.text(column, line + 0.28, f"{row['value']:.2f}", ha="center", va="center", fontsize=9)
    x, y = _ARROWS[row["action"]]
    start, end = (
        (column - 0.2 * x, line - 0.12 - 0.2 * y),
        (column + 0.2 * x, line - 0.12 + 0.2 * y),
    )
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "black"})


if __name__ == "__main__":
    runner.launch(main)
