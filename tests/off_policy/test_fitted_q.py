"""Fitted Q iteration: exact on tables, least squares elsewhere."""

import contract
import jax
import jax.numpy as jnp
import logs
import numpy as np
import pytest
from jax.tree_util import Partial

from ddm.envs import tabular
from ddm.errors import InputError
from ddm.off_policy import fitted_q
from ddm.ops import improvement
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"num_actions": contract.NUM_ACTIONS},
    other={"ridge": 1.0},
    table=True,
)


def test_a_log_with_exact_shares_gives_the_printed_values_of_the_grid():
    grid = tabular.discount_grid()
    counts = np.where(np.asarray(grid.terminal)[:, None], 0, np.full((1, 4), 4))
    config = fitted_q.Config(num_actions=4)
    fit = jax.jit(lambda batch: logs.sweep(fitted_q, config, batch, 100))
    state = fit(logs.exact_log(grid, counts))
    np.testing.assert_allclose(
        state.action_values, tabular.value_iteration(grid).action_values, atol=1e-3
    )
    values = np.asarray(state.action_values.max(-1))
    np.testing.assert_allclose(values[:5], [8.67, 8.93, 9.11, 9.30, 9.42], atol=0.006)
    assert values[jnp.argmax(grid.initial)] == pytest.approx(7.13, abs=0.006)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 3.0])
def test_one_round_by_hand(ridge):
    config = fitted_q.Config(num_actions=2, discount=0.5, ridge=ridge)
    eye = jnp.eye(3)
    batch = Batch(
        observations=eye[jnp.array([0, 0, 0, 2])],
        actions=jnp.array([1, 1, 0, 0], jnp.int32),
        rewards=jnp.array([1.0, 3.0, 0.0, 5.0]),
        next_observations=eye[jnp.array([1, 2, 1, 1])],
        terminations=jnp.array([False, False, False, True]),
    )
    state = fitted_q.init(config, jax.random.key(0), batch)
    table = jnp.array([[0.0, 1.0], [2.0, 4.0], [0.0, -1.0]])
    state, metrics = fitted_q.update(config, state.replace(action_values=table), batch)
    # Targets 3 and 3 for (0, 1), 2 for (0, 0), 5 for (2, 0); each moves a part of the way.
    part = 1.0 / (1.0 + ridge)
    expected = [[2.0 * part, 1.0 + 2.0 * part], [2.0, 4.0], [5.0 * part, -1.0]]
    np.testing.assert_allclose(state.action_values, expected, rtol=1e-5)
    assert metrics["critic_loss"] == pytest.approx((4.0 + 4.0 + 4.0 + 25.0) / 4)
    assert metrics["q_value"] == pytest.approx(0.5)


def test_pairs_that_were_never_logged_keep_their_value():
    line = tabular.line_world(5)
    config = fitted_q.Config(num_actions=2, discount=0.95)
    batch = logs.exact_log(line, logs.line_counts(5))
    state = jax.jit(lambda batch: logs.sweep(fitted_q, config, batch, 100))(batch)
    exact = tabular.value_iteration(
        line, Partial(improvement.greedy), known=jnp.asarray(logs.line_counts(5)) > 0
    )
    np.testing.assert_allclose(state.action_values, exact.action_values, atol=1e-4)
    np.testing.assert_array_equal(state.action_values[:5, 1], 0.0)
    assert float(state.action_values[5, 1]) == pytest.approx(0.95**4, abs=1e-4)


def test_general_features_are_fitted_by_least_squares():
    random = np.random.default_rng(0)
    features, actions = random.normal(size=(60, 4)), random.integers(2, size=60)
    features[:, 3] = 100.0 * (features[:, 0] - features[:, 1])  # redundant, on another scale
    rewards = random.normal(size=60)
    batch = Batch(
        observations=jnp.asarray(features, jnp.float32), actions=jnp.asarray(actions, jnp.int32),
        rewards=jnp.asarray(rewards, jnp.float32), terminations=jnp.ones(60, bool),
        next_observations=jnp.asarray(features, jnp.float32),
    )  # fmt: skip
    config = fitted_q.Config(num_actions=2, ridge=0.0)
    state = fitted_q.init(config, jax.random.key(0), batch)
    state, _ = fitted_q.update(config, state, batch)
    for action in range(2):
        chosen = actions == action
        solution = np.linalg.lstsq(features[chosen], rewards[chosen], rcond=None)[0]
        np.testing.assert_allclose(
            features[chosen] @ state.action_values[:, action],
            features[chosen] @ solution,
            atol=1e-3,
        )


def test_the_action_is_greedy_in_any_mode():
    batch = Batch(
        observations=jnp.eye(2), actions=jnp.zeros(2, jnp.int32), rewards=jnp.zeros(2),
        next_observations=jnp.eye(2), terminations=jnp.ones(2, bool),
    )  # fmt: skip
    config = fitted_q.Config(num_actions=3)
    state = fitted_q.init(config, jax.random.key(0), batch)
    state = state.replace(action_values=jnp.array([[0.0, 1.0, 0.5], [0.0, 0.0, 2.0]]))
    features = jnp.array([1.0, 1.0])  # values 0, 1, 2.5
    for deterministic in (True, False):
        action, _ = fitted_q.act(
            config, state, features, jax.random.key(0), deterministic=deterministic
        )
        assert action == 2


@pytest.mark.parametrize(
    ("config", "actions", "message"),
    [
        (fitted_q.Config(num_actions=2), jnp.zeros((4, 1)), "fitted_q: batch.actions are float32"),
        (fitted_q.Config(), jnp.zeros(4, jnp.int32), "fitted_q: needs num_actions"),
    ],
)
def test_other_actions_are_refused_by_name(config, actions, message):
    batch = Batch(
        observations=jnp.eye(4), actions=actions, rewards=jnp.zeros(4),
        next_observations=jnp.eye(4), terminations=jnp.zeros(4, bool),
    )  # fmt: skip
    with pytest.raises(InputError, match=message):
        fitted_q.init(config, jax.random.key(0), batch)
