"""MOReL's planner by natural policy gradient: its clone, its windows, and a shortcut refused."""

from __future__ import annotations

import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import walled_model as walled
from models import CONTEXT, OTHER, SMALL_MODEL

from ddm.model_based import morel_npg
from ddm.model_based.parts import planning, rollouts
from ddm.types import Batch, stages_of

CONTRACT = contract.Contract(
    small={
        **SMALL_MODEL,
        "rollout_length": 2,
        "cloning_steps": 2,
        "cg_iterations": 2,
        "max_halvings": 2,
        "num_minibatches": 2,
    },
    other={
        **OTHER,
        "threshold": "largest",
        "log_std_max": -0.5,
        "damping": 1.0,
        "initial_share": 0.5,
        "cloning_steps": 3,
        "cg_iterations": 3,
        "max_halvings": 3,
        "num_epochs": 2,
        "num_minibatches": 3,
    },
    context=CONTEXT,
)

CONFIG = morel_npg.Config(
    **walled.MODEL,
    discount=0.99,
    halt_penalty=20.0,
    hidden_sizes=(32, 32),
    rollout_length=20,
    cloning_learning_rate=1e-2,
    num_minibatches=8,
    num_epochs=2,
    kl_step=0.02,
    value_learning_rate=3e-3,
    cg_iterations=10,
)
clone, update = jax.jit(planning.clone), jax.jit(morel_npg.update)


@functools.cache
def _clone():
    """A policy that walks as the demonstrator does, and the error of its last step."""
    state, error = walled.start(morel_npg, CONFIG), jnp.inf
    for seed in range(300):
        rows = walled.log(128, seed)
        rows = Batch(observations=rows.observations, actions=walled.around(rows.observations))
        state, metrics = clone(CONFIG, state, rows)
        error = metrics["action_error"]
    return state, error


def test_its_stages_are_the_model_its_threshold_a_clone_and_the_policy():
    config = contract.small_config(morel_npg)
    names = [stage.name for stage in stages_of(morel_npg, config)]
    assert names == ["dynamics", "threshold", "cloning", "policy"]
    given = config.replace(max_epochs=0, cloning_steps=0)
    assert [stage.name for stage in stages_of(morel_npg, given)] == ["threshold", "policy"]


def test_the_clone_does_what_the_demonstrator_did_and_keeps_its_width():
    """The loss is on the mode; a likelihood would narrow the policy until it cannot explore."""
    state, error = _clone()
    assert error < 0.02
    path = walled.walk(morel_npg, CONFIG, state)
    assert walled.at_goal(path[-1])
    assert not walled.passes_wall(path)
    keys = jax.random.split(jax.random.key(0), 200)
    start = jnp.asarray(walled.START)
    drawn = jax.vmap(lambda key: morel_npg.act(CONFIG, state, start, key)[0])(keys)
    assert np.std(np.arctanh(np.clip(drawn, -0.999, 0.999)), axis=0).min() > 0.3


def test_imagined_episodes_end_at_halt_and_later_columns_do_not_count():
    state, _ = _clone()
    batch = walled.log(128, 0)
    imagined = jax.jit(planning.imagine)(CONFIG, state, batch, jax.random.key(0))
    windows = rollouts.windows(imagined, CONFIG.rollout_length)
    assert windows.rewards.shape == (128, 20)
    np.testing.assert_array_equal(windows.observations[:, 0], batch.initial_observations)
    arrived = np.asarray(walled.move(windows.observations, windows.actions))
    unknown = np.asarray(walled.in_wall(arrived)) & np.asarray(windows.mask)
    assert unknown.sum() > 5
    halt = np.float32(-walled.COST) - np.float32(20.0)
    expected = np.where(unknown, halt, np.where(windows.mask, np.float32(-walled.COST), 0.0))
    np.testing.assert_array_equal(windows.rewards, expected)
    ends = (unknown | np.asarray(walled.at_goal(arrived))) & np.asarray(windows.mask)
    np.testing.assert_array_equal(windows.terminations, ends)
    before = np.cumsum(ends, axis=1) - ends  # ends in earlier columns
    np.testing.assert_array_equal(windows.mask, before == 0)
    go_on = np.asarray(windows.mask)[:, 1:]
    np.testing.assert_array_equal(
        np.asarray(windows.observations)[:, 1:][go_on],
        np.asarray(windows.next_observations)[:, :-1][go_on],
    )


def test_a_share_of_the_episodes_begins_at_any_state_of_the_log():
    state, _ = _clone()
    batch = walled.log(8, 0)
    config = CONFIG.replace(initial_share=0.25, rollout_length=1)
    rows = planning.imagine(config, state, batch, jax.random.key(0)).rows
    np.testing.assert_array_equal(rows.observations[:2], batch.initial_observations[:2])
    np.testing.assert_array_equal(rows.observations[2:], batch.observations[2:])


@pytest.mark.slow
def test_it_shortens_the_demonstrators_way_but_not_through_what_is_unknown():
    """The demonstrator takes 11 steps; through the wall 6 are enough, around it not fewer than 7.

    Without a threshold the same planner finds the way through the wall within ten updates.
    """
    cloned, _ = _clone()
    assert len(walled.walk(morel_npg, CONFIG, cloned)) == 11
    lengths = {}
    for threshold, updates in ((0.01, 40), (1e9, 20)):
        config, state, metrics = CONFIG.replace(threshold_coefficient=threshold), cloned, {}
        for seed in range(updates):
            state, metrics = update(config, state, walled.log(128, seed))
        path = walled.walk(morel_npg, config, state)
        assert walled.at_goal(path[-1])
        assert walled.passes_wall(path) == (threshold > 1.0)
        assert metrics["halted"] < 0.01
        lengths[threshold] = len(path)
    assert lengths[1e9] == 6 < 7 <= lengths[0.01] <= 10, lengths
