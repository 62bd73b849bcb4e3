"""Tabular CQL: its gradient by hand, its fixed points, and how it fails on a rare good action."""

import functools

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import pytest

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.lower_bound import tabular_cql
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"num_actions": contract.NUM_ACTIONS},
    other={"initial_value": 2.0},
    table=True,
)

CONFIG = tabular_cql.Config(num_actions=2)


@functools.partial(jax.jit, static_argnames="updates")
def _sweep(config, batch, updates):
    return logs.sweep(tabular_cql, config, batch, updates)


def test_one_step_by_hand():
    config = CONFIG.replace(learning_rate=0.4, discount=0.5, alpha=0.2)
    eye = jnp.eye(2)
    batch = Batch(
        observations=eye[jnp.array([0, 0])],
        actions=jnp.array([1, 0], jnp.int32),
        rewards=jnp.array([1.0, 5.0]),
        next_observations=eye[jnp.array([1, 1])],
        terminations=jnp.array([False, True]),
    )
    table = np.array([[0.0, np.log(3.0)], [2.0, 4.0]])  # softmax (1/4, 3/4) in state 0
    state = tabular_cql.init(config, jax.random.key(0), batch)
    state = state.replace(action_values=jnp.asarray(table, jnp.float32))
    state, metrics = tabular_cql.update(config, state, batch)
    # Targets 1 + 0.5 * 4 = 3 for action 1, and 5 for action 0, which ends.
    gradient = np.array(
        [
            0.5 * (0.0 - 5.0) + 0.2 * (0.25 - 0.5),
            0.5 * (np.log(3.0) - 3.0) + 0.2 * (0.75 - 0.5),
        ]
    )
    np.testing.assert_allclose(state.action_values[0], table[0] - 0.4 * gradient, rtol=1e-5)
    np.testing.assert_array_equal(state.action_values[1], table[1])
    assert metrics["critic_loss"] == pytest.approx(
        0.25 * (25.0 + (np.log(3.0) - 3.0) ** 2), rel=1e-5
    )
    assert metrics["gap"] == pytest.approx(np.log(4.0) - 0.5 * np.log(3.0), rel=1e-5)
    assert metrics["q_value"] == pytest.approx(0.5 * np.log(3.0), rel=1e-5)


def test_without_penalty_it_finds_the_optimal_values():
    line = tabular.line_world(5)
    batch = logs.exact_log(line, [[1, 1]] * 10 + [[0, 0]])
    config = CONFIG.replace(discount=0.95, alpha=0.0, learning_rate=20.0)  # 20 pairs
    state = _sweep(config, batch, 300)
    exact = tabular.value_iteration(line)
    np.testing.assert_allclose(state.action_values, exact.action_values, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.03, 0.3])
def test_the_fixed_point_of_a_bandit_balances_error_and_penalty(alpha):
    # Nine pulls of the first arm earn 0, one of the second earns 1: the second is better.
    batch = Batch(
        observations=jnp.ones((10, 1)),
        actions=jnp.array([0] * 9 + [1], jnp.int32),
        rewards=jnp.array([0.0] * 9 + [1.0]),
        next_observations=jnp.ones((10, 1)),
        terminations=jnp.ones(10, bool),
    )
    state = _sweep(CONFIG.replace(alpha=alpha), batch, 2_000)
    values = np.asarray(state.action_values[0], np.float64)
    behavior, rewards = np.array([0.9, 0.1]), np.array([0.0, 1.0])
    softmax = np.exp(values) / np.exp(values).sum()
    np.testing.assert_allclose(
        behavior * (values - rewards) + alpha * (softmax - behavior), 0.0, atol=1e-5
    )
    # A lower bound on the policy's value, so loose for the rare arm that the choice turns around.
    assert values[1] < rewards[1]
    assert (values.argmax() == 1) == (alpha == 0.03)


def test_a_light_penalty_reaches_the_goal_and_a_heavy_one_does_not():
    line, start = tabular.line_world(5), 5
    batch = logs.exact_log(line, logs.line_counts(5))
    # A step of 0.2 on the mean over the rows of a state, which is one of ten states.
    config = CONFIG.replace(discount=0.95, learning_rate=2.0)
    solve = jax.vmap(
        lambda alpha, optimism: (
            _sweep(config.replace(alpha=alpha, initial_value=optimism), batch, 60_000).action_values
        )
    )
    values = solve(jnp.array([0.001, 0.01, 0.1] * 2), jnp.array([0.0] * 3 + [2.0] * 3))
    policies = jax.nn.one_hot(jnp.argmax(values, -1), 2)
    reach = jax.vmap(lambda policy: tabular.reach_within(line, policy, line.terminal, 200)[start])
    np.testing.assert_array_equal(reach(policies), [1.0, 1.0, 0.0] * 2)
    np.testing.assert_allclose(values[:, start, 1], [0.794, 0.608, -0.258] * 2, atol=1e-3)
    np.testing.assert_allclose(values[:, start, 0], [0.003, 0.008, 0.038] * 2, atol=1e-3)
    # What was never logged has fallen below what was, whatever the first guess.
    assert (values[:, :start, 1] < values[:, :start, 0] - 1.0).all()


@pytest.mark.parametrize("whole", [False, True])
def test_the_batch_is_a_choice(whole):
    config = CONFIG.replace(whole_dataset=whole)
    assert tabular_cql.batch_spec(config).whole_dataset is whole


def test_the_action_is_greedy_in_any_mode():
    batch = Batch(
        observations=jnp.eye(2), actions=jnp.zeros(2, jnp.int32), rewards=jnp.zeros(2),
        next_observations=jnp.eye(2), terminations=jnp.ones(2, bool),
    )  # fmt: skip
    state = tabular_cql.init(CONFIG, jax.random.key(0), batch)
    state = state.replace(action_values=jnp.array([[0.0, 1.0], [2.0, 0.0]]))
    for deterministic in (True, False):
        for row, best in ((0, 1), (1, 0)):
            action, _ = tabular_cql.act(
                CONFIG, state, jnp.eye(2)[row], jax.random.key(0), deterministic=deterministic
            )
            assert action == best


@pytest.mark.parametrize(
    ("config", "actions", "message"),
    [
        (CONFIG, jnp.zeros((4, 1)), "tabular_cql: batch.actions are float32"),
        (tabular_cql.Config(), jnp.zeros(4, jnp.int32), "tabular_cql: needs num_actions"),
    ],
)
def test_what_no_table_can_hold_is_refused_by_name(config, actions, message):
    batch = Batch(
        observations=jnp.eye(4), actions=actions, rewards=jnp.zeros(4),
        next_observations=jnp.eye(4), terminations=jnp.zeros(4, bool),
    )  # fmt: skip
    with pytest.raises(InputError, match=message):
        tabular_cql.init(config, jax.random.key(0), batch)
