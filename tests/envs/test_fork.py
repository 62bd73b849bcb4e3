"""Forks: densities that integrate to one, published numbers scaled by one half, rewards by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs
from ddm.envs.fork import Fork

POSITIONS = jnp.array([[-1.0], [-0.3], [0.0], [1.0]])
FORKS = [
    Fork(num_branches=k, num_dimensions=d) for k, d in ((1, 1), (2, 1), (3, 1), (5, 2), (8, 2))
]


def _grid(dimensions):
    """Points (N, A) of the square that all densities lie in, and the volume of a cell."""
    line = np.linspace(-1.3, 1.3, 131 if dimensions == 2 else 2_601)
    points = np.stack(np.meshgrid(*[line] * dimensions, indexing="ij"), axis=-1)
    return points.reshape(-1, dimensions), (line[1] - line[0]) ** dimensions


@pytest.mark.parametrize(
    "fork", FORKS, ids=lambda fork: f"{fork.num_branches}-{fork.num_dimensions}"
)
def test_densities_integrate_to_one_and_agree_with_demonstrations(fork):
    points, volume = _grid(fork.num_dimensions)
    log_probs = fork.log_prob(POSITIONS, jnp.asarray(points[:, None]))
    assert log_probs.shape == (len(points), 4)
    mass = np.exp(np.asarray(log_probs, np.float64)) * volume
    np.testing.assert_allclose(mass.sum(axis=0), 1.0, atol=1e-4)
    positions = jnp.broadcast_to(POSITIONS[:, None], (4, 5_000, 1))
    actions = np.asarray(fork.demonstrate(jax.random.key(0), positions))
    moments = np.einsum("np,na->pa", mass, points), np.einsum("np,na->pa", mass, points**2)
    np.testing.assert_allclose(actions.mean(axis=1), moments[0], atol=0.04)
    np.testing.assert_allclose(np.square(actions).mean(axis=1), moments[1], atol=0.02)


def test_centres_by_hand():
    bandit, corridor = Fork(), Fork(num_branches=3)
    np.testing.assert_allclose(
        bandit.centers(POSITIONS)[..., 0],
        [[-0.25, 0.25], [-0.425, 0.425], [-0.5, 0.5], [-0.75, 0.75]],
    )
    np.testing.assert_allclose(corridor.centers(POSITIONS)[2, :, 0], [-0.5, 0.0, 0.5])
    circle = Fork(num_branches=4, num_dimensions=2).centers(jnp.array([[0.0], [1.0]]))
    np.testing.assert_allclose(circle[0], [[0.7, 0], [0, 0.7], [-0.7, 0], [0, -0.7]], atol=1e-6)
    half = 0.7 * np.sqrt(0.5)  # at the end of the positions: turned by half a sector
    np.testing.assert_allclose(circle[1, 0], [half, half], rtol=1e-5)


def test_published_numbers_of_the_bandit():
    fork = Fork()
    positions = jax.random.uniform(jax.random.key(0), (40_000, 1), minval=-1.0, maxval=1.0)
    actions = fork.demonstrate(jax.random.key(1), positions)
    # Half the size of the published bandit: its best likelihood of -0.19 is log 2 better here.
    assert -fork.log_prob(positions, actions).mean() == pytest.approx(-0.1905 - np.log(2), abs=0.02)
    assert fork.is_valid(positions, actions).mean() == pytest.approx(0.9973, abs=0.001)
    assert fork.nearest_branch(positions, actions).mean() == pytest.approx(0.5, abs=0.01)
    # The best single Gaussian at each position: 1.38; the conditional variance: 1.093.
    variances = np.square(0.5 + 0.25 * np.linspace(-1.0, 1.0, 10_001)) + 0.05**2
    best = np.mean(0.5 * np.log(2 * np.pi * np.e * variances))
    assert best == pytest.approx(1.38 - np.log(2), abs=0.005)
    assert variances.mean() == pytest.approx(1.093 / 4, abs=5e-4)
    drawn = np.sqrt(variances.mean()) * jax.random.normal(jax.random.key(2), positions.shape)
    assert not fork.is_valid(positions, jnp.zeros_like(actions)).any()
    assert 0.25 < fork.is_valid(positions, drawn).mean() < 0.40


def test_validity_in_two_dimensions_is_a_disc_of_three_deviations():
    fork = Fork(num_branches=5, num_dimensions=2)
    positions = jnp.zeros((40_000, 1))
    actions = fork.demonstrate(jax.random.key(0), positions)
    expected = 1.0 - np.exp(-4.5)  # Rayleigh
    assert fork.is_valid(positions, actions).mean() == pytest.approx(expected, abs=0.002)
    shares = np.bincount(fork.nearest_branch(positions, actions), minlength=5) / len(positions)
    np.testing.assert_allclose(shares, 0.2, atol=0.01)


def test_rewards_are_shares_of_right_decisions():
    fork = envs.make("ForkCorridor-5-v0")
    params, step = fork.default_params, jax.jit(fork.step)
    for wrong, succeeds in (((), True), ((1, 3), False)):
        observation, state = fork.reset(jax.random.key(0), params)
        rewards, ends, successes, seen = [], [], [], [float(observation[0])]
        for time in range(5):
            action = 0.0 if time in wrong else 0.5 + 0.25 * observation[0]
            observation, state, reward, terminated, truncated, info = step(
                jax.random.key(time + 1), state, jnp.array([action]), params
            )
            rewards.append(float(reward))
            ends.append(bool(terminated))
            successes.append(bool(info["success"]))
            seen.append(float(observation[0]))
            assert not truncated
        np.testing.assert_allclose(rewards, [0.0 if t in wrong else 0.2 for t in range(5)])
        assert ends == [False] * 4 + [True]
        assert successes == [False] * 4 + [succeeds]
        assert len(set(seen)) == 6  # a new position for every decision


def test_five_guesses_of_a_gaussian_are_nearly_never_all_right():
    """A demonstrator passes the corridor with .9973^5; the best Gaussian with about .3^5."""
    fork = envs.make("ForkCorridor-5-v0")
    params = fork.default_params

    def episode(key, act):
        def decide(carry, key):
            observation, state = carry
            act_key, step_key = jax.random.split(key)
            action = act(act_key, observation)
            observation, state, reward, *_, info = fork.step(step_key, state, action, params)
            return (observation, state), (reward, info["success"])

        reset_key, walk_key = jax.random.split(key)
        start = fork.reset(reset_key, params)
        _, (rewards, success) = jax.lax.scan(decide, start, jax.random.split(walk_key, 5))
        return rewards.sum(), success[-1]

    def guess(key, observation):
        std = jnp.sqrt(jnp.square(0.5 + 0.25 * observation) + 0.05**2)
        return std * jax.random.normal(key, (1,))

    keys = jax.random.split(jax.random.key(0), 4_000)
    returns, successes = jax.jit(jax.vmap(lambda key: episode(key, fork.demonstrate)))(keys)
    assert successes.mean() == pytest.approx(0.9973**5, abs=0.006)
    assert returns.mean() == pytest.approx(0.9973, abs=0.002)
    returns, successes = jax.jit(jax.vmap(lambda key: episode(key, guess)))(keys)
    assert 0.25 < returns.mean() < 0.40
    assert successes.mean() < 0.012
