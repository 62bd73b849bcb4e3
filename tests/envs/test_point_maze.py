from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs
from ddm.envs import point_maze
from ddm.errors import InputError

CORRIDOR = ("#####", "#S.G#", "#####")  # the goal is two cells east of the start
EAST = jnp.array([1.0, 0.0])


def _corridor_params(environment, **changes):
    """No noise and no inertia: 0.25 cells a step, so the goal's edge is 6 steps away."""
    return environment.default_params.replace(start_noise=0.0, response=1.0, **changes)


def _walk(environment, params, actions):
    """Records (observation, reward, terminated, truncated, success) of each step."""
    step = jax.jit(environment.step)
    key = jax.random.key(0)
    _, state = jax.jit(environment.reset)(key, params)
    records = []
    for action in actions:
        observation, state, reward, terminated, truncated, info = step(key, state, action, params)
        records.append(
            (np.asarray(observation), float(reward), bool(terminated), bool(truncated),
             bool(info["success"]))
        )  # fmt: skip
    return records


def test_reaches_the_goal_when_computed_by_hand():
    environment = envs.PointMaze(CORRIDOR)
    records = _walk(environment, _corridor_params(environment), [EAST] * 6)
    np.testing.assert_allclose(records[0][0], [1.75, 1.5, 0.25, 0.0, 3.5, 1.5])
    np.testing.assert_allclose(records[5][0], [3.0, 1.5, 0.25, 0.0, 3.5, 1.5])
    assert [record[1] for record in records] == [0, 0, 0, 0, 0, 1]
    assert [record[2] for record in records] == [False] * 5 + [True]
    assert [record[4] for record in records] == [False] * 5 + [True]
    assert not any(record[3] for record in records)


def test_velocity_lags_behind_the_command():
    environment = envs.PointMaze(CORRIDOR)
    params = environment.default_params.replace(start_noise=0.0, response=0.5)
    records = _walk(environment, params, [EAST] * 3)
    np.testing.assert_allclose([r[0][2] for r in records], [0.125, 0.1875, 0.21875])
    np.testing.assert_allclose([r[0][0] for r in records], [1.625, 1.8125, 2.03125])


def test_dense_reward_and_continuing_task():
    environment = envs.PointMaze(CORRIDOR, reward=envs.dense_reward, continuing=True)
    records = _walk(environment, _corridor_params(environment, max_steps=7), [EAST] * 7)
    distances = [1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25]
    np.testing.assert_allclose([r[1] for r in records], np.exp(np.negative(distances)), rtol=1e-6)
    assert not any(record[2] for record in records)
    assert [record[3] for record in records] == [False] * 6 + [True]
    assert [record[4] for record in records] == [False] * 5 + [True] * 2


def test_termination_at_the_time_limit_is_no_truncation():
    environment = envs.PointMaze(CORRIDOR)
    records = _walk(environment, _corridor_params(environment, max_steps=6), [EAST] * 6)
    assert records[-1][2:4] == (True, False)


def test_a_wall_stops_its_axis_only():
    environment = envs.PointMaze(CORRIDOR)
    records = _walk(environment, _corridor_params(environment), [jnp.array([0.4, -1.0])] * 3)
    # The body's half-width is 0.1 and the wall is at y = 1; x goes on at 0.1 a step.
    np.testing.assert_allclose([r[0][1] for r in records], [1.25, 1.1, 1.1], atol=2e-4)
    np.testing.assert_allclose([r[0][0] for r in records], [1.6, 1.7, 1.8], atol=1e-6)
    assert records[-1][0][3] == 0.0


def test_discrete_moves():
    environment = envs.PointMaze(CORRIDOR, discrete=True)
    params = _corridor_params(environment)
    assert environment.action_space(params).n == 5
    records = _walk(environment, params, [0, 1, 2, 3, 4])
    path = [[1.5, 1.5], [1.75, 1.5], [1.75, 1.75], [1.5, 1.75], [1.5, 1.5]]
    np.testing.assert_allclose([r[0][:2] for r in records], path, atol=1e-6)


def _push(observation, key, direction):
    """Random pushes that last: half of the actions repeat the one before."""
    draw = jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0)
    direction = jnp.where(draw[0] > 0.0, draw[1:], direction)
    return direction, direction


def _no_direction(key):
    return jnp.ones(2)


@pytest.mark.parametrize("speed", [0.25, 50.0])
def test_never_enters_or_crosses_a_wall(speed):
    environment = envs.make("PointMaze-Large-v0")
    params = environment.default_params.replace(
        start_cells=environment.free_cells(), max_speed=speed, max_steps=100, start_noise=0.5
    )
    episodes = envs.collect(
        environment, _push, jax.random.key(0), num_episodes=200, params=params,
        initial_policy_state=_no_direction,
    )  # fmt: skip
    walls = environment.walls
    for episode in episodes:
        path = episode["observations"][:, :2]
        for corner in ((-0.1, -0.1), (-0.1, 0.1), (0.1, -0.1), (0.1, 0.1)):
            x, y = np.floor(path + corner).astype(int).T
            assert not walls[y, x].any()
        # Each step goes along x first: the cell where it turns is free, too.
        cells = np.floor(path).astype(int)
        assert not walls[cells[:-1, 1], cells[1:, 0]].any()
        assert np.abs(np.diff(path, axis=0)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("maze", [*point_maze.MAPS, "Large-Discrete"])
def test_waypoint_policy_solves_the_map_from_everywhere_to_everywhere(maze):
    environment = envs.make(f"PointMaze-{maze}-v0")
    cells = environment.free_cells()
    params = environment.default_params.replace(start_cells=cells, goal_cells=cells)
    policy = envs.waypoint_policy(environment, params)
    episodes = envs.collect(environment, policy, jax.random.key(0), num_episodes=200, params=params)
    assert np.mean([episode["terminations"][-1] for episode in episodes]) >= 0.98


def test_waypoint_policy_goes_to_a_target_that_is_not_the_goal():
    environment = envs.make("PointMaze-Stitch-v0")
    params = environment.default_params.replace(max_steps=80)
    exit_cell = environment.cells("D")[0]
    (episode,) = envs.collect(
        environment,
        envs.waypoint_policy(environment, params, noise=0.3, speed=0.8),
        jax.random.key(0),
        num_episodes=1,
        params=params,
        initial_policy_state=lambda key: exit_cell,
        stop=_is_near,
    )
    assert np.linalg.norm(episode["observations"][-1, :2] - exit_cell) <= 0.3
    assert episode["truncations"][-1]
    assert not episode["terminations"].any()
    # The way is 9 cells and 8 more steps of inertia and corners: about 50 steps at 0.2 cells.
    assert 45 < len(episode["rewards"]) < 80
    assert np.abs(episode["actions"]).max() <= 1.0


def _is_near(observation, target):
    return jnp.linalg.norm(observation[:2] - target) <= 0.3


def test_next_cells_are_on_shortest_ways():
    # From the start of UMaze, (1, 1), the way to (1, 3) is east, north, and back west.
    table = point_maze._next_cells(point_maze.MAPS["UMaze"])
    cell, way = (1, 1), []
    while cell != (1, 3):
        cell = tuple(table[3, 1, cell[1], cell[0]])
        way.append(cell)
    assert way == [(2, 1), (3, 1), (3, 2), (3, 3), (2, 3), (1, 3)]


def test_resets_draw_from_the_given_cells():
    environment = envs.make("PointMaze-UMaze-v0")
    cells = environment.free_cells()
    params = environment.default_params.replace(start_cells=cells, start_noise=0.2)
    keys = jax.random.split(jax.random.key(0), 300)
    observations, _ = jax.jit(jax.vmap(environment.reset, (0, None)))(keys, params)
    offsets = np.abs(observations[:, None, :2] - cells).max(axis=-1)  # (300, cells)
    assert (offsets.min(axis=1) <= 0.2 + 1e-6).all()
    assert set(offsets.argmin(axis=1)) == set(range(len(cells)))
    np.testing.assert_array_equal(observations[:, 4:], np.tile([[1.5, 3.5]], (300, 1)))
    np.testing.assert_array_equal(observations[:, 2:4], 0.0)


def test_vmaps_over_parameters():
    environment = envs.PointMaze(CORRIDOR)
    params = _corridor_params(environment)
    speeds = jnp.array([0.1, 0.2])
    axes = jax.tree.map(lambda _: None, params).replace(max_speed=0)
    key = jax.random.key(0)
    _, state = jax.jit(environment.reset)(key, params)
    step = functools.partial(environment.step, key, state, EAST)
    observations = jax.jit(jax.vmap(step, (axes,)))(params.replace(max_speed=speeds))[0]
    np.testing.assert_allclose(observations[:, 0], [1.6, 1.7])


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ((), "one length"),
        (("####", "#SG#", "###"), "one length"),
        (("####", "#SG.", "####"), "border"),
        (("####", "#S.#", "####"), "marked 'G'"),
        (("####", "#.G#", "####"), "marked 'S'"),
    ],
)
def test_refuses_bad_maps(layout, message):
    with pytest.raises(InputError, match=message):
        envs.PointMaze(layout)


def test_unknown_mark_is_named():
    with pytest.raises(InputError, match="'Z'"):
        envs.make("PointMaze-UMaze-v0").cells("Z")
