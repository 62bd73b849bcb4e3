"""Finite MDPs as simulators: sampling agrees with the exact solvers."""

from __future__ import annotations

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import data, envs
from ddm.envs import tabular
from ddm.errors import InputError
from ddm.ops import improvement
from ddm.types import Discrete

GRID = tabular.TabularEnvironment(tabular.discount_grid)
NAMES = ("GridWorld-Discount-v0", "LineWorld-5-v0", "Tightrope-v0", "CombinationLock-10-v0")


def _soft_optimal(mdp, epsilon):
    """The optimal policy, but for a share epsilon of the other actions alike."""
    best = tabular.value_iteration(mdp).policy
    others = (1.0 - best) / (mdp.num_actions - 1)
    return (1.0 - epsilon) * best + epsilon * others


@pytest.mark.parametrize("name", NAMES)
def test_passes_gymnasiums_checker(name):
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env

    envs.register()
    environment = gymnasium.make(f"ddm/{name}", disable_env_checker=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(environment.unwrapped, skip_render_check=True)


def test_observations_are_one_hot_or_the_given_features():
    mdp = tabular.line_world(2, left=1)
    environment = tabular.TabularEnvironment(lambda: mdp)
    params = environment.default_params
    observation, state = environment.reset(jax.random.key(0), params)
    np.testing.assert_array_equal(observation, [0.0, 1.0, 0.0, 0.0])
    result = environment.step(jax.random.key(0), state, jnp.int32(tabular.worlds.RIGHT), params)
    np.testing.assert_array_equal(result[0], [0.0, 0.0, 1.0, 0.0])
    assert environment.action_space(params) == Discrete(2)

    positions = np.array([[-1.0], [0.0], [1.0], [2.0]])
    environment = tabular.TabularEnvironment(lambda: mdp, features=lambda: positions)
    params = environment.default_params
    observation, _ = environment.reset(jax.random.key(0), params)
    np.testing.assert_array_equal(observation, [0.0])
    assert observation.dtype == jnp.float32
    space = environment.observation_space(params)
    assert (space.low, space.high) == ((-1.0,), (2.0,))
    with pytest.raises(
        InputError, match=r"features have shape \(3, 1\), expected one row for .* 4"
    ):
        tabular.make_params(mdp, positions[1:])


def test_reward_and_end_come_with_the_step_that_enters_a_terminal_state():
    environment = envs.make("LineWorld-5-v0")
    params = environment.default_params
    _, state = environment.reset(jax.random.key(0), params)
    rewards, ends = [], []
    for _ in range(5):
        result = environment.step(jax.random.key(0), state, jnp.int32(1), params)
        _, state, reward, terminated, truncated, _ = result
        rewards.append(float(reward))
        ends.append(bool(terminated))
        assert not truncated
    assert rewards == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert ends == [False, False, False, False, True]


def test_the_tightrope_lasts_a_hundred_steps():
    params = envs.make("Tightrope-v0").default_params
    assert (params.max_steps, float(params.mdp.discount)) == (100, 1.0)
    # A policy that is wrong with probability .01, and off the rope for ever then.
    wrong = jnp.tile(jnp.array([0.99, 0.01]), (2, 1))
    costs = -tabular.expected_return(params.mdp, wrong, horizon=100)
    survived = 0.99 ** np.arange(1, 101)
    assert float(costs) == pytest.approx(100 - survived.sum(), rel=1e-5)


LANES, EPISODES = 1_000, 100  # one lane runs its episodes one after another


# Four million steps are worth the compile time that tests save elsewhere.
_OPTIMIZED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}


@functools.partial(jax.jit, compiler_options=_OPTIMIZED)
def _sampled_returns(params, best, epsilon, key):
    """(LANES, EPISODES) discounted returns of the epsilon-soft policy around `best` (S,)."""
    lanes = jnp.arange(LANES)
    # Episodes of this world all start in the same state.
    first = jax.vmap(GRID.reset, (0, None))(jax.random.split(key, LANES), params)[1]

    def unfinished(carry):
        return jnp.any(carry[3] < EPISODES)

    def step(carry):
        key, states, total, episode, returns = carry
        key, action_key, step_key = jax.random.split(key, 3)
        luck = jax.random.uniform(action_key, (LANES,)) / epsilon
        other = best[states.state] + 1 + (3.0 * luck).astype(jnp.int32)
        actions = jnp.where(luck < 1.0, other % 4, best[states.state])
        discounts = params.mdp.discount**states.time
        _, states, rewards, terminated, truncated, _ = jax.vmap(GRID.step, (0, 0, 0, None))(
            jax.random.split(step_key, LANES), states, actions, params
        )
        total += discounts * rewards
        returns = returns.at[lanes, episode].set(total, mode="drop")
        done = terminated | truncated
        states = jax.tree.map(lambda new, old: jnp.where(done, new, old), first, states)
        return key, states, jnp.where(done, 0.0, total), episode + done, returns

    start = (key, first, jnp.zeros(LANES), jnp.zeros(LANES, int), jnp.zeros((LANES, EPISODES)))
    return jax.lax.while_loop(unfinished, step, start)[-1]


def test_sampled_returns_lie_in_the_interval_of_the_exact_one():
    params = GRID.default_params.replace(max_steps=200)
    policy = _soft_optimal(params.mdp, 0.1)
    exact = float(tabular.expected_return(params.mdp, policy, horizon=200))
    assert exact == pytest.approx(5.1175, abs=1e-3)  # 7.1349 without the soft share
    returns = _sampled_returns(params, policy.argmax(axis=1), 0.1, jax.random.key(0))
    returns = np.asarray(returns, np.float64)
    margin = 3.2905 * returns.std() / np.sqrt(returns.size)  # 99.9 %
    assert margin < 0.08
    assert abs(returns.mean() - exact) < margin


def test_collected_actions_have_the_policys_frequencies():
    params = GRID.default_params.replace(max_steps=100)
    policy = _soft_optimal(params.mdp, 0.4)

    def behave(observation, key, policy_state):
        return tabular.mdp.draw(key, observation @ policy), policy_state

    episodes = envs.collect(GRID, behave, jax.random.key(1), num_episodes=512, params=params)
    dataset = data.from_episodes(episodes, action_space=GRID.action_space(params))
    rows = np.arange(dataset.num_transitions) + np.asarray(dataset.episode_ids)
    states = np.asarray(dataset.observations)[rows].argmax(axis=1)
    actions = np.asarray(dataset.actions)
    assert not np.asarray(params.mdp.terminal)[states].any()
    counts = np.zeros(policy.shape)
    np.add.at(counts, (states, actions), 1)
    visits = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(visits, 1)
    deviations = np.sqrt(policy * (1.0 - policy) / np.maximum(visits, 1))
    seen = visits[:, 0] >= 100
    assert seen.sum() >= 15
    assert (np.abs(shares - policy) <= 4.5 * deviations + 1e-9)[seen].all()
    # How often each state is met is what the exact visits say.
    expected = 512 * tabular.expected_visits(params.mdp, policy, discount=1.0, horizon=100)
    np.testing.assert_allclose(visits[seen, 0], expected.sum(axis=1)[seen], rtol=0.25)


def test_transitions_of_a_dataset_are_those_of_the_mdp():
    mdp = tabular.combination_lock(3, seed=1)
    environment = tabular.TabularEnvironment(lambda: mdp)
    right = jnp.asarray(mdp.transitions[:3].max(axis=2) * (mdp.transitions[:3, :, 4] == 0))

    def behave(observation, key, policy_state):
        return jnp.argmax(observation[:3] @ right).astype(jnp.int32), policy_state

    (episode,) = envs.collect(environment, behave, jax.random.key(0), num_episodes=1)
    np.testing.assert_array_equal(episode["observations"].argmax(axis=1), [0, 1, 2, 3])
    np.testing.assert_array_equal(episode["rewards"], [0.0, 0.0, 1.0])
    np.testing.assert_array_equal(episode["terminations"], [False, False, True])
    np.testing.assert_array_equal(
        episode["actions"],
        improvement.greedy(tabular.value_iteration(mdp).action_values).policy.argmax(axis=1)[:3],
    )
