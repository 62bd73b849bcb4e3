from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.envs import tabular
from ddm.envs.tabular.mdp import draw
from ddm.errors import InputError

TRANSITIONS = np.array([[[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])
REWARDS = np.array([[1.0, 2.0], [3.0, 4.0]])


def _change(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"transitions": _change(TRANSITIONS, (0, 1, 1), 0.9)}, r"transitions\[0, 1\] sums to 0.9"),
        ({"transitions": _change(TRANSITIONS, (1, 0), [1.5, -0.5])}, r"transitions\[1, 0\] holds"),
        (
            {"transitions": _change(TRANSITIONS, (1, 0, 0), np.nan)},
            r"transitions\[1, 0\] holds nan",
        ),
        ({"transitions": np.ones((2, 2))}, r"transitions have shape \(2, 2\)"),
        ({"transitions": np.ones((2, 2, 3)) / 3}, r"transitions have shape \(2, 2, 3\)"),
        ({"rewards": np.ones((3, 2))}, r"rewards have shape \(3, 2\)"),
        ({"rewards": _change(REWARDS, (1, 0), np.inf)}, r"rewards\[1, 0, 0\] is inf"),
        ({"initial": [0.5, 0.4]}, r"initial sums to 0.9"),
        ({"initial": [1.0]}, r"initial has shape \(1,\)"),
        ({"initial": 2}, r"initial is state 2, expected 0 to 1"),
        ({"discount": 1.1}, r"discount is 1.1"),
        ({"discount": -0.1}, r"discount is -0.1"),
        ({"discount": float("nan")}, r"discount is nan"),
        ({"terminal": np.array([0, 1])}, r"terminal is int64 of shape \(2,\), expected bool"),
    ],
)
def test_arrays_that_are_no_mdp_are_refused_by_name(arguments, message):
    good = {"transitions": TRANSITIONS, "rewards": REWARDS, "initial": 0, "discount": 0.9}
    tabular.make_mdp(**good)
    with pytest.raises(InputError, match=message):
        tabular.make_mdp(**good | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"next_states": [[[0, 2]], [[1, 1]]]},
            "next_states hold 2, expected integers from 0 to 1",
        ),
        ({"next_states": [[[0, -1]], [[1, 1]]]}, "next_states hold -1"),
        ({"next_states": [[[0.0, 1.0]], [[1.0, 1.0]]]}, "next_states hold float64"),
        ({"probabilities": [[[0.5, 0.4]], [[1.0, 0.0]]]}, r"probabilities\[0, 0\] sums to 0.9"),
        ({"probabilities": [[[1.0]], [[1.0]]]}, r"shapes \(2, 1, 2\) and \(2, 1, 1\)"),
        ({"rewards": np.ones((3, 1))}, r"rewards have shape \(3, 1\)"),
        ({"initial": [0.5, 0.4]}, "initial sums to 0.9"),
        ({"discount": 1.1}, "discount is 1.1"),
        ({"terminal": np.array([0, 1])}, "terminal is int64"),
    ],
)
def test_sparse_arrays_are_checked_like_dense_ones(arguments, message):
    good = {
        "next_states": [[[0, 1]], [[1, 1]]],
        "probabilities": [[[0.5, 0.5]], [[1.0, 0.0]]],
        "rewards": [[1.0], [2.0]],
        "initial": 0,
        "discount": 0.5,
    }
    # V(1) = 2 / (1 - 0.5) and V(0) = 1 + 0.5 (V(0) + V(1)) / 2.
    values, _ = tabular.evaluate_policy(tabular.make_sparse_mdp(**good), jnp.ones((2, 1)))
    np.testing.assert_allclose(values, [8 / 3, 4.0], rtol=1e-5)
    with pytest.raises(InputError, match=message):
        tabular.make_sparse_mdp(**good | arguments)


def test_policy_of_the_wrong_shape_is_refused_by_name():
    mdp = tabular.make_mdp(TRANSITIONS, REWARDS, 0, 0.9)
    for function in (tabular.evaluate_policy, tabular.expected_return, tabular.expected_visits):
        with pytest.raises(InputError, match=r"policy has shape \(2, 3\), expected .* \(2, 2\)"):
            function(mdp, jnp.ones((2, 3)) / 3)


def test_rewards_of_every_broadcast_shape_have_the_right_mean():
    full = np.arange(8.0).reshape(2, 2, 2)
    for rewards in (REWARDS, full, full[:1, :1], full[:, :, :1]):
        mdp = tabular.make_mdp(TRANSITIONS, rewards, 0, 0.9)
        each = rewards[..., None] if rewards.ndim == 2 else rewards
        expected = (TRANSITIONS * each).sum(-1)
        np.testing.assert_allclose(mdp.expected_rewards(), expected, atol=1e-6)


def test_sparse_and_dense_forms_are_the_same_process():
    sparse = tabular.random_mdp(jax.random.key(0), 6, 3, 2)
    dense = sparse.dense()
    policy = jax.random.dirichlet(jax.random.key(1), jnp.ones(3), (6,))
    values = jnp.arange(6.0)
    assert (sparse.num_states, sparse.num_actions) == (dense.num_states, dense.num_actions)
    np.testing.assert_allclose(dense.transitions.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(sparse.expected_rewards(), dense.expected_rewards(), atol=1e-6)
    np.testing.assert_allclose(sparse.expected_next(values), dense.expected_next(values), atol=1e-5)
    np.testing.assert_allclose(sparse.chain(policy), dense.chain(policy), atol=1e-6)


@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_samples_have_the_frequencies_and_rewards_of_the_arrays(form):
    mdp = tabular.random_mdp(jax.random.key(0), 4, 2, 3)
    mdp = mdp.dense() if form == "dense" else mdp
    state, action, count = 1, 1, 20_000
    keys = jax.random.split(jax.random.key(1), count)
    next_states, rewards = jax.vmap(mdp.sample, (0, None, None))(keys, state, action)
    expected = np.asarray(mdp.chain(jnp.eye(2)[jnp.full(4, action)]))[state]
    found = np.bincount(next_states, minlength=4) / count
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / np.sqrt(count))
    assert found[expected == 0].sum() == 0
    np.testing.assert_allclose(rewards, mdp.expected_rewards()[state, action], rtol=1e-5)


def test_draw_never_takes_an_impossible_index():
    probabilities = jnp.array([0.0, 0.3, 0.0, 0.7, 0.0]) * 0.999  # a row that misses one
    drawn = jax.vmap(draw, (0, None))(jax.random.split(jax.random.key(0), 5_000), probabilities)
    assert set(np.unique(drawn)) == {1, 3}
    np.testing.assert_allclose(np.mean(drawn == 3), 0.7, atol=0.03)


@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_a_sampled_reward_is_that_of_the_state_which_is_entered(form):
    rewards = np.array([[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]], [[7.0, 8.0, 9.0]]])
    chances = np.full((3, 1, 3), 1.0 / 3.0)
    if form == "dense":
        mdp = tabular.make_mdp(chances, rewards, 0, 0.9)
    else:
        mdp = tabular.make_sparse_mdp(np.tile(np.arange(3), (3, 1, 1)), chances, rewards, 0, 0.9)
    keys = jax.random.split(jax.random.key(0), 50)
    next_states, sampled = jax.vmap(mdp.sample, (0, None, None))(keys, 1, 0)
    assert set(np.asarray(next_states)) == {0, 1, 2}
    np.testing.assert_allclose(sampled, rewards[1, 0, next_states])


def test_the_smallest_draw_of_all_takes_no_impossible_index(monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", lambda key, dtype: jnp.zeros((), dtype))
    assert draw(jax.random.key(0), jnp.array([0.0, 0.4, 0.6])) == 1
