"""A grid with a wall and one gap in it, and a log that never tried to walk through the wall.

The world in which planning in a learned model goes wrong by rule. In the log a step to the east
moves to the east wherever it was tried, so that a model which generalises by the nearest example
walks through the wall: the way is short in the model, and no way at all in the world.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ddm.envs.tabular.mdp import TabularMDP, make_mdp
from ddm.envs.tabular.worlds import EAST, MOVES, WEST
from ddm.errors import InputError


def walled_grid(size: int = 10, *, discount: float = 0.97) -> TabularMDP:
    """A square of cells; a wall between its halves has a gap in the last row.

    Four sure actions, `NORTH`, `EAST`, `SOUTH`, `WEST`; at the border and at the wall the agent
    stays. Episodes start in the upper left corner. The upper right corner is the goal: entering it
    earns 1 and ends. For the default size the way through the gap takes 27 steps, so its return is
    0.97^26 = 0.453. Without the wall it would be 9 steps and 0.97^8 = 0.784.

    Args:
      size: rows and columns. The wall stands east of column `size // 2 - 1`.
      discount: in [0, 1].

    Returns:
      State `size * row + column` is a cell; the goal is state `size - 1`, and terminal.

    Raises:
      InputError: fewer than two cells a side.
    """
    _check_size(size)
    states = np.arange(size * size)
    cells = np.stack(np.divmod(states, size))
    moved = cells[:, :, None] + MOVES.T[:, None]  # (2, S, A) row and column
    rows, columns = np.clip(moved, 0, size - 1)
    targets = size * rows + columns
    walled = _at_the_wall(size)
    targets[walled, EAST] = states[walled]
    targets[np.roll(walled, 1), WEST] = states[np.roll(walled, 1)]
    is_goal = states == size - 1
    rewards = is_goal[targets] & ~is_goal[:, None]  # of entering it
    return make_mdp(np.eye(size * size)[targets], rewards, 0, discount, is_goal)


def walled_grid_support(size: int = 10) -> jax.Array:
    """The pairs of the log (S, A) bool: all but the steps to the east against the wall.

    The goal, where episodes end, has no pairs.
    """
    _check_size(size)
    support = np.ones((size * size, len(MOVES)), bool)
    support[_at_the_wall(size), EAST] = False
    support[size - 1] = False
    return jnp.asarray(support)


def _at_the_wall(size: int) -> np.ndarray:
    """(S,) bool: the cells whose eastern side is the wall."""
    rows, columns = np.divmod(np.arange(size * size), size)
    return (columns == size // 2 - 1) & (rows < size - 1)


def _check_size(size: int) -> None:
    if size < 2:
        raise InputError(f"size is {size}, expected at least 2 cells a side")
