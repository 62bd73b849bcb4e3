from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ddm.envs import tabular
from ddm.envs.tabular import worlds
from ddm.errors import InputError
from ddm.ops import improvement


def test_slips_walls_and_borders_of_a_grid():
    mdp = tabular.grid_world("S # \n . 5", noise=0.2, living_reward=-1.0)
    # States: 0 the start, 1 below it, 2 the exit, 3 the end.
    np.testing.assert_allclose(mdp.transitions[0, worlds.NORTH], [1, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(mdp.transitions[0, worlds.SOUTH], [0.2, 0.8, 0, 0], atol=1e-6)
    np.testing.assert_allclose(mdp.transitions[1, worlds.EAST], [0.1, 0.1, 0.8, 0], atol=1e-6)
    np.testing.assert_allclose(mdp.transitions[2, :, 3], 1.0)
    np.testing.assert_array_equal(mdp.expected_rewards()[:, 0], [-1, -1, 5, 0])
    np.testing.assert_array_equal(mdp.terminal, [False, False, False, True])
    np.testing.assert_array_equal(mdp.initial, [1, 0, 0, 0])
    np.testing.assert_array_equal(tabular.grid_cells("S # \n . 5"), [[0, 0], [1, 0], [1, 1]])


def test_several_starts_are_equally_likely():
    mdp = tabular.grid_world("S . S")
    np.testing.assert_allclose(mdp.initial, [0.5, 0, 0.5, 0])


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("S . \n .", "row 1 of the map has 1 cells, row 0 has 2"),
        ("S X", "row 0, column 1 of the map is 'X'"),
        ("S nan", "row 0, column 1 of the map is 'nan'"),
        (". .", "no start"),
        ("\n  \n", "the map is empty"),
    ],
)
def test_maps_that_cannot_be_read_are_refused(layout, message):
    with pytest.raises(InputError, match=message):
        tabular.grid_world(layout)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tabular.grid_world("S .", noise=1.5), "noise is 1.5"),
        (lambda: tabular.grid_world("S .", discount=2.0), "discount is 2.0"),
        (lambda: tabular.line_world(0), "length 0"),
        (lambda: tabular.line_behavior(3, right=-0.1), "right is -0.1"),
        (lambda: tabular.tightrope(0), "recovery_steps is 0"),
        (lambda: tabular.tightrope(1, climb=2.0), "climb is 2.0"),
        (lambda: tabular.combination_lock(3, 1), "2 actions"),
    ],
)
def test_sizes_out_of_range_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


# Cost of a learner that errs with probability eps, H - (1 - eps)(1 - (1 - eps)^H) / eps.
@pytest.mark.parametrize(
    ("error", "costs"),
    [
        (0.001, [0.0548, 0.2087, 1.2544, 4.8874, 18.830, 106.77, 368.33]),
        (0.01, [0.5338, 1.9728, 10.896, 37.237, 114.26, 401.65, 901.00]),
        (0.1, [4.1381, 12.094, 41.046, 91.000, 191.00, 491.00, 991.00]),
    ],
)
def test_tightrope_costs(error, costs, float64):
    policy = jnp.array([[1 - error, error]] * 2)
    for horizon, cost in zip((10, 20, 50, 100, 200, 500, 1000), costs, strict=True):
        found = -tabular.expected_return(tabular.tightrope(), policy, horizon)
        np.testing.assert_allclose(found, cost, rtol=6e-5, atol=6e-5)
        closed = horizon - (1 - error) * (1 - (1 - error) ** horizon) / error
        np.testing.assert_allclose(found, closed, rtol=1e-10)


@pytest.mark.parametrize(
    ("steps", "never", "coin", "dagger"),
    [(1, 37.237, 2.903, 1.980), (3, 37.237, 11.817, 3.882), (5, 37.237, 25.964, 5.707)],
)
def test_tightrope_with_recovery(steps, never, coin, dagger, float64):
    for advance, cost in ((0.0, never), (0.5, coin), (0.99, dagger)):
        policy = jnp.array([[0.99, 0.01], *[[advance, 1 - advance]] * steps])
        found = -tabular.expected_return(tabular.tightrope(steps), policy, 100)
        np.testing.assert_allclose(found, cost, atol=6e-4)
    # A learner that climbs surely on slippery ground is one that climbs now and then.
    sure = jnp.array([[0.99, 0.01], *[[1.0, 0.0]] * steps])
    found = -tabular.expected_return(tabular.tightrope(steps, climb=0.5), sure, 100)
    np.testing.assert_allclose(found, coin, atol=6e-4)


@pytest.mark.parametrize("length", [3, 5, 10])
def test_line_world_optimum_and_behaviour(length, float64):
    mdp, behavior = tabular.line_world(length), tabular.line_behavior(length)
    start = 5
    solution = tabular.value_iteration(mdp, tolerance=1e-13)
    np.testing.assert_allclose(solution.values[start], 0.95 ** (length - 1), atol=1e-10)
    goal = jnp.arange(mdp.num_states) == mdp.num_states - 1
    reached = tabular.reach_within(mdp, behavior, goal, 20_000)[start]
    np.testing.assert_allclose(reached, 8 / (9 ** (length + 1) - 1), rtol=1e-6)


@pytest.mark.parametrize("optimism", [0.0, 2.0])
def test_a_support_constraint_reaches_the_goal_where_others_leak(optimism, float64):
    mdp, behavior = tabular.line_world(5), tabular.line_behavior(5)
    start, known = 5, behavior > 0
    goal = jnp.arange(mdp.num_states) == mdp.num_states - 1

    def reach(improve):
        solution = tabular.value_iteration(mdp, improve, known=known, unknown_value=optimism)
        return tabular.reach_within(mdp, solution.policy, goal, 2_000)[start]

    np.testing.assert_allclose(reach(Partial(improvement.support, behavior=behavior)), 1.0)
    near = reach(Partial(improvement.kl_constraint, behavior=behavior, epsilon=0.5))
    np.testing.assert_allclose(near, 0.159, atol=6e-4)
    moved = reach(Partial(improvement.total_variation, behavior=behavior, epsilon=0.5))
    np.testing.assert_allclose(moved, 0.365 if optimism == 0.0 else 0.0, atol=6e-4)
    unconstrained = reach(improvement.greedy)
    np.testing.assert_allclose(unconstrained, 1.0 if optimism == 0.0 else 0.0)


def test_combination_lock_opens_for_the_combination_alone():
    mdp = tabular.combination_lock(4, 3, discount=0.9, seed=1)
    solution = tabular.value_iteration(mdp)
    np.testing.assert_allclose(solution.values[:4], 0.9 ** np.array([3, 2, 1, 0]), atol=1e-6)
    uniform = jnp.full((6, 3), 1 / 3)
    opened = jnp.arange(6) == 4
    np.testing.assert_allclose(
        tabular.reach_probability(mdp, uniform, opened)[0], 3.0**-4, rtol=1e-5
    )
    other = tabular.value_iteration(tabular.combination_lock(4, 3, seed=2)).policy
    assert (other != solution.policy).any()
