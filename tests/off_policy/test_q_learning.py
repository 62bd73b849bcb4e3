"""Tabular Q-learning: one step by hand, optimal policies of small worlds, and what misleads it."""

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import probes
import pytest

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.off_policy import q_learning
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"num_actions": contract.NUM_ACTIONS},
    other={"exploration": 1.0, "initial_value": 2.0},
    table=True,
)

CONFIG = q_learning.Config(num_actions=2)


def test_one_step_by_hand():
    config = CONFIG.replace(learning_rate=0.5, discount=0.9)
    eye = jnp.eye(3)
    batch = Batch(
        observations=eye[jnp.array([0, 0, 0, 2])],
        actions=jnp.array([1, 1, 0, 0], jnp.int32),
        rewards=jnp.array([1.0, 3.0, 0.0, 5.0]),
        next_observations=eye[jnp.array([1, 2, 1, 1])],
        terminations=jnp.array([False, False, False, True]),
    )
    state = q_learning.init(config, jax.random.key(0), batch)
    table = jnp.array([[0.0, 1.0], [2.0, 4.0], [0.0, -1.0]])
    state, metrics = q_learning.update(config, state.replace(action_values=table), batch)
    # Targets 1 + 0.9 * 4 = 4.6 and 3 for (0, 1), whose mean error is 2.8; 3.6 for (0, 0); 5 for
    # (2, 0), which ends. Other pairs stay.
    np.testing.assert_allclose(
        state.action_values, [[1.8, 1.0 + 1.4], [2.0, 4.0], [2.5, -1.0]], rtol=1e-6
    )
    assert metrics["critic_loss"] == pytest.approx((3.6**2 + 2.0**2 + 3.6**2 + 5.0**2) / 4)
    assert metrics["q_value"] == pytest.approx(0.5)


def test_minibatches_of_a_log_find_the_optimal_policy_of_a_grid():
    grid = tabular.discount_grid(noise=0.0)
    counts = np.where(np.asarray(grid.terminal)[:, None], 0, np.ones((1, 4), int))
    # Nothing is random, so that the whole step to each target is right.
    config = q_learning.Config(num_actions=4, learning_rate=1.0)
    state, metrics = probes.train(q_learning, config, logs.exact_log(grid, counts), steps=1_000)
    optimal = tabular.value_iteration(grid)
    np.testing.assert_allclose(state.action_values, optimal.action_values, atol=1e-4)
    np.testing.assert_allclose(
        state.action_values[:5].max(-1), [9.41, 9.51, 9.61, 9.70, 9.80], atol=0.006
    )
    assert metrics["critic_loss"] < 1e-6
    policy = jax.nn.one_hot(jnp.argmax(state.action_values, -1), 4)
    best = tabular.expected_return(grid, optimal.policy)
    assert float(tabular.expected_return(grid, policy)) == pytest.approx(float(best), abs=1e-4)


def test_random_transitions_are_averaged_by_a_small_step():
    grid = tabular.discount_grid()  # half of all moves slip
    counts = np.where(np.asarray(grid.terminal)[:, None], 0, np.full((1, 4), 4))
    config = q_learning.Config(num_actions=4, learning_rate=0.01)
    batch = logs.exact_log(grid, counts)
    state, _ = probes.train(q_learning, config, batch, steps=4_000, batch_size=256)
    optimal = tabular.value_iteration(grid)
    # Next to the cliff targets are -10 or about 5: a standard deviation of 6.5, of which a step of
    # 0.01 leaves sqrt(0.01 / 2), or 0.46.
    errors = np.abs(state.action_values - optimal.action_values)
    assert errors.max() < 1.4
    assert errors.mean() < 0.1
    policy = jax.nn.one_hot(jnp.argmax(state.action_values, -1), 4)
    best = float(tabular.expected_return(grid, optimal.policy))
    assert best == pytest.approx(7.1349, abs=1e-3)
    assert float(tabular.expected_return(grid, policy)) > best - 0.1


@pytest.mark.parametrize(
    ("optimism", "values"), [(0.0, (0.0, 0.95**4)), (2.0, (1.9, 0.95**2 * 1.9))]
)
def test_optimism_about_what_was_never_logged_misleads(optimism, values):
    # A line on which states left of the start never log a step to the right. Optimistic values
    # there, 2 though no return exceeds 1, draw the learner to the left: 0.95 * 2 against
    # 0.95^2 * 1.9. With pessimistic ones it goes right.
    line = tabular.line_world(5)
    config = CONFIG.replace(learning_rate=1.0, discount=0.95, initial_value=optimism)
    batch = logs.exact_log(line, logs.line_counts(5))
    state = jax.jit(lambda batch: logs.sweep(q_learning, config, batch, 400))(batch)
    np.testing.assert_allclose(state.action_values[5], values, atol=1e-3)


def test_exploration_is_the_share_of_random_actions():
    batch = Batch(
        observations=jnp.eye(2), actions=jnp.zeros(2, jnp.int32), rewards=jnp.zeros(2),
        next_observations=jnp.eye(2), terminations=jnp.ones(2, bool),
    )  # fmt: skip
    config = q_learning.Config(num_actions=4, exploration=0.4)
    state = q_learning.init(config, jax.random.key(0), batch)
    state = state.replace(action_values=state.action_values.at[1, 2].set(1.0))
    keys = jax.random.split(jax.random.key(1), 4_000)
    actions = jax.vmap(lambda key: q_learning.act(config, state, jnp.eye(2)[1], key)[0])(keys)
    shares = np.bincount(actions, minlength=4) / len(keys)
    np.testing.assert_allclose(shares, [0.1, 0.1, 0.7, 0.1], atol=4 * np.sqrt(0.21 / len(keys)))
    act = q_learning.act(config, state, jnp.eye(2)[1], keys[0], deterministic=True)
    assert act[0] == 2


@pytest.mark.parametrize(
    ("config", "actions", "message"),
    [
        (CONFIG, jnp.zeros((4, 1)), "q_learning: batch.actions are float32"),
        (q_learning.Config(), jnp.zeros(4, jnp.int32), "q_learning: needs num_actions"),
    ],
)
def test_what_no_table_can_hold_is_refused_by_name(config, actions, message):
    batch = Batch(
        observations=jnp.eye(4), actions=actions, rewards=jnp.zeros(4),
        next_observations=jnp.eye(4), terminations=jnp.zeros(4, bool),
    )  # fmt: skip
    with pytest.raises(InputError, match=message):
        q_learning.init(config, jax.random.key(0), batch)
