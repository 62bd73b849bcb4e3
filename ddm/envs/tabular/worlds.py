"""Small MDPs in which claims of the literature can be checked exactly."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from ddm.envs.tabular.mdp import SparseTabularMDP, TabularMDP, check_discount, make_mdp
from ddm.errors import InputError
from ddm.types import PRNGKey

NORTH, EAST, SOUTH, WEST = range(4)
MOVES = np.array([[-1, 0], [0, 1], [1, 0], [0, -1]])  # (row, column), rows counted from the top

DISCOUNT_GRID = """
      .    .    .    .    .
      .    #    .    .    .
      .    #    1    #   10
      S    .    .    .    .
    -10  -10  -10  -10  -10
"""

LEFT, RIGHT = range(2)
STAY_ON_ROPE = 0  # the action of the tightrope's expert


def grid_world(
    layout: str,
    *,
    noise: float = 0.0,
    discount: float = 0.99,
    living_reward: float = 0.0,
) -> TabularMDP:
    """A grid of cells with walls and exits, from a text map.

    Four actions, `NORTH`, `EAST`, `SOUTH`, `WEST`. With probability `noise` a move goes in one of
    the two perpendicular directions instead, each equally likely. At a wall or the border the agent
    stays. In an exit every action earns the exit's reward and ends the episode, one step after the
    exit was entered, so that the value of the exit is its reward, undiscounted.

    Args:
      layout: one line per row of the grid, cells separated by spaces: "." free, "#" wall, "S" a
        free cell in which episodes start (uniformly, if several), a number an exit with that
        reward.
      noise: probability of a slip, in [0, 1].
      discount: in [0, 1].
      living_reward: of every step from a cell that is not an exit.

    Returns:
      States are the cells that are not walls, row by row, and one terminal state at the end. See
      :func:`grid_cells`.

    Raises:
      InputError: an empty or ragged map, an unknown cell, no start, noise outside [0, 1].
    """
    rows = _parse(layout)
    if not 0.0 <= noise <= 1.0:
        raise InputError(f"noise is {noise}, expected a number in [0, 1]")
    cells = grid_cells(layout)
    index = {(int(row), int(column)): state for state, (row, column) in enumerate(cells)}
    num_states, end = len(cells) + 1, len(cells)
    transitions = np.zeros((num_states, 4, num_states))
    rewards = np.zeros((num_states, 4))
    transitions[end, :, end] = 1.0
    for state, (row, column) in enumerate(cells):
        cell = rows[row][column]
        if cell not in (".", "S"):
            transitions[state, :, end] = 1.0
            rewards[state] = float(cell)
            continue
        rewards[state] = living_reward
        for action in range(4):
            for turn, probability in ((0, 1.0 - noise), (1, noise / 2), (-1, noise / 2)):
                target = tuple(cells[state] + MOVES[(action + turn) % 4])
                transitions[state, action, index.get(target, state)] += probability
    starts = np.array([rows[row][column] == "S" for row, column in cells] + [False])
    if not starts.any():
        raise InputError("the map has no start: mark at least one cell with S")
    return make_mdp(
        transitions, rewards, starts / starts.sum(), discount, np.arange(num_states) == end
    )


def grid_cells(layout: str) -> np.ndarray:
    """(row, column) of each state of :func:`grid_world` but the last, int (S - 1, 2)."""
    rows = _parse(layout)
    return np.array(
        [
            (row, column)
            for row, cells in enumerate(rows)
            for column, cell in enumerate(cells)
            if cell != "#"
        ]
    )


def discount_grid(noise: float = 0.5, discount: float = 0.99) -> TabularMDP:
    """The grid of Berkeley's CS188 ("DiscountGrid"): a near exit, a far one, a row of cliffs.

    With the defaults the optimal values are those that the CS287 lecture prints.
    """
    return grid_world(DISCOUNT_GRID, noise=noise, discount=discount)


def line_world(length: int, *, left: int = 5, discount: float = 0.95) -> TabularMDP:
    """A line of positions -left .. length; entering the last one earns 1 and ends.

    Actions `LEFT` and `RIGHT` move surely; at -left, `LEFT` stays. Episodes start at 0. State i is
    position i - left. The geometry is that of Kumar's account of BEAR (2019); rewards are ours.

    Raises:
      InputError: a length below one, or a negative `left`.
    """
    _check_line(length, left)
    num_states = left + length + 1
    states = np.arange(num_states)
    transitions = np.zeros((num_states, 2, num_states))
    transitions[states, LEFT, np.maximum(states - 1, 0)] = 1.0
    transitions[states, RIGHT, np.minimum(states + 1, num_states - 1)] = 1.0
    rewards = np.zeros((num_states, 2))
    rewards[num_states - 2, RIGHT] = 1.0
    return make_mdp(transitions, rewards, left, discount, states == num_states - 1)


def line_behavior(length: int, *, left: int = 5, right: float = 0.1) -> jax.Array:
    """The behaviour policy (S, 2) of the line world.

    Left of the start it always goes left, so `RIGHT` is outside its support there. From the start
    on it goes right with probability `right`.
    """
    _check_line(length, left)
    if not 0.0 <= right <= 1.0:
        raise InputError(f"right is {right}, expected a probability")
    positions = np.arange(-left, length + 1)
    rightwards = np.where(positions < 0, 0.0, right)
    return jnp.asarray(np.stack([1.0 - rightwards, rightwards], axis=-1), float)


def tightrope(recovery_steps: int | None = None, *, climb: float = 1.0) -> TabularMDP:
    """The chain on which cloning errors compound: an expert walks on a rope, and may fall off it.

    On the rope (state 0) action 0 is right; action 1 is wrong, costs 1, and leads off the rope. Off
    it every step costs 1. Without `recovery_steps` there is one state off the rope, and no way
    back (Ross & Bagnell 2010). With k of them, action 0 in state j <= k climbs to j - 1 with
    probability `climb`, else falls back to k, as action 1 does. Rewards are minus the costs. The
    discount is 1 and no state is terminal, so give a horizon.

    Raises:
      InputError: fewer than one recovery step, or `climb` outside [0, 1].
    """
    if recovery_steps is not None and recovery_steps < 1:
        raise InputError(f"recovery_steps is {recovery_steps}, expected at least 1, or None")
    if not 0.0 <= climb <= 1.0:
        raise InputError(f"climb is {climb}, expected a probability")
    depth = recovery_steps or 1
    transitions = np.zeros((depth + 1, 2, depth + 1))
    transitions[0, STAY_ON_ROPE, 0] = 1.0
    transitions[0, 1, depth] = 1.0
    transitions[1:, :, depth] = 1.0
    if recovery_steps is not None:
        below = np.arange(1, depth + 1)
        transitions[below, STAY_ON_ROPE, depth] = 1.0 - climb
        transitions[below, STAY_ON_ROPE, below - 1] += climb
    rewards = -np.ones((depth + 1, 2))
    rewards[0, STAY_ON_ROPE] = 0.0
    return make_mdp(transitions, rewards, 0, 1.0)


def combination_lock(
    length: int, num_actions: int = 2, *, discount: float = 0.99, seed: int = 0
) -> TabularMDP:
    """A lock with one right action per position: any other action leads to a dead end.

    The last right action earns 1. The combination is drawn from `seed`. Random search needs
    num_actions^length episodes; logged data needs one episode with the combination.

    Returns:
      States 0 .. length - 1 are the positions, `length` is open and `length + 1` dead, both
      terminal.

    Raises:
      InputError: a length below one or fewer than two actions.
    """
    if length < 1 or num_actions < 2:
        raise InputError(
            f"a lock has at least 1 position and 2 actions, not {length} and {num_actions}"
        )
    combination = np.random.default_rng(seed).integers(num_actions, size=length)
    num_states, opened, dead = length + 2, length, length + 1
    transitions = np.zeros((num_states, num_actions, num_states))
    transitions[:length, :, dead] = 1.0
    positions = np.arange(length)
    transitions[positions, combination] = np.eye(num_states)[positions + 1]
    transitions[opened, :, opened] = transitions[dead, :, dead] = 1.0
    rewards = np.zeros((num_states, num_actions))
    rewards[length - 1, combination[-1]] = 1.0
    return make_mdp(transitions, rewards, 0, discount, np.arange(num_states) >= length)


def random_mdp(
    key: PRNGKey,
    num_states: int,
    num_actions: int,
    num_successors: int,
    *,
    discount: float = 0.95,
) -> SparseTabularMDP:
    """A random MDP ("Garnet"): random successors, random probabilities, normal rewards.

    Each pair has `num_successors` next states, drawn with replacement, with probabilities uniform
    on the simplex, and a mean reward drawn from N(0, 1). Nothing terminates. Pure: may be vmapped
    over keys, for a batch of MDPs. Episodes start in state 0.

    Raises:
      InputError: a size below one, or a discount outside [0, 1].
    """
    sizes = (num_states, num_actions, num_successors)
    if min(sizes) < 1:
        raise InputError(f"states, actions and successors are {sizes}, expected at least 1 each")
    successor_key, probability_key, reward_key = jax.random.split(key, 3)
    return SparseTabularMDP(
        next_states=jax.random.randint(successor_key, sizes, 0, num_states),
        probabilities=jax.random.dirichlet(
            probability_key, jnp.ones(num_successors), (num_states, num_actions)
        ),
        rewards=jax.random.normal(reward_key, (num_states, num_actions, 1)),
        initial=jax.nn.one_hot(0, num_states, dtype=float),
        discount=jnp.asarray(check_discount(discount), float),
        terminal=jnp.zeros(num_states, bool),
    )


def _parse(layout: str) -> list[list[str]]:
    """The cells of a map, checked."""
    rows = [line.split() for line in layout.splitlines() if line.strip()]
    if not rows:
        raise InputError("the map is empty")
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise InputError(
                f"row {number} of the map has {len(row)} cells, row 0 has {len(rows[0])}"
            )
        for column, cell in enumerate(row):
            if cell not in (".", "#", "S") and not _is_number(cell):
                raise InputError(
                    f"row {number}, column {column} of the map is {cell!r}, "
                    "expected '.', '#', 'S' or a number"
                )
    return rows


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_line(length: int, left: int) -> None:
    if length < 1 or left < 0:
        raise InputError(f"length {length} and left {left}: expected at least 1 and at least 0")
