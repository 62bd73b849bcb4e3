"""AIRL: a reward that is recovered, and a room whose expert is known."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import on_policy_worlds as worlds
import pytest

from ddm import evaluation
from ddm.envs import tabular
from ddm.imitation import airl
from ddm.ops import improvement
from ddm.types import Batch

CONTRACT = contract.Contract(
    small={
        "window": 4, "num_epochs": 2, "num_minibatches": 2, "discriminator_steps": 2,
        "reward_hidden_sizes": (8,),
    },
    variants=[
        {"head": "categorical", "num_actions": contract.NUM_ACTIONS, "state_only": False},
    ],
    other={
        "head": "gaussian",
        "features": lambda observations: 2.0 * contract.pair_features(observations),
        "clip_ratio": 1e-4,
        "value_clip": 1e-4,
        "entropy_weight": 0.5,
        "max_gradient_norm": 1e-4,
        "target_kl": 1e-9,
        "window": 5,
        "num_epochs": 3,
        "num_minibatches": 3,
        "discriminator_steps": 3,
        "reward_hidden_sizes": (6,),
        "log_prob_bound": 0.01,
    },
    context={
        "features": {
            "head": "linear_softmax",
            "num_actions": contract.NUM_ACTIONS,
            "features": contract.pair_features,
        }
    },
)  # fmt: skip


# A ring of five places, each with a reward of its own; two moves, both sure.

REWARDS = np.array([0.0, 1.0, -0.5, 0.3, 0.7])
PLACES = len(REWARDS)


def _ring():
    transitions = np.zeros((PLACES, 2, PLACES))
    for place in range(PLACES):
        transitions[place, 0, (place - 1) % PLACES] = 1.0
        transitions[place, 1, (place + 1) % PLACES] = 1.0
    rewards = np.broadcast_to(REWARDS[:, None, None], (PLACES, 2, 1))
    initial, never = np.full(PLACES, 1.0 / PLACES), np.zeros(PLACES, bool)
    return tabular.make_mdp(transitions, rewards, initial, 0.9, never)


def _every_move():
    places, moves = np.repeat(np.arange(PLACES), 2), np.tile([0, 1], PLACES)
    reached = (places + 2 * moves - 1) % PLACES
    table, none = jnp.eye(PLACES), jnp.zeros(2 * PLACES, bool)
    return Batch(
        observations=table[places], actions=jnp.asarray(moves, jnp.int32),
        rewards=jnp.zeros(2 * PLACES), next_observations=table[reached],
        terminations=none, truncations=none,
    )  # fmt: skip


def test_the_reward_of_a_soft_optimal_expert_is_recovered_up_to_a_constant():
    """Where own steps are the expert's: f = log pi_E, its soft advantage, and g the reward."""
    soft = jax.tree_util.Partial(improvement.soft_greedy, temperature=1.0)
    expert = tabular.value_iteration(_ring(), soft)
    config = airl.Config(
        head="tabular", num_actions=2, window=2 * PLACES, discount=0.9, reward_learning_rate=0.01
    )
    rows = _every_move()
    state = airl.init(
        config, jax.random.key(0), {"expert": rows, "own": jax.tree.map(lambda x: x[None], rows)}
    )
    log_policy = jnp.log(expert.policy).astype(jnp.float32)
    params = jax.tree.map(lambda _: log_policy, state.policy.actor.params)
    actor = state.policy.actor.replace(params=params)
    state = state.replace(policy=state.policy.replace(actor=actor))

    @jax.jit
    def train(state):
        step = lambda state, _: airl.reward_step(config, state, rows, rows)  # noqa: E731
        return jax.lax.scan(step, state, length=2_000)

    state, metrics = train(state)
    found = np.asarray(airl.learned_reward(config, state, jnp.eye(PLACES), jnp.zeros(PLACES, int)))
    np.testing.assert_allclose(found - found.mean(), REWARDS - REWARDS.mean(), atol=0.02)
    potential = np.asarray(state.potential(jnp.eye(PLACES)))
    values = np.asarray(expert.values)
    np.testing.assert_allclose(potential - potential.mean(), values - values.mean(), atol=0.02)
    advantages = airl.advantage_of(config, state, rows)
    np.testing.assert_allclose(advantages, log_policy.ravel(), atol=0.02)
    assert abs(float(metrics["estimated_divergence"][-1])) < 1e-3


def test_a_potential_is_nothing_after_an_end_and_goes_on_after_a_cut():
    config = airl.Config(head="tabular", num_actions=2, window=2 * PLACES, discount=0.9)
    rows = _every_move()
    state = airl.init(
        config, jax.random.key(0), {"expert": rows, "own": jax.tree.map(lambda x: x[None], rows)}
    )
    going = airl.advantage_of(config, state, rows)
    cut = airl.advantage_of(config, state, rows.replace(truncations=~rows.truncations))
    ended = airl.advantage_of(config, state, rows.replace(terminations=~rows.terminations))
    np.testing.assert_array_equal(cut, going)
    following = state.potential(rows.next_observations)
    np.testing.assert_allclose(going - ended, 0.9 * following, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_it_walks_to_the_exit_as_the_expert_does():
    config = airl.Config(
        head="tabular", window=32, hidden_sizes=(16,), discount=0.95, actor_learning_rate=0.05,
        value_learning_rate=1e-2, num_epochs=4, num_minibatches=4, reward_hidden_sizes=(16,),
        state_only=False,
    )  # fmt: skip
    learner, metrics = worlds.imitate(airl, config, updates=80)
    policy = worlds.policy_of(airl, config, learner)
    exact = evaluation.exact_return(policy, worlds.room(), horizon=30)
    assert float(exact) == pytest.approx(worlds.BEST_IN_ROOM, abs=1e-5)
    assert float(metrics["collect/return"][0]) < 0.0
