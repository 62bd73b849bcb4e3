"""Exact solvers against published tables, closed forms and each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.ops import improvement

# The lecture's table: DiscountGrid, noise 0.5, discount 0.99; walls are NaN.
PRINTED = np.array(
    [
        [8.67, 8.93, 9.11, 9.30, 9.42],
        [8.49, np.nan, 9.09, 9.42, 9.68],
        [8.33, np.nan, 1.00, np.nan, 10.00],
        [7.13, 5.04, 3.15, 5.68, 8.45],
        [-10.00] * 5,
    ]
)
ARROWS = ["EEEES", "N NES", "N    ", "NNNNN"]
START = 12  # the state of the grid's S


@pytest.fixture
def grid(float64):
    return tabular.discount_grid()


def _on_cells(values):
    table = np.full((5, 5), np.nan)
    table[tuple(tabular.grid_cells(tabular.DISCOUNT_GRID).T)] = values[:-1]
    return table


def test_value_iteration_gives_the_printed_grid(grid):
    solution = tabular.value_iteration(grid)
    np.testing.assert_array_equal(np.round(_on_cells(solution.values), 2), PRINTED)
    greedy = _on_cells(np.argmax(solution.policy, axis=-1))
    for row, arrows in enumerate(ARROWS):
        for column, arrow in enumerate(arrows):
            if arrow != " ":
                assert "NESW"[int(greedy[row, column])] == arrow
    assert solution.residual < 1e-8


@pytest.mark.parametrize(
    ("discount", "noise", "first_row"),
    [
        (0.99, 0.0, [9.41, 9.51, 9.61, 9.70, 9.80]),
        (0.1, 0.5, [0.00, 0.00, 0.00, 0.00, 0.03]),
        (0.1, 0.0, [0.00, 0.00, 0.01, 0.01, 0.10]),
        (0.9, 0.2, [4.48, 5.17, 5.88, 6.68, 7.51]),
    ],
)
def test_the_other_answers_of_the_discount_grid(discount, noise, first_row, float64):
    solution = tabular.value_iteration(tabular.discount_grid(noise, discount))
    np.testing.assert_array_equal(np.round(_on_cells(solution.values)[0], 2), first_row)


def test_policy_iteration_agrees_with_value_iteration(grid):
    by_values = tabular.value_iteration(grid, tolerance=1e-12)
    by_policies = tabular.policy_iteration(grid)
    np.testing.assert_allclose(by_policies.values, by_values.values, atol=1e-9)
    np.testing.assert_array_equal(by_policies.policy, by_values.policy)
    assert by_policies.iterations < 12
    assert by_policies.residual < 1e-12


def test_exact_quantities_of_the_optimal_policy(grid):
    policy = tabular.value_iteration(grid).policy
    values, action_values = tabular.evaluate_policy(grid, policy)
    np.testing.assert_allclose(values[START], 7.1349, atol=5e-5)
    np.testing.assert_allclose(action_values[START], [7.135, 2.081, -1.937, 3.118], atol=5e-4)
    visits = tabular.expected_visits(grid, policy, discount=1.0).sum(axis=-1)
    np.testing.assert_allclose(visits[:5], [1.657, 1.657, 1.420, 1.776, 1.184], atol=5e-4)
    exits = np.isin(np.arange(23), [10, 11])  # +1 and +10
    np.testing.assert_allclose(visits[exits], [1 / 7, 6 / 7], atol=1e-9)
    np.testing.assert_allclose(visits.sum() - 1, 18.412, atol=5e-4)  # moves; leaving is one more
    undiscounted = grid.replace(discount=jnp.asarray(1.0))
    np.testing.assert_allclose(
        tabular.expected_return(undiscounted, policy), 10 * 6 / 7 + 1 / 7, atol=1e-9
    )


@pytest.mark.parametrize(
    ("epsilon", "value", "fall"),
    [(0.01, 6.9350, 0.0105), (0.05, 6.1322, 0.0522), (0.1, 5.1175, 0.1044)],
)
def test_a_policy_that_errs(grid, epsilon, value, fall):
    optimal = tabular.value_iteration(grid).policy
    policy = (1 - epsilon) * optimal + epsilon * (1 - optimal) / 3
    np.testing.assert_allclose(tabular.expected_return(grid, policy), value, atol=5e-5)
    cliff = (jnp.arange(23) >= 17) & ~grid.terminal
    reached = grid.initial @ tabular.reach_probability(grid, policy, cliff)
    np.testing.assert_allclose(reached, fall, atol=5e-5)
    within = grid.initial @ tabular.reach_within(grid, policy, cliff, 2_000)
    np.testing.assert_allclose(within, reached, atol=1e-9)


def test_uniform_policy(grid):
    policy = jnp.full((23, 4), 0.25)
    np.testing.assert_allclose(tabular.expected_return(grid, policy), -7.554, atol=5e-4)


def test_occupancy_obeys_the_flow_and_prices_the_return(float64):
    mdp = tabular.random_mdp(jax.random.key(0), 8, 3, 3).dense()
    policy = jax.random.dirichlet(jax.random.key(1), jnp.ones(3), (8,))
    occupancy = tabular.occupancy(mdp, policy)
    np.testing.assert_allclose(occupancy.sum(), 1.0, atol=1e-12)
    inflow = jnp.einsum("sa,san->n", occupancy, mdp.transitions)
    np.testing.assert_allclose(
        occupancy.sum(-1), (1 - mdp.discount) * mdp.initial + mdp.discount * inflow, atol=1e-12
    )
    np.testing.assert_allclose(
        jnp.sum(occupancy * mdp.expected_rewards()),
        (1 - mdp.discount) * tabular.expected_return(mdp, policy),
        atol=1e-12,
    )


def test_finite_horizons_converge_to_the_infinite_one(float64):
    mdp = tabular.random_mdp(jax.random.key(0), 8, 3, 3)
    policy = jnp.full((8, 3), 1 / 3)
    one = tabular.expected_return(mdp, policy, horizon=1)
    np.testing.assert_allclose(one, mdp.expected_rewards()[0].mean(), atol=1e-12)
    np.testing.assert_allclose(
        tabular.expected_return(mdp, policy, horizon=800),
        tabular.expected_return(mdp, policy),
        atol=1e-12,
    )


def test_soft_values_obey_the_soft_equation_and_tend_to_the_hard_ones(grid):
    soft = tabular.value_iteration(grid, Partial(improvement.soft_greedy, temperature=0.3))
    recovered = 0.3 * jax.nn.logsumexp(soft.action_values / 0.3, axis=-1)
    np.testing.assert_allclose(soft.values[:-1], recovered[:-1], atol=1e-6)
    cold = tabular.value_iteration(grid, Partial(improvement.soft_greedy, temperature=1e-3))
    np.testing.assert_allclose(cold.values, tabular.value_iteration(grid).values, atol=0.02)


def test_solvers_vmap_over_mdps_and_over_hyper_parameters(float64):
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jax.vmap(lambda key: tabular.random_mdp(key, 6, 2, 3))(keys)
    together = jax.vmap(tabular.value_iteration)(batch)
    policies = jax.vmap(tabular.policy_iteration)(batch)
    for index in range(3):
        single = tabular.value_iteration(jax.tree.map(lambda x, i=index: x[i], batch))
        np.testing.assert_allclose(together.values[index], single.values, atol=1e-7)
        np.testing.assert_allclose(policies.values[index], single.values, atol=1e-6)
    line, behavior = tabular.line_world(3), tabular.line_behavior(3)
    values = jax.vmap(
        lambda epsilon: tabular.value_iteration(
            line, Partial(improvement.kl_constraint, behavior=behavior, epsilon=epsilon)
        ).values[5]
    )(jnp.array([0.1, 1.0, 3.0]))
    assert (jnp.diff(values) > 0).all()
    np.testing.assert_allclose(values[-1], 0.95**2, atol=1e-7)


def test_single_precision_stops_at_its_own_resolution():
    solution = tabular.value_iteration(tabular.discount_grid(), tolerance=0.0)
    assert solution.iterations < 1_000
    np.testing.assert_allclose(solution.values[START], 7.1349, atol=1e-4)


def test_the_gradient_of_the_return_is_the_policy_gradient(float64):
    mdp = tabular.random_mdp(jax.random.key(2), 5, 3, 2)
    logits = jax.random.normal(jax.random.key(3), (5, 3))
    found = jax.grad(lambda x: tabular.expected_return(mdp, jax.nn.softmax(x)))(logits)
    policy = jax.nn.softmax(logits)
    values, action_values = tabular.evaluate_policy(mdp, policy)
    theorem = tabular.expected_visits(mdp, policy) * (action_values - values[:, None])
    np.testing.assert_allclose(found, theorem, atol=1e-10)


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99, 0.999])
def test_the_tolerance_bounds_the_error_of_values(discount, float64):
    # One state for ever, one reward a step: 1 / (1 - discount).
    mdp = tabular.make_mdp([[[1.0]]], [[1.0]], 0, discount)
    for tolerance in (1.0, 1e-3, 1e-8):
        solution = tabular.value_iteration(mdp, tolerance=tolerance)
        error = abs(float(solution.values[0]) - 1 / (1 - discount))
        assert error <= tolerance * (1 + 1e-6) + 1e-10
        # And not one step more than the bound asks for.
        assert solution.iterations <= 1 or error / discount > tolerance * (1 - 1e-3) - 1e-10


def _corridor(step_reward, discount=1.0, loop_reward=None):
    """States 0, 1, 2 and an end; action 0 stays where it is, action 1 goes on."""
    transitions = np.zeros((4, 2, 4))
    transitions[range(4), 0, range(4)] = 1.0
    transitions[range(4), 1, [1, 2, 3, 3]] = 1.0
    rewards = np.full((4, 2), float(step_reward))
    if loop_reward is not None:
        rewards[:, 0] = loop_reward
    return tabular.make_mdp(transitions, rewards, 0, discount, [False, False, False, True])


def test_policy_iteration_solves_what_ends_at_a_discount_of_one(float64):
    solution = tabular.policy_iteration(_corridor(-1.0))
    np.testing.assert_allclose(solution.values, [-3.0, -2.0, -1.0, 0.0])
    np.testing.assert_array_equal(solution.policy[:3, 1], 1.0)
    assert solution.residual == 0.0
    noisy = tabular.discount_grid(0.5, 1.0)
    np.testing.assert_allclose(
        tabular.policy_iteration(noisy).values, tabular.value_iteration(noisy).values, atol=1e-6
    )


def test_policy_iteration_refuses_what_has_no_value_at_a_discount_of_one():
    with pytest.raises(
        InputError, match=r"discount of 1 .* because state 0 cannot end or earns more"
    ):
        tabular.policy_iteration(_corridor(-1.0, loop_reward=1.0))
    endless = tabular.make_mdp([[[1.0]]], [[1.0]], 0, 1.0)
    with pytest.raises(InputError, match="take a discount below one"):
        tabular.policy_iteration(endless)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), endless)
    assert np.isnan(jax.vmap(tabular.policy_iteration)(many).values).all()
    np.testing.assert_allclose(
        tabular.policy_iteration(endless.replace(discount=jnp.asarray(0.5))).values, [2.0]
    )


def test_values_of_a_policy_that_does_not_end_are_not_made_up():
    # Thirds do not sum to one in binary, so that the system is only nearly singular.
    transitions = np.zeros((4, 1, 4))
    transitions[:3, 0, :3] = 1 / 3
    transitions[3, 0, 3] = 1.0
    mdp = tabular.make_mdp(transitions, np.ones((4, 1)), 0, 1.0, [False, False, False, True])
    policy = jnp.ones((4, 1))
    assert np.isnan(tabular.evaluate_policy(mdp, policy)[0]).all()
    assert np.isnan(tabular.expected_return(mdp, policy))
    assert np.isnan(tabular.expected_visits(mdp, policy)).all()
    assert tabular.expected_return(mdp, policy, horizon=5) == pytest.approx(5.0)
