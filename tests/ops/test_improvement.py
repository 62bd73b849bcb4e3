from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.ops import improvement

VALUES = np.array([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0], [-1.0, 5.0, 4.0]])
BEHAVIOR = np.array([[0.5, 0.2, 0.3], [0.1, 0.7, 0.2], [0.6, 0.0, 0.4]])

OPERATORS = {
    "greedy": improvement.greedy,
    "epsilon_greedy": functools.partial(improvement.epsilon_greedy, epsilon=0.1),
    "soft_greedy": functools.partial(improvement.soft_greedy, temperature=0.5),
    "kl_penalty": functools.partial(improvement.kl_penalty, behavior=BEHAVIOR, weight=0.5),
    "support": functools.partial(improvement.support, behavior=BEHAVIOR),
    "kl_constraint": functools.partial(improvement.kl_constraint, behavior=BEHAVIOR, epsilon=0.1),
    "total_variation": functools.partial(
        improvement.total_variation, behavior=BEHAVIOR, epsilon=0.1
    ),
    "spibb": functools.partial(improvement.spibb, behavior=BEHAVIOR, uncertain=BEHAVIOR < 0.3),
    "spibb_bounded": functools.partial(
        improvement.spibb_bounded, behavior=BEHAVIOR, uncertain=BEHAVIOR < 0.3
    ),
    "expectile": functools.partial(improvement.expectile, behavior=BEHAVIOR, level=0.7),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_policies_are_distributions_and_leading_axes_are_independent(name, float64):
    improved = OPERATORS[name](jnp.asarray(VALUES))
    np.testing.assert_allclose(improved.policy.sum(-1), 1.0, atol=1e-12)
    assert (improved.policy >= 0).all()
    assert improved.values.shape == (3,)
    for row in range(3):
        keywords = {
            key: value[row] if np.ndim(value) else value
            for key, value in getattr(OPERATORS[name], "keywords", {}).items()
        }
        function = getattr(OPERATORS[name], "func", OPERATORS[name])
        single = function(jnp.asarray(VALUES[row]), **keywords)
        np.testing.assert_allclose(single.policy, improved.policy[row], atol=1e-12)
        np.testing.assert_allclose(single.values, improved.values[row], atol=1e-12)


def test_greedy_and_epsilon_greedy():
    improved = improvement.greedy(jnp.asarray(VALUES))
    np.testing.assert_array_equal(improved.policy, [[0, 1, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(improved.values, [3, 0, 5])
    softer = improvement.epsilon_greedy(jnp.asarray(VALUES), 0.3)
    np.testing.assert_allclose(softer.policy[0], [0.1, 0.8, 0.1], atol=1e-6)
    np.testing.assert_allclose(softer.values[0], 0.1 + 2.4 + 0.2, atol=1e-6)


def test_soft_greedy_is_the_log_partition_function():
    improved = improvement.soft_greedy(jnp.asarray(VALUES), 0.5)
    weights = np.exp(VALUES / 0.5)
    np.testing.assert_allclose(improved.policy, weights / weights.sum(-1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(improved.values, 0.5 * np.log(weights.sum(-1)), rtol=1e-5)


def test_kl_penalty_attains_the_maximum_of_its_objective(float64):
    improved = improvement.kl_penalty(jnp.asarray(VALUES), jnp.asarray(BEHAVIOR), 0.5)
    assert improved.policy[2, 1] == 0.0
    objective = (improved.policy * VALUES).sum(-1) - 0.5 * improvement.kl_divergence(
        improved.policy, jnp.asarray(BEHAVIOR)
    )
    np.testing.assert_allclose(improved.values, objective, atol=1e-12)
    random = np.random.default_rng(0)
    others = random.dirichlet(np.ones(3), size=500) * (BEHAVIOR[0] > 0)
    values = others @ VALUES[0] - 0.5 * improvement.kl_divergence(
        jnp.asarray(others), jnp.broadcast_to(BEHAVIOR[0], others.shape)
    )
    assert (values <= improved.values[0] + 1e-12).all()


def test_support_drops_what_the_behaviour_never_does_and_breaks_ties_towards_it():
    improved = improvement.support(jnp.asarray(VALUES), jnp.asarray(BEHAVIOR))
    np.testing.assert_array_equal(improved.policy, [[0, 1, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(improved.values, [3, 0, 4])
    stricter = improvement.support(jnp.asarray(VALUES), jnp.asarray(BEHAVIOR), 0.25)
    np.testing.assert_array_equal(stricter.policy[0], [0, 0, 1])


@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 10.0])
def test_kl_constraint_is_tight_until_greedy_is_allowed(epsilon, float64):
    behavior = jnp.array([0.9, 0.1])
    improved = improvement.kl_constraint(jnp.array([0.0, 0.3]), behavior, epsilon)
    divergence = improvement.kl_divergence(improved.policy, behavior)
    if epsilon >= np.log(10):
        np.testing.assert_array_equal(improved.policy, [0, 1])
    else:
        np.testing.assert_allclose(divergence, epsilon, atol=1e-9)
    np.testing.assert_allclose(improved.values, 0.3 * improved.policy[1], atol=1e-12)


# x ln(x / 0.1) + (1 - x) ln((1 - x) / 0.9) = epsilon, solved for x.
@pytest.mark.parametrize(
    ("epsilon", "right"), [(0.01, 0.1449), (0.1, 0.257), (0.5, 0.495), (1.0, 0.689), (2.0, 0.951)]
)
def test_kl_constraint_has_the_known_two_action_solution(epsilon, right, float64):
    improved = improvement.kl_constraint(jnp.array([0.0, 1.0]), jnp.array([0.9, 0.1]), epsilon)
    np.testing.assert_allclose(improved.policy[1], right, atol=6e-4)


def test_kl_constraint_keeps_the_behaviour_where_nothing_is_better():
    improved = improvement.kl_constraint(jnp.zeros(2), jnp.array([0.9, 0.1]), 0.5)
    np.testing.assert_allclose(improved.policy, [0.9, 0.1], atol=1e-6)
    only = improvement.kl_constraint(jnp.array([0.0, 9.0]), jnp.array([1.0, 0.0]), 0.5)
    np.testing.assert_array_equal(only.policy, [1.0, 0.0])


def test_total_variation_takes_from_the_worst_and_leaves_the_support():
    improved = improvement.total_variation(jnp.asarray(VALUES), jnp.asarray(BEHAVIOR), 0.55)
    np.testing.assert_allclose(
        improved.policy, [[0.0, 0.75, 0.25], BEHAVIOR[1], [0.05, 0.55, 0.4]], atol=1e-6
    )
    np.testing.assert_allclose(improved.values, [2.75, 0.0, -0.05 + 2.75 + 1.6], atol=1e-6)
    everything = improvement.total_variation(jnp.asarray(VALUES), jnp.asarray(BEHAVIOR), 1.0)
    np.testing.assert_allclose(everything.policy[0], [0, 1, 0], atol=1e-6)


def test_spibb_keeps_uncertain_probabilities():
    uncertain = jnp.array([[False, True, False], [True] * 3, [False] * 3])
    improved = improvement.spibb(jnp.asarray(VALUES), jnp.asarray(BEHAVIOR), uncertain)
    np.testing.assert_allclose(
        improved.policy, [[0.0, 0.2, 0.8], BEHAVIOR[1], [0, 1, 0]], atol=1e-6
    )
    np.testing.assert_allclose(improved.values, [0.6 + 1.6, 0.0, 5.0], atol=1e-6)


def test_bounded_spibb_may_drop_uncertain_actions_but_not_raise_them():
    values = jnp.array([[1.0, 3.0, 2.0], [4.0, 3.0, 2.0]])
    behavior = jnp.array([[0.5, 0.2, 0.3], [0.5, 0.2, 0.3]])
    uncertain = jnp.array([[True, True, False], [True, False, True]])
    improved = improvement.spibb_bounded(values, behavior, uncertain)
    np.testing.assert_allclose(improved.policy, [[0, 0.2, 0.8], [0.5, 0.5, 0]], atol=1e-6)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.7, 0.99])
def test_expectile_solves_its_first_order_condition(level, float64):
    values = improvement.expectile(jnp.asarray(VALUES), jnp.asarray(BEHAVIOR), level).values
    residuals = VALUES - np.asarray(values)[:, None]
    weights = np.where(residuals > 0, level, 1 - level) * BEHAVIOR
    np.testing.assert_allclose((weights * residuals).sum(-1), 0.0, atol=1e-12)
    if level == 0.5:
        np.testing.assert_allclose(values, (BEHAVIOR * VALUES).sum(-1), atol=1e-12)


def test_advantage_weighting_by_hand():
    policy = improvement.advantage_weighted(
        jnp.array([0.0, 1.0]), jnp.array(0.5), jnp.array([0.9, 0.1]), np.log(9.0)
    )
    np.testing.assert_allclose(policy, [0.5, 0.5], atol=1e-6)  # weights 1/3 and 3
    clipped = improvement.advantage_weighted(
        jnp.array([0.0, 1e6]), jnp.array(0.0), jnp.array([0.9, 0.1]), 1.0, 9.0
    )
    np.testing.assert_allclose(clipped, [0.5, 0.5], atol=1e-6)


def test_kl_divergence_off_the_support_is_infinite():
    policies = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    behavior = jnp.array([[0.0, 1.0], [0.0, 1.0], [0.25, 0.75]])
    expected = [0.0, np.inf, 0.5 * np.log(2) + 0.5 * np.log(2 / 3)]
    np.testing.assert_allclose(improvement.kl_divergence(policies, behavior), expected, rtol=1e-5)


def test_shapes_that_differ_are_refused():
    with pytest.raises(AssertionError):
        improvement.support(jnp.zeros((2, 3)), jnp.ones((2, 2)))
    chex.assert_shape(jax.vmap(improvement.greedy)(jnp.zeros((4, 2, 3))).policy, (4, 2, 3))


def test_an_action_at_the_threshold_itself_is_dropped():
    behavior = jnp.array([0.25, 0.25, 0.5])
    improved = improvement.support(jnp.array([3.0, 2.0, 1.0]), behavior, 0.25)
    np.testing.assert_array_equal(improved.policy, [0.0, 0.0, 1.0])
