"""The 16-token utterances: the published table, to its digits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs
from ddm.envs import tabular
from ddm.envs.tabular import dialogue
from ddm.errors import InputError

# weight of the divergence: reward, divergence
OPTIMA = {2.0: (1.49, 0.14), 1.0: (2.245, 0.72), 0.5: (4.25, 3.76), 0.25: (7.21, 12.15),
          0.1: (8.0, 16.1), 0.0: (8.0, 51.4)}  # fmt: skip


@pytest.fixture(scope="module")
def world():
    return tabular.dialogue_world(), tabular.dialogue_prior()


@functools.cache
def _speech(weight):
    mdp, prior = tabular.dialogue_world(), tabular.dialogue_prior()
    policy = prior if weight is None else tabular.kl_optimum(weight)
    return jax.tree.map(float, tabular.judge_speech(mdp, policy, prior))


def test_the_prior_has_the_published_reward_and_entropy():
    speech = _speech(None)
    assert round(speech.reward, 3) == 0.948
    assert round(speech.entropy, 2) == 2.02
    assert speech.kl == 0.0
    assert speech.prior_log_prob == pytest.approx(-speech.entropy, rel=1e-5)


@pytest.mark.parametrize("weight", OPTIMA)
def test_optima_have_the_published_rewards_and_divergences(weight):
    reward, divergence = OPTIMA[weight]
    speech = _speech(weight)
    assert speech.reward == pytest.approx(reward, abs=0.0051)
    assert speech.kl == pytest.approx(divergence, abs=0.0051 if weight > 0.1 else 0.051)


def test_without_a_penalty_one_word_is_repeated(world):
    mdp, _ = world
    state, said, policy = 16, [], tabular.kl_optimum(0.0)
    while state != mdp.num_states - 1:
        said.append(int(jnp.argmax(policy[state])))
        state = int(mdp.next_states[state, said[-1], 0])
    assert said == [0] * 8
    assert _speech(0.0).entropy == 0.0


def test_the_optimum_is_the_soft_value_iteration_of_the_definition():
    # V = c log sum p exp((r + V') / c), backwards from the eighth token.
    prior = np.asarray(tabular.dialogue_prior(), float)[:17]
    values, weight = np.zeros(17), 0.5
    for _ in range(dialogue.NUM_STEPS):
        later = np.where(np.arange(16) == dialogue.END, 0.0, values[:16])
        exponents = ((np.arange(16) < 4) + later) / weight
        values = weight * np.log(prior @ np.exp(exponents))
    speech = _speech(weight)
    assert speech.reward - weight * speech.kl == pytest.approx(values[16], rel=1e-4)


def test_utterances_end_with_the_end_token_or_the_eighth(world):
    mdp, prior = world
    np.testing.assert_allclose(np.sum(prior, axis=-1), 1.0, rtol=1e-5)
    over = mdp.num_states - 1
    assert mdp.next_states[tabular.dialogue_state(0, None), 15, 0] == over
    assert mdp.next_states[tabular.dialogue_state(7, 3), 2, 0] == over
    assert mdp.next_states[tabular.dialogue_state(6, 3), 2, 0] == tabular.dialogue_state(7, 2)
    with pytest.raises(InputError, match="step 8"):
        tabular.dialogue_state(8, 0)


def test_the_simulator_of_the_world_earns_what_is_exact(world):
    _, prior = world
    environment = envs.make("Utterance-16-v0")

    def speak(observation, key, policy_state):
        return jax.random.categorical(key, jnp.log(observation @ prior)), policy_state

    episodes = envs.collect(environment, speak, jax.random.key(0), num_episodes=256)
    assert all(episode["terminations"][-1] for episode in episodes)
    rewards = [episode["rewards"].sum() for episode in episodes]
    assert np.mean(rewards) == pytest.approx(0.948, abs=4 * float(np.std(rewards)) / 16)
