"""SPIBB: one state by hand, its limits, and its promise on small logs of random MDPs."""

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
from ddm.ops import improvement, tables
from ddm.policy_constraint import constrained_iteration, spibb
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={"num_actions": contract.NUM_ACTIONS},
    variants=[{"bounded": True}],
    other={"min_count": 0.5},
    table=True,
)

DISCOUNT = 0.9


@functools.partial(jax.jit, static_argnames="updates")
def _sweep(config, batch, updates=150):
    return logs.sweep(spibb, config, batch, updates)


def _bandit(third_reward):
    """Ten pulls of three arms, 6 : 3 : 1, that earn 0, 1 and `third_reward`."""
    return Batch(
        observations=jnp.ones((10, 1)),
        actions=jnp.array([0] * 6 + [1] * 3 + [2], jnp.int32),
        rewards=jnp.array([0.0] * 6 + [1.0] * 3 + [third_reward]),
        next_observations=jnp.ones((10, 1)),
        terminations=jnp.ones(10, bool),
    )


@pytest.mark.parametrize(
    ("third_reward", "min_count", "plain", "bounded"),
    [
        (5.0, 3.0, [0.0, 0.9, 0.1], [0.0, 0.9, 0.1]),
        (-5.0, 3.0, [0.0, 0.9, 0.1], [0.0, 1.0, 0.0]),
        (5.0, 4.0, [0.6, 0.3, 0.1], [0.6, 0.3, 0.1]),
        (-5.0, 4.0, [0.6, 0.3, 0.1], [0.7, 0.3, 0.0]),
        (5.0, 1.0, [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]),
    ],
)
def test_one_state_by_hand(third_reward, min_count, plain, bounded):
    for is_bounded, expected in ((False, plain), (True, bounded)):
        config = spibb.Config(num_actions=3, min_count=min_count, bounded=is_bounded)
        batch = _bandit(third_reward)
        state = spibb.init(config, jax.random.key(0), batch)
        state, metrics = spibb.update(config, state, batch)
        np.testing.assert_allclose(state.action_values, [[0.0, 1.0, third_reward]], rtol=1e-6)
        np.testing.assert_allclose(state.policy, [expected], atol=1e-6)
        np.testing.assert_allclose(state.values, state.policy @ state.action_values[0], atol=1e-6)
        scarce = {1.0: 0.0, 3.0: 0.1, 4.0: 0.4}[min_count]
        assert metrics["uncertain"] == pytest.approx(scarce)


def test_limits_are_the_baseline_and_plain_iteration():
    mdp = tabular.random_mdp(jax.random.key(3), 8, 3, 3, discount=DISCOUNT)
    baseline = jnp.full((8, 3), 1 / 3)
    batch = logs.sampled_log(mdp, baseline, jax.random.key(1), 60)
    states = tables.state_ids(batch.observations)
    counts = tables.pair_counts(states, batch.actions, 8, 3)
    assert (counts == 0).any()  # some pairs are not in the log

    never = _sweep(spibb.Config(num_actions=3, min_count=jnp.inf, discount=DISCOUNT), batch)
    np.testing.assert_array_equal(never.policy, tables.empirical_policy(counts))

    always = _sweep(spibb.Config(num_actions=3, min_count=0.0, discount=DISCOUNT), batch)
    exact = tabular.value_iteration(_empirical(mdp, batch), known=counts > 0)
    np.testing.assert_allclose(always.action_values, exact.action_values, atol=1e-4)
    np.testing.assert_array_equal(always.policy, exact.policy)


@pytest.mark.parametrize("bounded", [False, True])
def test_fixed_points_are_those_of_the_exact_solver_in_the_empirical_mdp(bounded):
    mdp = tabular.random_mdp(jax.random.key(4), 8, 3, 3, discount=DISCOUNT)
    batch = logs.sampled_log(mdp, jnp.full((8, 3), 1 / 3), jax.random.key(2), 100)
    counts = tables.pair_counts(tables.state_ids(batch.observations), batch.actions, 8, 3)
    config = spibb.Config(num_actions=3, min_count=4.0, discount=DISCOUNT, bounded=bounded)
    improve = Partial(
        improvement.spibb_bounded if bounded else improvement.spibb,
        behavior=tables.empirical_policy(counts),
        uncertain=counts < 4.0,
    )
    exact = tabular.value_iteration(_empirical(mdp, batch), improve, known=counts > 0)
    state = _sweep(config, batch)
    np.testing.assert_allclose(state.action_values, exact.action_values, atol=1e-4)
    np.testing.assert_allclose(state.policy, exact.policy, atol=1e-6)


def test_one_visit_is_the_support_constraint_and_many_are_cloning():
    line = tabular.line_world(5)
    batch = logs.exact_log(line, logs.line_counts(5))
    config = spibb.Config(num_actions=2, discount=0.95, min_count=1.0)
    support = logs.sweep(
        constrained_iteration,
        constrained_iteration.Config(num_actions=2, discount=0.95),
        batch,
        150,
    )
    state = _sweep(config, batch)
    np.testing.assert_allclose(state.policy[5:-1], support.policy[5:-1], atol=1e-6)
    assert float(state.action_values[5, 1]) == pytest.approx(0.95**4, abs=1e-4)
    cloned = _sweep(config.replace(min_count=2.0), batch)
    np.testing.assert_allclose(cloned.policy[:-1], tabular.line_behavior(5)[:-1], atol=1e-6)


def test_small_logs_improve_the_baseline_safely_where_plain_iteration_ruins_it():
    # A hundred random MDPs, each with a soft baseline and one log of 60 transitions. Returns are
    # exact, and scaled so that the baseline has 0 and the optimal policy 1. Rewards are lowered by
    # 1: a pair that was never logged, whose value stays 0, then looks good.
    min_counts = jnp.array([3.0, 0.0, jnp.inf])

    def scaled_returns(key):
        mdp_key, log_key = jax.random.split(key)
        mdp = tabular.random_mdp(mdp_key, 10, 4, 3, discount=DISCOUNT)
        mdp = mdp.replace(rewards=mdp.rewards - 1.0)
        optimal = tabular.value_iteration(mdp, tolerance=1e-4)
        baseline = improvement.soft_greedy(optimal.action_values, 0.5).policy
        batch = logs.sampled_log(mdp, baseline, log_key, 60)

        def learned_return(min_count):
            config = spibb.Config(num_actions=4, discount=DISCOUNT, min_count=min_count)
            return tabular.expected_return(mdp, logs.sweep(spibb, config, batch, 60).policy)

        low, high = (tabular.expected_return(mdp, policy) for policy in (baseline, optimal.policy))
        return (jax.vmap(learned_return)(min_counts) - low) / (high - low)

    keys = jax.random.split(jax.random.key(0), 100)
    safe, plain, cloned = np.sort(jax.jit(jax.vmap(scaled_returns))(keys), axis=0).T
    assert plain.mean() < -0.2
    assert cloned.mean() == pytest.approx(0.0, abs=0.05)
    assert safe.mean() > cloned.mean() + 0.05
    # Conditional value at risk: the mean of the worst tenth.
    assert plain[:10].mean() < -3.0
    assert safe[:10].mean() > cloned[:10].mean()


def test_log_probabilities_are_those_of_the_table():
    config = spibb.Config(num_actions=3, min_count=3.0)
    state = _sweep(config, _bandit(5.0), 1)
    log_probs = spibb.log_prob(config, state, jnp.ones((3, 1)), jnp.arange(3))
    np.testing.assert_allclose(np.exp(log_probs), [0.0, 0.9, 0.1], atol=1e-6)


@pytest.mark.parametrize(
    ("num_actions", "actions", "message"),
    [
        (3, jnp.zeros((10, 1)), "spibb: batch.actions are float32"),
        (0, jnp.zeros(10, jnp.int32), "spibb: needs num_actions"),
    ],
)
def test_what_no_table_can_hold_is_refused_by_name(num_actions, actions, message):
    batch = _bandit(0.0).replace(actions=actions)
    with pytest.raises(InputError, match=message):
        spibb.init(spibb.Config(num_actions=num_actions), jax.random.key(0), batch)


def _empirical(mdp, batch):
    """The MDP of maximum likelihood, by numpy; pairs without rows stay where they are."""
    shape = (mdp.num_states, mdp.num_actions)
    counts, sums = np.zeros((*shape, mdp.num_states)), np.zeros(shape)
    rows = zip(
        np.argmax(batch.observations, -1), np.asarray(batch.actions),
        np.argmax(batch.next_observations, -1), np.asarray(batch.rewards), strict=True,
    )  # fmt: skip
    for state, action, next_state, reward in rows:
        counts[state, action, next_state] += 1
        sums[state, action] += reward
    visits = counts.sum(-1)
    stay = np.broadcast_to(np.eye(mdp.num_states)[:, None], counts.shape)
    transitions = np.where(visits[..., None] > 0, counts / np.maximum(visits, 1)[..., None], stay)
    return tabular.make_mdp(transitions, sums / np.maximum(visits, 1), 0, DISCOUNT)
