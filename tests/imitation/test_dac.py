"""DAC: what follows an end, by hand and learned."""

from __future__ import annotations

import dataclasses
import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import on_policy_worlds as worlds
import pytest

import ddm
from ddm import data
from ddm.envs import base
from ddm.errors import InputError
from ddm.imitation import dac
from ddm.imitation.parts import absorbing
from ddm.off_policy import sac
from ddm.types import Batch, Box

CONTRACT = contract.Contract(
    small={"block_size": 2, "discriminator_hidden_sizes": (8,)},
    variants=[{"absorbing": False, "discriminator_input": "ss", "reward": "gail"}],
    other={
        "absorbing_copies": 20.0,
        "discriminator_entropy_weight": 0.5,
        "reward_bound": 0.01,
        "reward": "gail",
        "discriminator_input": "ss",
        "discriminator_loss": "wasserstein",
        "discriminator_hidden_sizes": (6,),
        "block_size": 3,
    },
    context={"reward_bound": {"reward": "chi2"}},
)


# A door: an action above 0 goes through it, and the episode ends. The expert goes at once.


@dataclasses.dataclass(frozen=True)
class Door(worlds.Steady):
    """Four steps at most; an action above 0 terminates."""

    name: str = "Door"

    def step(self, key, state, action, params):
        del key
        time, ends = state.time + 1, action[0] > 0.0
        cut = (time >= params.max_steps) & ~ends
        return jnp.ones(1), base.EnvState(time), jnp.zeros(()), ends, cut, {}

    def action_space(self, params):
        del params
        return Box((1,), (-1.0,), (1.0,))


def _demonstrations():
    """64 episodes of one step."""
    actions = np.random.default_rng(0).uniform(0.3, 0.7, (64, 1)).astype(np.float32)
    return data.from_arrays(
        np.ones((64, 1), np.float32), actions, np.zeros(64, np.float32),
        terminations=np.ones(64, bool), action_space=Box((1,), (-1.0,), (1.0,)),
    )  # fmt: skip


@functools.cache
def _learn(with_absorbing):
    """State and metrics after 100 blocks; the reward softplus(h) is never below 0."""
    config = dac.Config(
        hidden_sizes=(32, 32), discriminator_hidden_sizes=(32,), block_size=8, reward="gail",
        actor_learning_rate=3e-3, critic_learning_rate=3e-3, temperature_learning_rate=3e-3,
        discriminator_learning_rate=3e-3, initial_temperature=0.1, discount=0.9, target_rate=0.05,
        absorbing=with_absorbing,
    )  # fmt: skip
    spec = dataclasses.replace(dac.collect_spec(config), random_steps=64, capacity=256)
    collector = ddm.Collector.create(Door(), spec)
    train = jax.jit(
        lambda key, log: ddm.fit_online(dac, config, collector, key, 800, log=log, batch_size=32)
    )
    learner, metrics = train(jax.random.key(0), _demonstrations())
    ends = learner.experience.buffer.ordered().terminations
    return config, learner.state, metrics, ends


def test_it_leaves_at_once_as_the_expert_does_although_its_reward_pays_for_staying():
    config, state, metrics, ends = _learn(with_absorbing=True)
    action, _ = dac.act(config, state, jnp.ones(1), jax.random.key(0), deterministic=True)
    assert 0.1 < float(action[0]) < 0.9  # 0.3 to 0.7 was demonstrated
    assert np.mean(ends) > 0.75  # of the last steps; 0.5 at random
    late = {name: float(jnp.mean(series[-20:])) for name, series in metrics.items()}
    assert abs(late["estimated_divergence"]) < 0.05
    # Rewards of log 2 for ever, in the absorbing state as well: the value of an end is learned.
    state_there, no_action = jnp.array([[0.0, 1.0]]), jnp.zeros((1, 1))
    value = float(state.policy.critic(state_there, no_action).mean())
    assert value == pytest.approx(np.log(2.0) / (1.0 - 0.9), rel=0.15)


@pytest.mark.slow
def test_without_absorbing_states_it_stays_to_collect_rewards():
    _, _, metrics, ends = _learn(with_absorbing=False)
    assert np.mean(ends) < 0.7
    assert float(jnp.mean(metrics["estimated_divergence"][-20:])) > 0.1


def test_an_end_leads_on_and_its_action_is_nothing():
    """Targets by hand: r + gamma Q(absorbing, 0) after an end, without entropy."""
    config = dac.Config(hidden_sizes=(4,), discriminator_hidden_sizes=(4,), block_size=1)
    rows = Batch(
        observations=jnp.ones((2, 1)), actions=jnp.zeros((2, 1)), rewards=jnp.zeros(2),
        next_observations=jnp.ones((2, 1)), terminations=jnp.array([True, False]),
    )  # fmt: skip
    state = dac.init(config, jax.random.key(0), {"own": rows, "expert": rows})
    seen = absorbing.extend(rows, jax.random.key(1), 0.0)
    seen = seen.replace(rewards=jnp.array([2.0, 2.0]))
    one, other = (
        dac.critic_targets(config, state.policy, seen, jax.random.key(seed)) for seed in (2, 3)
    )
    there = state.policy.critic.target(jnp.array([[0.0, 1.0]]), jnp.zeros((1, 1)))
    assert float(one[0]) == pytest.approx(2.0 + 0.99 * float(there.min()), rel=1e-5)
    assert float(one[0]) == float(other[0])
    assert float(one[1]) != float(other[1])  # where it goes on, the policy draws


def test_the_policy_is_asked_in_the_environments_own_observations():
    config = dac.Config(hidden_sizes=(4,), discriminator_hidden_sizes=(4,), block_size=1)
    rows = contract.make_batch(dac, config)
    state = dac.init(config, jax.random.key(0), rows)
    observation, key = rows["own"].observations[0], jax.random.key(0)
    action, _ = dac.act(config, state, observation, key, deterministic=True)
    seen = jnp.append(observation, 0.0)
    same, _ = sac.act(config, state.policy, seen, key, deterministic=True)
    np.testing.assert_array_equal(action, same)
    integers = jnp.zeros(8, jnp.int32)
    discrete = {name: each.replace(actions=integers) for name, each in rows.items()}
    with pytest.raises(InputError, match=r"dac: batch\.actions are integers"):
        dac.init(config, key, discrete)
