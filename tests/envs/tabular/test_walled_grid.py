"""The walled grid: its moves, its two ways, and what its log leaves out."""

from __future__ import annotations

import numpy as np
import pytest

from ddm.envs import tabular
from ddm.envs.tabular.worlds import EAST, NORTH, SOUTH, WEST
from ddm.errors import InputError


def test_walls_and_borders_by_hand():
    # Cells 0 1 / 2 3: the wall between 0 and 1, the gap between 2 and 3, the goal in 1.
    mdp = tabular.walled_grid(2)
    targets = np.argmax(mdp.transitions, axis=-1)
    np.testing.assert_array_equal(targets[:, NORTH], [0, 1, 0, 1])
    np.testing.assert_array_equal(targets[:, EAST], [0, 1, 3, 3])
    np.testing.assert_array_equal(targets[:, SOUTH], [2, 3, 2, 3])
    np.testing.assert_array_equal(targets[:, WEST], [0, 1, 2, 2])
    np.testing.assert_array_equal(np.asarray(mdp.terminal), [False, True, False, False])
    rewards = np.zeros((4, 4))
    rewards[3, NORTH] = 1.0
    np.testing.assert_array_equal(mdp.expected_rewards(), rewards)
    np.testing.assert_array_equal(mdp.initial, [1, 0, 0, 0])


def test_the_safe_way_takes_27_steps_and_the_one_through_the_wall_would_take_9(float64):
    mdp = tabular.walled_grid()
    assert float(mdp.discount) == 0.97
    start = tabular.value_iteration(mdp, tolerance=1e-13).values[0]
    assert start == pytest.approx(0.97**26, rel=1e-12)
    assert round(float(start), 3) == 0.453
    open_moves = mdp.transitions.at[4, EAST].set(np.eye(100)[5])
    through = tabular.value_iteration(mdp.replace(transitions=open_moves), tolerance=1e-13)
    assert through.values[0] == pytest.approx(0.97**8, rel=1e-12)
    assert round(float(through.values[0]), 3) == 0.784


def test_the_wall_holds_from_both_sides_and_has_one_gap():
    targets = np.argmax(tabular.walled_grid().transitions, axis=-1).reshape(10, 10, 4)
    for row in range(9):
        assert targets[row, 4, EAST] == 10 * row + 4
        assert targets[row, 5, WEST] == 10 * row + 5
    assert targets[9, 4, EAST] == 95
    assert targets[9, 5, WEST] == 94


def test_the_log_never_ran_against_the_wall():
    support = np.asarray(tabular.walled_grid_support()).reshape(10, 10, 4)
    unseen = {tuple(map(int, pair)) for pair in np.argwhere(~support)}
    at_the_wall = {(row, 4, EAST) for row in range(9)}
    assert unseen == at_the_wall | {(0, 9, action) for action in range(4)}


def test_a_grid_without_two_halves_is_refused():
    for make in (tabular.walled_grid, tabular.walled_grid_support):
        with pytest.raises(InputError, match="size is 1, expected at least 2"):
            make(1)
