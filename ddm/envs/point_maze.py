"""A point that walks through a maze to a goal, in the plane.

Lengths are in cells, times in steps. A maze is written as text, one character per cell: `#` is a
wall, everything else is free, and a letter names its cell (`S` is the task's start, `G` its goal).
Pictures look like the text: x grows to the right, y grows upwards, and the lower left corner of the
text is the origin.

The maps UMaze, Medium and Large have the layouts of D4RL's Maze2D (Fu et al., 2020,
arXiv:2004.07219); the dynamics are simpler, so scores are not comparable with D4RL's. Stitch is
two entrances (S, B) and two exits (G, D) that share one corridor: logs of S to D and of B to G
hold every piece of the way from S to G, but no trajectory from S to G.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.envs import base
from ddm.errors import InputError
from ddm.types import Box, Discrete, PRNGKey, Space

MAPS: dict[str, tuple[str, ...]] = {
    "UMaze": (
        "#####",
        "#G..#",
        "###.#",
        "#S..#",
        "#####",
    ),
    "Medium": (
        "########",
        "#S.##..#",
        "#..#...#",
        "##...###",
        "#..#...#",
        "#.#..#.#",
        "#...#.G#",
        "########",
    ),
    "Large": (
        "############",
        "#S...#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#.G.#",
        "############",
    ),
    "Stitch": (
        "###########",
        "#S..###..G#",
        "###.###.###",
        "###.....###",
        "###.###.###",
        "#B..###..D#",
        "###########",
    ),
}

# Time limits, in steps: about four times the shortest way at full speed (22, 34, 50, 44).
TIME_LIMITS = {"UMaze": 100, "Medium": 150, "Large": 200, "Stitch": 150}

_MOVES = np.array([(0, 0), (1, 0), (0, 1), (-1, 0), (0, -1)], np.float32)  # stay, E, N, W, S
_GAP = 1e-4  # cells left between the point and a wall it touches, so that rounding cannot enter it
_MAX_STEP = 0.5  # cells; a longer step could jump over a corner

RewardFn = Callable[[jax.Array, jax.Array], jax.Array]  # (distance to goal, reached) -> reward


def sparse_reward(distance: jax.Array, reached: jax.Array) -> jax.Array:
    """1 at the goal, 0 elsewhere."""
    del distance
    return reached.astype(jnp.float32)


def dense_reward(distance: jax.Array, reached: jax.Array) -> jax.Array:
    """exp(-distance to the goal): 1 in its middle; walls do not change the distance."""
    del reached
    return jnp.exp(-distance)


@struct.dataclass
class EnvState(base.EnvState):
    """Where the point is and where it wants to be."""

    position: jax.Array  # (2,) cells: x, y
    velocity: jax.Array  # (2,) cells per step
    goal: jax.Array  # (2,) cells


@struct.dataclass
class EnvParams(base.EnvParams):
    """Task and dynamics; `PointMaze.default_params` fills in the cells."""

    start_cells: jax.Array = struct.field(kw_only=True)  # (K, 2) centres; one is drawn at reset
    goal_cells: jax.Array = struct.field(kw_only=True)  # (M, 2) centres; one is drawn at reset
    start_noise: float = 0.25  # cells; half-width of the uniform noise on the start
    goal_noise: float = 0.0  # cells; the same for the goal
    goal_radius: float = 0.5  # cells; the goal is reached within this distance
    max_speed: float = 0.25  # cells per step, each axis, at action 1
    response: float = 0.5  # share of the way to the commanded velocity per step; 1: no inertia
    radius: float = 0.1  # cells; half-width of the point's square body, below 0.5


@dataclasses.dataclass(frozen=True)
class PointMaze(base.Environment):
    """Walk to the goal: observation (x, y, velocity x, velocity y, goal x, goal y).

    The velocity follows the command (max_speed * action) with a first-order lag. A wall stops only
    the motion along the axis that hits it, so the point slides along walls.
    """

    layout: tuple[str, ...] = MAPS["UMaze"]
    name: str = "PointMaze"
    reward: RewardFn = sparse_reward
    continuing: bool = False  # True: the episode does not end at the goal
    discrete: bool = False  # True: five actions (stay, east, north, west, south)
    time_limit: int = 200  # steps; default of `max_steps`

    def __post_init__(self):
        _check_layout(self.layout, self.name)

    @property
    def default_params(self) -> EnvParams:
        """From the cells marked S to the cells marked G."""
        return EnvParams(
            max_steps=self.time_limit, start_cells=self.cells("S"), goal_cells=self.cells("G")
        )

    @property
    def walls(self) -> np.ndarray:
        """(height, width) bool, indexed [y, x]: True where there is a wall."""
        return _walls(self.layout)

    def cells(self, mark: str) -> jax.Array:
        """(K, 2) centres of the cells marked with this letter, for the cells of the parameters.

        Raises:
          InputError: the map has no such cell.
        """
        rows = self.layout[::-1]
        found = [(x, y) for y, row in enumerate(rows) for x, cell in enumerate(row) if cell == mark]
        if not found:
            raise InputError(f"{self.name}: the map has no cell marked '{mark}'")
        return jnp.asarray(found, jnp.float32) + 0.5

    def free_cells(self) -> jax.Array:
        """(K, 2) centres of all cells without a wall."""
        y, x = np.nonzero(~self.walls)
        return jnp.asarray(np.stack([x, y], axis=-1), jnp.float32) + 0.5

    def reset(self, key: PRNGKey, params: EnvParams) -> tuple[jax.Array, EnvState]:
        """Draws a start and a goal; the point is at rest."""
        start_draw, goal_draw = jax.random.uniform(key, (2, 3), jnp.float32)
        room = 0.5 - params.radius - _GAP  # the body must fit into its cell
        start_noise = jnp.minimum(params.start_noise, room)
        state = EnvState(
            time=jnp.zeros((), jnp.int32),
            position=_draw_position(start_draw, params.start_cells, start_noise),
            velocity=jnp.zeros(2, jnp.float32),
            goal=_draw_position(goal_draw, params.goal_cells, params.goal_noise),
        )
        return _observe(state), state

    def step(
        self, key: PRNGKey, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[jax.Array, EnvState, jax.Array, jax.Array, jax.Array, base.Info]:
        """Moves the point; ends at the goal unless the task is continuing."""
        del key
        command = jnp.asarray(_MOVES)[action] if self.discrete else jnp.clip(action, -1.0, 1.0)
        velocity = state.velocity + params.response * (params.max_speed * command - state.velocity)
        position, velocity = _slide(self.walls, state.position, velocity, params.radius)
        distance = jnp.linalg.norm(position - state.goal)
        reached = distance <= params.goal_radius
        terminated = jnp.zeros((), bool) if self.continuing else reached
        state = dataclasses.replace(
            state, time=state.time + 1, position=position, velocity=velocity
        )
        truncated = base.is_truncated(state.time, terminated, params)
        reward = self.reward(distance, reached)
        return _observe(state), state, reward, terminated, truncated, {"success": reached}

    def observation_space(self, params: EnvParams) -> Box:
        """Position and goal lie inside the map, the velocity below the maximal speed."""
        height, width = self.walls.shape
        speed = float(np.asarray(params.max_speed))
        low = (0.0, 0.0, -speed, -speed, 0.0, 0.0)
        high = (width, height, speed, speed, width, height)
        return Box(shape=(6,), low=low, high=tuple(float(bound) for bound in high))

    def action_space(self, params: EnvParams) -> Space:
        """The commanded velocity as a share of the maximal speed, or five moves."""
        del params
        if self.discrete:
            return Discrete(len(_MOVES))
        return Box(shape=(2,), low=(-1.0, -1.0), high=(1.0, 1.0))


def waypoint_policy(
    environment: PointMaze, params: EnvParams, *, noise: float = 0.0, speed: float = 1.0
) -> Callable[[jax.Array, PRNGKey, Any], tuple[jax.Array, Any]]:
    """A scripted expert: the shortest way over the cells.

    Args:
      environment: the maze.
      params: its parameters.
      noise: standard deviation of the normal noise on the action, before it is clipped.
      speed: its share of the maximal speed; below 1, only noise reaches the corners of the action
        box.

    Returns:
      policy(observation, key, target) -> (action, target), pure, for `ddm.envs.collect`. The
      target is a position (2,) in cells; the empty tuple means the observation's goal.
    """
    next_cells = jnp.asarray(_next_cells(environment.layout))

    def policy(observation: jax.Array, key: PRNGKey, target: Any = ()) -> tuple[jax.Array, Any]:
        position, velocity, goal = jnp.split(observation, 3)
        aim: Any = goal if isinstance(target, tuple) else target
        cell, aim_cell = (jnp.floor(point).astype(jnp.int32) for point in (position, aim))
        towards = next_cells[aim_cell[1], aim_cell[0], cell[1], cell[0]] + 0.5
        waypoint = jnp.where((cell == aim_cell).all(), aim, towards)
        # The way that inertia alone will carry the point counts as done.
        glide = velocity * (1.0 - params.response) / params.response
        action = (waypoint - position - glide) / params.max_speed
        action = jnp.clip(action, -speed, speed)
        if noise > 0.0:
            action += noise * jax.random.normal(key, (2,), jnp.float32)
        if environment.discrete:
            return jnp.argmax(_MOVES @ action).astype(jnp.int32), target
        return jnp.clip(action, -1.0, 1.0), target

    return policy


def _observe(state: EnvState) -> jax.Array:
    """(6,) observation."""
    return jnp.concatenate([state.position, state.velocity, state.goal])


def _draw_position(draw: jax.Array, centres: jax.Array, noise: float | jax.Array) -> jax.Array:
    """One of the centres plus noise, from three uniform numbers in [0, 1)."""
    centre = centres[jnp.floor(draw[0] * centres.shape[0]).astype(jnp.int32)]
    return centre + noise * (2.0 * draw[1:] - 1.0)


def _slide(
    walls: np.ndarray, position: jax.Array, velocity: jax.Array, radius: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
    """One step of a square body, first along x, then along y; a wall stops its axis.

    A body less than one cell wide that moves at most half a cell crosses at most one cell border
    per axis. So checking the cells behind that border is exact: the body cannot pass through walls.
    """
    delta = jnp.clip(velocity, -_MAX_STEP, _MAX_STEP)
    x, hit_x = _advance(jnp.asarray(walls), position[0], position[1], delta[0], radius)
    y, hit_y = _advance(jnp.asarray(walls.T), position[1], x, delta[1], radius)
    return jnp.stack([x, y]), jnp.where(jnp.stack([hit_x, hit_y]), 0.0, delta)


def _advance(
    walls: jax.Array,
    along: jax.Array,
    across: jax.Array,
    delta: jax.Array,
    radius: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Moves one coordinate up to the first wall; `walls` is indexed [across, along].

    Returns:
      The new coordinate, and whether a wall was hit.
    """
    cell = jnp.floor(along + delta + jnp.sign(delta) * radius).astype(jnp.int32)
    sides = jnp.array([-1.0, 1.0], jnp.float32)
    beside = jnp.floor(across + radius * sides).astype(jnp.int32)
    hit = walls[beside, cell].any()
    border = cell.astype(jnp.float32)
    contact = jnp.where(delta > 0, border - radius - _GAP, border + 1.0 + radius + _GAP)
    return jnp.where(hit, contact, along + delta), hit


@functools.cache
def _walls(layout: tuple[str, ...]) -> np.ndarray:
    """(height, width) bool, indexed [y, x] with y upwards."""
    walls = np.array([[cell == "#" for cell in row] for row in layout[::-1]])
    walls.setflags(write=False)
    return walls


@functools.cache
def _next_cells(layout: tuple[str, ...]) -> np.ndarray:
    """The neighbour to go to from every cell on a shortest way to every other.

    Returns:
      (height, width, height, width, 2) int32: entry [target y, target x, y, x] is (x, y) of the
      next cell, by breadth-first search from the target; the cell itself if there is no path.
    """
    walls = _walls(layout)
    height, width = walls.shape
    stay = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    table = np.broadcast_to(stay, (height, width, height, width, 2)).astype(np.int32)
    for target in zip(*np.nonzero(~walls), strict=True):
        queue, seen = collections.deque([target]), {target}
        while queue:
            y, x = queue.popleft()
            for cell in ((y, x + 1), (y + 1, x), (y, x - 1), (y - 1, x)):
                if cell not in seen and not walls[cell]:
                    seen.add(cell)
                    queue.append(cell)
                    table[target][cell] = (x, y)
    return table


def _check_layout(layout: tuple[str, ...], name: str) -> None:
    """Refuses maps that are ragged, open at the border, or lack a start or a goal."""
    if not layout or len({len(row) for row in layout}) != 1:
        raise InputError(f"{name}: the rows of a map must have one length")
    walls = _walls(tuple(layout))
    border = np.concatenate([walls[0], walls[-1], walls[:, 0], walls[:, -1]])
    if not border.all():
        raise InputError(f"{name}: the border of a map must be wall ('#') all around")
    for mark in "SG":
        if not any(mark in row for row in layout):
            raise InputError(f"{name}: the map has no cell marked '{mark}'")
