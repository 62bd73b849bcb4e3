"""MOReL's planner by PPO: PPO in the model where nothing is unknown, and a shortcut refused."""

from __future__ import annotations

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import walled_model as walled
from models import CONTEXT, OTHER, SMALL_MODEL

from ddm.model_based import dynamics, morel_ppo
from ddm.model_based.parts import planning, rollouts
from ddm.on_policy import ppo
from ddm.on_policy.parts import actor_critic
from ddm.types import Batch, stages_of

CONTRACT = contract.Contract(
    small={
        **SMALL_MODEL,
        "rollout_length": 2,
        "cloning_steps": 2,
        "num_epochs": 2,
        "num_minibatches": 2,
    },
    other={
        **OTHER,
        "threshold": "largest",
        "log_std_max": -0.5,
        "initial_share": 0.5,
        "cloning_steps": 3,
        "value_clip": 0.1,
        "entropy_weight": 0.1,
        "target_kl": 0.01,
        "num_epochs": 3,
        "num_minibatches": 3,
    },
    context=CONTEXT,
)

CONFIG = morel_ppo.Config(
    **walled.MODEL,
    halt_penalty=20.0,
    hidden_sizes=(32, 32),
    rollout_length=20,
    cloning_learning_rate=1e-2,
    actor_learning_rate=1e-3,
    value_learning_rate=3e-3,
    num_epochs=4,
    num_minibatches=8,
)
clone, update = jax.jit(planning.clone), jax.jit(morel_ppo.update)


def test_its_stages_are_the_model_its_threshold_a_clone_and_the_policy():
    config = contract.small_config(morel_ppo)
    names = [stage.name for stage in stages_of(morel_ppo, config)]
    assert names == ["dynamics", "threshold", "cloning", "policy"]
    given = config.replace(max_epochs=0, cloning_steps=0)
    assert [stage.name for stage in stages_of(morel_ppo, given)] == ["threshold", "policy"]


def test_its_planner_is_ppo_with_the_same_numbers_and_constant_step_sizes():
    config = morel_ppo.Config(
        clip_ratio=0.3, rollout_length=7, hidden_sizes=(8,), max_gradient_norm=2.0
    )
    planner = config.planner()
    assert (planner.clip_ratio, planner.window, planner.hidden_sizes) == (0.3, 7, (8,))
    assert (planner.max_gradient_norm, planner.decay_steps) == (2.0, 0)
    defaults = ppo.Config(window=700, hidden_sizes=(64, 64), log_std_min=-1.0, decay_steps=0)
    assert morel_ppo.Config().planner() == defaults


@jax.jit
def _believing(config, state, batch):
    """PPO's update on whole episodes in the model as it is."""
    planner = config.planner()

    def policy(observations, key):
        return actor_critic.policy_at(planner, state.policy.actor, observations).sample(seed=key)

    def step(observations, actions, key):
        return dynamics.transition(config, state.model, observations, actions, key)[0], {}

    horizon, key = config.rollout_length, jax.random.split(state.key)[1]
    imagined = rollouts.roll_out(step, policy, batch.initial_observations, key, horizon)
    return ppo.update(planner, state.policy, rollouts.windows(imagined, horizon))[0]


def test_without_a_threshold_it_is_ppo_in_the_model_to_the_bit():
    state, batch = walled.start(morel_ppo, CONFIG), walled.log(128, 0)
    expected = _believing(CONFIG, state, batch)
    found = {}
    for threshold in (0.01, 1e9):
        config = CONFIG.replace(threshold_coefficient=threshold)
        after, metrics = update(config, state, batch)
        found[threshold] = after.policy
        assert (metrics["halted"] > 0.0) == (threshold < 1.0)
    jax.tree.map(np.testing.assert_array_equal, found[1e9].actor.params, expected.actor.params)
    jax.tree.map(np.testing.assert_array_equal, found[1e9].value.params, expected.value.params)
    doubting, believing = (jax.tree.leaves(x.value.params) for x in (found[0.01], expected))
    assert any(np.any(one != other) for one, other in zip(doubting, believing, strict=True))


@pytest.mark.slow
def test_it_shortens_the_demonstrators_way_but_not_through_what_is_unknown():
    """The demonstrator takes 11 steps; through the wall are 6, around it not fewer than 7."""
    cloned = walled.start(morel_ppo, CONFIG)
    for seed in range(300):
        rows = walled.log(128, seed)
        rows = Batch(observations=rows.observations, actions=walled.around(rows.observations))
        cloned, _ = clone(CONFIG, cloned, rows)
    assert len(walled.walk(morel_ppo, CONFIG, cloned)) == 11
    lengths = {}
    for threshold in (0.01, 1e9):
        config, state = CONFIG.replace(threshold_coefficient=threshold), cloned
        for seed in range(40):
            state, metrics = update(config, state, walled.log(128, seed))
        path = walled.walk(morel_ppo, config, state)
        assert walled.at_goal(jnp.asarray(path[-1]))
        assert walled.passes_wall(path) == (threshold > 1.0)
        assert metrics["halted"] < 0.02
        lengths[threshold] = len(path)
    assert lengths[1e9] <= 7 <= lengths[0.01] <= 10, lengths
