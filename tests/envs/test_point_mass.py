"""The point mass: its moves by hand, its returns against published ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs
from ddm.envs import point_mass

ENVIRONMENT = envs.PointMass()
PARAMS = ENVIRONMENT.default_params


def test_a_step_by_hand():
    start = jnp.array([0.95, -1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    action = jnp.array([1.0, -1.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    observation, state, reward, terminated, truncated, _ = ENVIRONMENT.step(
        jax.random.key(0), ENVIRONMENT.state_at(start), action, PARAMS
    )
    # Walls at +-1, and an action beyond its box counts as 1.
    np.testing.assert_allclose(observation, [1.0, -1.0, 0.6, 0.5, 0.5, 0.5, 0.5, 0.5], rtol=1e-6)
    assert reward == pytest.approx(-np.sqrt(0.25 + 2.25 + 0.01), rel=1e-6)
    assert (state.time, bool(terminated), bool(truncated)) == (1, False, False)


def mean_return(policy):
    episodes = envs.collect(ENVIRONMENT, policy, jax.random.key(0), num_episodes=512)
    assert {len(episode["rewards"]) for episode in episodes} == {50}
    assert all(episode["truncations"][-1] for episode in episodes)
    return np.mean([episode["rewards"].sum() for episode in episodes])


@pytest.mark.parametrize(("name", "expected"), [("expert", -13.1), ("medium", -46.8)])
def test_the_demonstrators_earn_what_is_published(name, expected):
    assert mean_return(point_mass.behavior_policy(name, PARAMS)) == pytest.approx(expected, abs=1.5)


def test_a_random_walk_earns_what_is_published():
    def uniform(observation, key, policy_state=()):
        return jax.random.uniform(key, observation.shape, minval=-1.0, maxval=1.0), policy_state

    assert mean_return(uniform) == pytest.approx(-106.3, abs=1.5)
