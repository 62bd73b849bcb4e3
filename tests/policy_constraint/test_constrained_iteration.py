"""Constrained value iteration on the line world, where every constraint's policy is known.

States are positions -5 .. n with the goal at n; the behaviour goes left nine times in ten from the
start on, and always left of it. Expected probabilities of reaching the goal are those of closed
forms and of independent exact solvers, to the digits that are printed.
"""

import functools

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import pytest
from jax.tree_util import Partial

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.ops import improvement
from ddm.policy_constraint import constrained_iteration
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"num_actions": contract.NUM_ACTIONS},
    variants=[
        {"constraint": "none"},
        {"constraint": "kl"},
        {"constraint": "kl_penalty"},
        {"constraint": "total_variation"},
    ],
    other={"threshold": 0.7, "smoothing": 0.5, "initial_value": 2.0, "constraint": "kl"},
    context={"epsilon": {"constraint": "kl"}, "smoothing": {"constraint": "kl_penalty"}},
    table=True,
)

START, DISCOUNT = 5, 0.95
CONFIG = constrained_iteration.Config(num_actions=2, discount=DISCOUNT)


@functools.partial(jax.jit, static_argnames="updates")
def _sweep(config, batch, updates=300):
    return logs.sweep(constrained_iteration, config, batch, updates)


def _solve(length, **changes):
    batch = logs.exact_log(tabular.line_world(length), logs.line_counts(length))
    return _sweep(CONFIG.replace(**changes), batch)


def _reach(length, policy):
    """Probability of reaching the goal from the start, for a policy or a stack of them."""
    line = tabular.line_world(length)
    reach = jax.vmap(lambda each: tabular.reach_within(line, each, line.terminal, 1_000)[START])
    return np.asarray(reach(policy.reshape(-1, *policy.shape[-2:])).reshape(policy.shape[:-2]))


IMPROVEMENTS = {
    "none": lambda behavior: Partial(improvement.greedy),
    "support": lambda behavior: Partial(improvement.support, behavior=behavior),
    "kl": lambda behavior: Partial(improvement.kl_constraint, behavior=behavior, epsilon=0.5),
    "kl_penalty": lambda behavior: Partial(improvement.kl_penalty, behavior=behavior, weight=0.1),
    "total_variation": lambda behavior: Partial(
        improvement.total_variation, behavior=behavior, epsilon=0.5
    ),
}


@pytest.mark.parametrize("optimism", [0.0, 2.0])
@pytest.mark.parametrize("constraint", IMPROVEMENTS)
def test_fixed_points_of_exact_data_are_those_of_the_exact_solver(constraint, optimism):
    state = _solve(5, constraint=constraint, initial_value=optimism)
    behavior = tabular.line_behavior(5)
    exact = tabular.value_iteration(
        tabular.line_world(5),
        IMPROVEMENTS[constraint](behavior),
        known=jnp.asarray(logs.line_counts(5) > 0),
        unknown_value=optimism,
    )
    # The last state, the goal, has no rows.
    np.testing.assert_allclose(state.action_values[:-1], exact.action_values[:-1], atol=1e-4)
    np.testing.assert_allclose(state.values[:-1], exact.values[:-1], atol=1e-4)
    np.testing.assert_allclose(state.policy[:-1], exact.policy[:-1], atol=1e-3)


def test_the_kl_constraint_needs_log_ten_nats():
    epsilons = jnp.array([0.01, 0.1, 0.5, 1.0, 2.0, np.log(10.0) + 1e-4])
    expected = {
        3: [0.0040, 0.0274, 0.243, 0.573, 0.949, 1.0],
        5: [1.16e-4, 3.2e-3, 0.159, 0.554, 0.949, 1.0],
        10: [1.6e-8, 1.6e-5, 0.082, 0.549, 0.949, 1.0],
    }
    for length, probabilities in expected.items():
        state = jax.vmap(lambda epsilon, n=length: _solve(n, constraint="kl", epsilon=epsilon))(
            epsilons
        )
        np.testing.assert_allclose(
            state.policy[:, START, 1], [0.1449, 0.257, 0.495, 0.689, 0.951, 1.0], atol=6e-4
        )
        np.testing.assert_allclose(_reach(length, state.policy), probabilities, rtol=0.05)
        np.testing.assert_array_equal(state.policy[:, :START, 1], 0.0)  # never off the support


def test_the_kl_penalty_must_be_cheap():
    weights = jnp.array([1.0, 0.3, 0.1, 0.03])
    solve = jax.vmap(lambda weight: _solve(5, constraint="kl_penalty", weight=weight))
    np.testing.assert_allclose(
        _reach(5, solve(weights).policy), [4e-5, 3.8e-4, 0.116, 1.0], rtol=0.1
    )


def test_total_variation_leaks_to_an_optimistic_guess():
    epsilons = jnp.array([0.3, 0.5, 0.8, 0.9])
    for optimism, expected in ((0.0, [0.048, 0.365, 0.889, 1.0]), (2.0, [0.0, 0.0, 0.0, 0.0])):
        state = jax.vmap(
            lambda epsilon, q=optimism: _solve(
                5, constraint="total_variation", epsilon=epsilon, initial_value=q
            )
        )(epsilons)
        np.testing.assert_allclose(_reach(5, state.policy), expected, rtol=0.02, atol=1e-3)
    # With the optimistic guess the start prefers the way to it.
    left, right = np.asarray(state.action_values[:, START]).T
    assert (left > right).all()
    assert (left > 1.69).all()
    assert (left < 1.90).all()


@pytest.mark.parametrize("length", [3, 5, 10])
@pytest.mark.parametrize("optimism", [0.0, 2.0])
def test_the_support_constraint_reaches_the_goal_from_any_first_guess(length, optimism):
    state = _solve(length, constraint="support", initial_value=optimism)
    assert _reach(length, state.policy) == pytest.approx(1.0)
    assert float(state.action_values[START, 1]) == pytest.approx(DISCOUNT ** (length - 1), abs=1e-4)


def test_without_a_constraint_optimism_misleads():
    state = _solve(5, constraint="none", initial_value=2.0)
    np.testing.assert_allclose(state.action_values[START], [1.9, 1.715], atol=1e-3)
    assert _reach(5, state.policy) == 0.0
    assert _reach(5, _solve(5, constraint="none").policy) == pytest.approx(1.0)


def test_a_smoothed_behaviour_leaks_to_an_optimistic_guess():
    # One part in fifty of the uniform policy in the behaviour model: mass on the unlogged action
    # next to the start, and values of the start.
    weights = jnp.array([1.0, 0.3, 0.1, 0.03])
    solve = jax.vmap(
        lambda weight, optimism: _solve(
            5, constraint="kl_penalty", weight=weight, smoothing=0.02, initial_value=optimism
        ),
        (0, None),
    )
    careful, hopeful = solve(weights, 0.0), solve(weights, 2.0)
    np.testing.assert_allclose(_reach(5, careful.policy), [6e-5, 5.9e-4, 0.161, 1.0], rtol=0.1)
    np.testing.assert_allclose(
        hopeful.policy[:, START - 1, 1], [0.04, 0.18, 0.555, 0.956], atol=6e-3
    )
    np.testing.assert_allclose(
        hopeful.action_values[:, START],
        [[0.584, 0.514], [1.08, 0.951], [1.52, 1.35], [1.77, 1.59]],
        atol=6e-3,
    )
    assert (_reach(5, hopeful.policy) < 1e-4).all()


@pytest.mark.parametrize(("threshold", "reached"), [(0.1, 1.0), (0.3, 0.0)])
def test_the_threshold_of_discrete_bcq_is_a_distribution_constraint(threshold, reached):
    # The rare action is taken 0.1 / 0.9 = 0.111 times as often as the frequent one.
    state = _solve(5, constraint="support", threshold=threshold)
    assert _reach(5, state.policy) == pytest.approx(reached)


def test_limits_are_cloning_and_greed():
    behavior = tabular.line_behavior(5)[:-1]
    for constraint in ("kl", "total_variation"):
        near = _solve(5, constraint=constraint, epsilon=0.0)
        np.testing.assert_allclose(near.policy[:-1], behavior, atol=1e-3)
    dear = _solve(5, constraint="kl_penalty", weight=1e4)
    np.testing.assert_allclose(dear.policy[:-1], behavior, atol=1e-3)
    cheap = _solve(5, constraint="kl_penalty", weight=1e-3)
    greedy = _solve(5, constraint="support")
    np.testing.assert_allclose(cheap.policy[START:-1], greedy.policy[START:-1], atol=1e-3)


@pytest.mark.slow
def test_sampled_logs_agree_with_exact_ones():
    line, behavior = tabular.line_world(5), tabular.line_behavior(5)
    keys = jax.random.split(jax.random.key(0), 10)
    batches = jax.jit(jax.vmap(lambda key: logs.sampled_log(line, behavior, key, 10_000)))(keys)
    support = jax.vmap(lambda batch: _sweep(CONFIG, batch, 40))(batches)
    np.testing.assert_allclose(_reach(5, support.policy), 1.0, rtol=1e-5)
    config = CONFIG.replace(constraint="kl", epsilon=0.5)
    near = jax.vmap(lambda batch: _sweep(config, batch, 40))(batches)
    reached = _reach(5, near.policy)
    # Over logs of this size: mean 0.157, standard deviation 0.013.
    assert reached.mean() == pytest.approx(0.157, abs=3 * 0.013 / np.sqrt(10))
    assert reached.std() < 0.03


def test_metrics_by_hand():
    line = tabular.line_world(1, left=0)  # two states: the start, and the goal to its right
    batch = logs.exact_log(line, [[3, 1], [0, 0]])
    state = constrained_iteration.init(CONFIG, jax.random.key(0), batch)
    state, metrics = constrained_iteration.update(CONFIG, state, batch)
    np.testing.assert_allclose(state.action_values[0], [0.0, 1.0])
    assert metrics["residual"] == pytest.approx(1.0)
    assert metrics["q_value"] == pytest.approx(0.25)
    assert metrics["divergence"] == pytest.approx(0.75)  # from (3/4, 1/4) to (0, 1)


def test_log_probabilities_are_those_of_the_table():
    state = _solve(5, constraint="kl")
    observations = jnp.eye(11)[jnp.array([START, START, 0])]
    log_probs = constrained_iteration.log_prob(CONFIG, state, observations, jnp.array([0, 1, 1]))
    np.testing.assert_allclose(np.exp(log_probs), [0.505, 0.495, 0.0], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "actions", "message"),
    [
        ({}, jnp.zeros((4, 1)), "constrained_iteration: batch.actions are float32"),
        ({"num_actions": 0}, jnp.zeros(4, jnp.int32), "constrained_iteration: needs num_actions"),
        ({"constraint": "mmd"}, jnp.zeros(4, jnp.int32), "constraint=mmd is unknown; choose one"),
    ],
)
def test_wrong_configurations_are_refused_by_name(changes, actions, message):
    batch = Batch(
        observations=jnp.eye(4), actions=actions, rewards=jnp.zeros(4),
        next_observations=jnp.eye(4), terminations=jnp.zeros(4, bool),
    )  # fmt: skip
    with pytest.raises(InputError, match=message):
        constrained_iteration.init(CONFIG.replace(**changes), jax.random.key(0), batch)
