"""Evaluation in a pure environment against a loop over single steps, where everything is random."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from ddm import evaluation
from ddm.envs import episode_keys
from ddm.envs.base import Environment, EnvParams, EnvState
from ddm.types import Box

SEED, EPISODES = 11, 10
SPREADS = (0.5, 2.0)  # of the lanes' actions


@struct.dataclass
class _State(EnvState):
    place: jax.Array


@dataclasses.dataclass(frozen=True)
class Gamble(Environment):
    """A place that moves by action and noise; it ends at random, or after 6 steps.

    The place is seen. Success is a place above 0.7, and often is so only before the end.
    """

    name: str = "Gamble"

    @property
    def default_params(self) -> EnvParams:
        return EnvParams(max_steps=6)

    def reset(self, key, params):
        place = jax.random.normal(key)
        return place[None], _State(jnp.zeros((), jnp.int32), place)

    def step(self, key, state, action, params):
        noise_key, end_key = jax.random.split(key)
        place = state.place + action[0] + 0.3 * jax.random.normal(noise_key)
        time = state.time + 1
        ended = jax.random.bernoulli(end_key, 0.15)
        info = {"success": place > 0.7}
        return place[None], _State(time, place), place, ended, time >= params.max_steps, info

    def observation_space(self, params):
        return Box((1,), (-np.inf,), (np.inf,))

    def action_space(self, params):
        return Box((1,), (-0.5,), (0.5,))


class Noisy:
    """Goes back to the middle, with noise that often leaves the action box."""

    @staticmethod
    def act(config, state, observation, key, policy_state=(), *, deterministic=False):
        noise = 0.0 if deterministic else state["spread"] * jax.random.normal(key, (1,))
        return -0.3 * observation + noise, policy_state


def _by_hand(spread, seed):
    """Return, length, success, and whether the success was lost at the end."""
    environment, keys = Gamble(), episode_keys(jnp.uint32(seed))
    params = environment.default_params
    step = jax.jit(environment.step)
    observation, state = environment.reset(keys.reset, params)
    total, length, successes, ended = 0.0, 0, [], False
    while not ended:
        noise = spread * jax.random.normal(jax.random.fold_in(keys.policy, length), (1,))
        action = jnp.clip(-0.3 * observation + noise, -0.5, 0.5)
        key = jax.random.fold_in(keys.step, length)
        observation, state, reward, terminated, truncated, info = step(key, state, action, params)
        total, length, ended = total + float(reward), length + 1, bool(terminated | truncated)
        successes.append(bool(info["success"]))
    return total, length, any(successes), any(successes) and not successes[-1]


@pytest.fixture(scope="module")
def expected():
    seeds = evaluation.episode_seeds(SEED, EPISODES)
    return np.array([[_by_hand(spread, seed) for seed in seeds] for spread in SPREADS])


def test_returns_lengths_and_successes_are_those_of_single_steps(expected):
    policy = evaluation.Policy(Noisy, {}, {"spread": jnp.array(SPREADS)})
    result = evaluation.evaluate(
        policy, Gamble(), seed=SEED, num_episodes=EPISODES, deterministic=False
    )
    np.testing.assert_allclose(result.returns, expected[..., 0], rtol=1e-5)
    np.testing.assert_array_equal(result.lengths, expected[..., 1])
    np.testing.assert_array_equal(result.successes, expected[..., 2])
    # What this test is for happens in it.
    assert len(set(result.lengths.flat)) > 2
    assert 0 < result.successes.sum() < result.successes.size
    assert expected[..., 3].any()
