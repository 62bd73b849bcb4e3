"""Moments of importance sampling: closed forms, enumeration, sampling, bias."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.envs.tabular import SparseTabularMDP, expected_return, make_mdp
from ddm.envs.tabular.importance import importance_moments
from ddm.errors import InputError


def bandit():
    """One state, reward = action, discount 1, behaviour 0.5 and target 0.9."""
    mdp = make_mdp(np.ones((1, 2, 1)), np.array([[0.0, 1.0]]), 0, 1.0)
    return mdp, jnp.array([[0.1, 0.9]]), jnp.array([[0.5, 0.5]])


def small(terminal=(False, False, True)):
    """Three states, two actions, rewards of (s, a, s'), two first states, discount 0.9."""
    random = np.random.default_rng(0)
    transitions = random.dirichlet(np.ones(3), (3, 2))
    rewards = random.normal(size=(3, 2, 3))
    mdp = make_mdp(transitions, rewards, np.array([0.6, 0.4, 0.0]), 0.9, np.array(terminal))
    target, behavior = (jnp.asarray(random.dirichlet(np.ones(2), 3)) for _ in range(2))
    return mdp, target, behavior


def enumerate_moments(mdp, target, behavior, horizon):
    """The same moments, by summing over all trajectories under both policies."""
    transitions, initial, terminal = (
        np.asarray(x, float) for x in (mdp.transitions, mdp.initial, mdp.terminal)
    )
    rewards = np.broadcast_to(np.asarray(mdp.rewards, float), transitions.shape)
    target, behavior = np.asarray(target, float), np.asarray(behavior, float)
    totals = dict.fromkeys(
        ("value", "return_square", "weight_mean", "weight_square", "is_mean", "is_square",
         "pdis_mean", "pdis_square"), 0.0
    )  # fmt: skip
    num_states, num_actions, _ = transitions.shape
    for start in range(num_states):
        for actions in itertools.product(range(num_actions), repeat=horizon):
            for successors in itertools.product(range(num_states), repeat=horizon):
                sampled = aimed = initial[start]
                weight, gain, per_decision, state, live = 1.0, 0.0, 0.0, start, True
                for t, (action, successor) in enumerate(zip(actions, successors, strict=True)):
                    live = live and not terminal[state]
                    if not live:  # a single way of doing nothing
                        same = action == 0 and successor == state
                        sampled, aimed = sampled * same, aimed * same
                        continue
                    move = transitions[state, action, successor]
                    sampled *= behavior[state, action] * move
                    aimed *= target[state, action] * move
                    possible = behavior[state, action] > 0.0
                    weight *= target[state, action] / behavior[state, action] if possible else 0.0
                    reward = float(mdp.discount) ** t * rewards[state, action, successor]
                    gain += reward
                    per_decision += weight * reward
                    state = successor
                totals["value"] += aimed * gain
                totals["return_square"] += aimed * gain**2
                if sampled > 0.0:
                    totals["weight_mean"] += sampled * weight
                    totals["weight_square"] += sampled * weight**2
                    totals["is_mean"] += sampled * weight * gain
                    totals["is_square"] += sampled * (weight * gain) ** 2
                    totals["pdis_mean"] += sampled * per_decision
                    totals["pdis_square"] += sampled * per_decision**2
    return totals


@pytest.mark.parametrize(
    ("horizon", "variance", "is_sd", "pdis_sd", "own_sd", "needed_is", "needed_pdis"),
    [
        (1, "0.64", "0.9", "0.9", "0.3", "1e+04", "1e+04"),
        (5, "10.9", "16.4", "7.86", "0.67", "1.3e+05", "3.1e+04"),
        (10, "140", "117", "35", "0.95", "1.7e+06", "1.5e+05"),
        (20, "1.98e+04", "2.78e+03", "437", "1.34", "2.4e+08", "5.9e+06"),
        (40, "3.9e+08", "7.8e+05", "6.2e+04", "1.9", "4.7e+12", "2.9e+10"),
    ],
)
def test_one_state_agrees_with_the_closed_forms(
    float64, horizon, variance, is_sd, pdis_sd, own_sd, needed_is, needed_pdis
):
    found = importance_moments(*bandit(), horizon)
    m, m1 = 1.64, 1.62  # E[rho^2] and E[rho^2 r]
    np.testing.assert_allclose(found.value, 0.9 * horizon, rtol=1e-12)
    np.testing.assert_allclose(found.weight_variance, m**horizon - 1, rtol=1e-10)
    np.testing.assert_allclose(found.effective_sample_share, m**-horizon, rtol=1e-10)
    np.testing.assert_allclose(
        found.is_square,
        horizon * m1 * m ** (horizon - 1) + horizon * (horizon - 1) * m1**2 * m ** (horizon - 2),
        rtol=1e-10,
    )
    steps = np.arange(1, horizon + 1)
    pdis = m ** (steps - 1) * m1 * (1 + 2 * 0.9 * (horizon - steps))
    np.testing.assert_allclose(found.pdis_square, pdis.sum(), rtol=1e-10)

    def printed(value, like):
        digits = len(like.split("e")[0].replace(".", "").lstrip("0"))
        return f"{float(value):.{digits}g}"

    assert printed(found.weight_variance, variance) == variance
    assert printed(found.is_deviation, is_sd) == is_sd
    assert printed(found.pdis_deviation, pdis_sd) == pdis_sd
    assert printed(found.on_policy_deviation, own_sd) == own_sd
    for deviation, needed in ((found.is_deviation, needed_is), (found.pdis_deviation, needed_pdis)):
        assert printed((deviation / (0.01 * found.value)) ** 2, needed) == needed


@pytest.mark.parametrize("horizon", [0, 1, 3])
def test_agrees_with_enumeration(float64, horizon):
    mdp, target, behavior = small()
    found = importance_moments(mdp, target, behavior, horizon)
    for name, value in enumerate_moments(mdp, target, behavior, horizon).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.value, expected_return(mdp, target, horizon), atol=1e-12)
    np.testing.assert_allclose([found.is_mean, found.pdis_mean], found.value, atol=1e-12)
    np.testing.assert_allclose(found.weight_mean, 1.0)


def test_an_action_without_support_biases_both_estimates_as_enumeration_says(float64):
    mdp, target, behavior = small()
    behavior = behavior.at[0].set(jnp.array([1.0, 0.0]))
    found = importance_moments(mdp, target, behavior, 3)
    for name, value in enumerate_moments(mdp, target, behavior, 3).items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-10, atol=1e-12)
    assert found.weight_mean < 0.9
    assert abs(found.is_mean - found.value) > 0.01


def test_the_same_policies_need_no_correction():
    mdp, target, _ = small()
    found = importance_moments(mdp, target, target, 5)
    np.testing.assert_allclose(found.weight_square, 1.0, rtol=1e-5)
    for square in (found.is_square, found.pdis_square):
        np.testing.assert_allclose(square, found.return_square, rtol=1e-5)


def test_a_first_state_that_is_terminal_has_weight_one_and_no_return():
    mdp, target, behavior = small(terminal=(True, True, True))
    found = importance_moments(mdp, target, behavior, 4)
    np.testing.assert_allclose([found.weight_mean, found.weight_square], 1.0)
    np.testing.assert_allclose([found.value, found.is_square, found.pdis_square], 0.0)


def test_sparse_and_dense_processes_agree():
    mdp, target, behavior = small()
    sparse = SparseTabularMDP(
        next_states=jnp.broadcast_to(jnp.arange(3), (3, 2, 3)),
        probabilities=mdp.transitions,
        rewards=mdp.rewards,
        initial=mdp.initial,
        discount=mdp.discount,
        terminal=mdp.terminal,
    )
    dense_moments, sparse_moments = (
        jax.tree.leaves(importance_moments(each, target, behavior, 4)) for each in (mdp, sparse)
    )
    np.testing.assert_allclose(sparse_moments, dense_moments, rtol=1e-5)


def test_is_vmapped_over_target_policies():
    mdp, target, behavior = small()
    targets = jnp.stack([target, behavior])
    both = jax.vmap(lambda each: importance_moments(mdp, each, behavior, 3))(targets)
    single = importance_moments(mdp, target, behavior, 3)
    np.testing.assert_allclose(both.is_square[0], single.is_square, rtol=1e-6)
    np.testing.assert_allclose(both.weight_variance[1], 0.0, atol=1e-5)


def test_what_does_not_fit_is_refused():
    mdp, target, behavior = small()
    with pytest.raises(InputError, match=r"behavior has shape \(2, 3\)"):
        importance_moments(mdp, target, behavior.T, 3)
    with pytest.raises(InputError, match="horizon is -1, expected at least 0"):
        importance_moments(mdp, target, behavior, -1)
