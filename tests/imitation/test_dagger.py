"""DAgger: known costs on the tightrope and the sine track, and who acts and what is asked."""

from __future__ import annotations

import functools

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ddm
from ddm.envs import sine_track
from ddm.imitation import dagger

ENSEMBLE = {"gate": "ensemble", "num_members": 2, "doubt_limit": 0.001}
BUDGET = {"gate": "budget", "num_members": 2, "query_rate": 0.25}

CONTRACT = contract.Contract(
    small={"round_updates": 2, "safety_hidden_sizes": (8,)},
    variants=[
        {"gate": "safe", "held_out_share": 0.5},
        {"gate": "ensemble", "num_members": 2},
        {"gate": "budget", "num_members": 2},
        {"noise": "dart", "held_out_share": 0.5},
        {"retrain": True},
        {"head": "categorical", "num_actions": contract.NUM_ACTIONS, "noise": "isotropic"},
    ],
)

TRACK = sine_track.SineTrack(noise=0.0)
TESTED = sine_track.SineTrack(noise=0.02)
PARAMS = TRACK.default_params
ROUND = {"round_steps": 60, "round_copies": 5, "round_updates": 2_000}
CONFIG = dagger.Config(head="mse", hidden_sizes=(64, 64), learning_rate=1e-3, **ROUND)


def follow(observation):
    """The track's own expert."""
    return sine_track.expert_action(observation, PARAMS)


def collector_of(config, environment=TRACK, expert=follow):
    return ddm.Collector.create(environment, dagger.collect_spec(config), expert=expert)


@functools.partial(jax.jit, static_argnames="rounds")
def train(config, key, rounds, collector):
    steps = rounds * config.round_updates
    return ddm.fit_online(dagger, config, collector, key, steps, batch_size=64)


def final_error(learner, config, episodes=64):
    """Mean |y - sin x| at the end of test episodes, with noise."""
    params = TESTED.default_params

    def episode(key):
        reset_key, walk_key = jax.random.split(key)
        start = TESTED.reset(reset_key, params)

        def step(carry, key):
            observation, state = carry
            action = (
                dagger.act(config, learner.state, observation, key, deterministic=True)[0]
                * sine_track.MAX_SPEED
            )
            observation, state, *_ = TESTED.step(key, state, action, params)
            return (observation, state), None

        (end, _), _ = jax.lax.scan(step, start, jax.random.split(walk_key, params.max_steps))
        return sine_track.off_track(end)

    return float(jnp.mean(jax.vmap(episode)(jax.random.split(jax.random.key(9), episodes))))


@pytest.fixture(scope="module")
def rounds():
    """The clone of five demonstrations, and what two more rounds make of it."""
    collector = collector_of(CONFIG)
    return [train(CONFIG, jax.random.key(0), n, collector) for n in (1, 3)]


def test_the_sine_track_is_followed_where_a_clone_leaves_it(rounds):
    """Within 0.1 after two rounds of 300 labels, and a quarter of the clone's distance."""
    (cloned, _), (corrected, metrics) = rounds
    before, after = (final_error(learner, CONFIG) for learner in (cloned, corrected))
    assert after <= 0.1, (before, after)
    assert after <= before / 4, (before, after)
    np.testing.assert_array_equal(metrics["collect/labels"], [300, 600, 900])
    np.testing.assert_allclose(metrics["collect/expert_share"], [1, 1 / 2, 1 / 3], rtol=1e-6)


def test_the_label_is_the_experts_action_whoever_acted(rounds):
    """All rows carry the expert's action of their state; after round 1 others were executed."""
    _, (learner, _) = rounds
    rows = learner.experience.buffer.ordered()
    assert rows.actions.shape == (900, 2)
    labels = np.asarray(sine_track.expert_action(jnp.asarray(rows.observations), PARAMS))
    np.testing.assert_allclose(rows.actions, labels / sine_track.MAX_SPEED, atol=1e-5)
    moved = (rows.next_observations - rows.observations) / PARAMS.dt
    apart = np.abs(moved - labels).max(axis=-1)
    assert np.all(apart[:300] < 1e-3)
    assert np.mean(apart[300:] > 1e-3) > 0.9
