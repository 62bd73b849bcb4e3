"""Sampling: hand-made datasets in which every number tells where it is from."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError
from ddm.types import BatchSpec, Discrete

draw = jax.jit(data.sample, static_argnums=(2, 3))

LENGTHS = (4, 1, 3, 2, 6)
TERMINAL = (True, False, False, True, False)
ALL_FIELDS = (
    "observations",
    "actions",
    "rewards",
    "next_observations",
    "terminations",
    "truncations",
    "next_actions",
    "returns_to_go",
)


def numbered_dataset(lengths=LENGTHS, terminal=TERMINAL):
    """Observation (e, t), action 0.1 e + 0.01 t, reward 100 e + t in episode e at step t."""
    episodes = []
    for e, (steps, ends) in enumerate(zip(lengths, terminal, strict=True)):
        t = np.arange(steps + 1.0)
        episodes.append(
            {
                "observations": np.stack([np.full_like(t, e), t], axis=1),
                "actions": (0.1 * e + 0.01 * t[:-1])[:, None],
                "rewards": 100 * e + t[:-1],
                "terminations": ends,
            }
        )
    return data.from_episodes(episodes)


def test_transitions_match_the_dataset():
    dataset = numbered_dataset()
    batch = draw(dataset, jax.random.key(0), 64, BatchSpec(ALL_FIELDS, minibatches=4))
    e, t = np.asarray(batch.observations).T
    lengths, terminal = np.array(LENGTHS)[e.astype(int)], np.array(TERMINAL)[e.astype(int)]
    last = t == lengths - 1
    assert batch.rewards.shape == (256,)
    assert batch.mask is None
    np.testing.assert_allclose(batch.rewards, 100 * e + t)
    np.testing.assert_allclose(batch.actions[:, 0], 0.1 * e + 0.01 * t, atol=1e-6)
    np.testing.assert_array_equal(batch.next_observations, np.stack([e, t + 1], axis=1))
    np.testing.assert_array_equal(batch.terminations, last & terminal)
    expected = 100 * e + (lengths - 1 + t) / 2  # mean reward of what is left
    np.testing.assert_allclose(batch.returns_to_go, expected * (lengths - t), rtol=1e-6)
    # The last step of a truncated episode has an unknown next action and is never drawn; a
    # terminal one repeats its own.
    assert not np.any(last & ~terminal)
    assert np.any(last & terminal)
    next_t = np.where(last, t, t + 1)
    np.testing.assert_allclose(batch.next_actions[:, 0], 0.1 * e + 0.01 * next_t, atol=1e-6)


def test_a_truncation_is_no_termination():
    fields = ("observations", "terminations", "truncations")
    batch = draw(numbered_dataset(), jax.random.key(0), 256, BatchSpec(fields))
    e, t = np.asarray(batch.observations).T
    last, terminal = (
        t == np.array(LENGTHS)[e.astype(int)] - 1,
        np.array(TERMINAL)[e.astype(int)],
    )
    np.testing.assert_array_equal(batch.terminations, last & terminal)
    np.testing.assert_array_equal(batch.truncations, last & ~terminal)


def test_only_declared_fields_are_filled():
    batch = draw(numbered_dataset(), jax.random.key(0), 2, BatchSpec(("rewards",)))
    assert [x.shape for x in jax.tree.leaves(batch)] == [(2,)]


@pytest.mark.parametrize("window", [1, 3, 10])
@pytest.mark.parametrize("next_actions", [False, True])
def test_windows_never_cross_an_episodes_end(window, next_actions):
    dataset = numbered_dataset()
    fields = ("observations", "next_observations", "actions", "rewards", "mask")
    spec = BatchSpec(fields + ("next_actions",) * next_actions, window=window)
    batch = draw(dataset, jax.random.key(1), 200, spec)
    e, t = np.moveaxis(np.asarray(batch.observations), -1, 0)
    lengths, terminal = np.array(LENGTHS)[e.astype(int)], np.array(TERMINAL)[e.astype(int)]
    limits = lengths - 1 - (next_actions & ~terminal)
    assert batch.mask.shape == (200, window)
    assert np.all(e == e[:, :1])
    assert np.all(t <= limits)
    steps = t[:, :1] + np.arange(window)
    np.testing.assert_array_equal(t, np.minimum(steps, limits))  # padded with the last valid step
    np.testing.assert_array_equal(batch.mask, steps <= limits)
    assert np.all(batch.mask[:, 0])
    np.testing.assert_array_equal(batch.next_observations[..., 1], t + 1)
    np.testing.assert_allclose(batch.rewards, 100 * e + t)
    if next_actions:
        next_t = np.minimum(t + 1, lengths - 1)
        np.testing.assert_allclose(batch.next_actions[..., 0], 0.1 * e + 0.01 * next_t, atol=1e-6)


@pytest.mark.parametrize(("window", "history"), [(3, 2), (4, 1), (9, 5)])
def test_history_lies_before_the_drawn_step_and_within_the_episode(window, history):
    dataset = numbered_dataset()
    spec = BatchSpec(("observations", "actions", "mask"), window=window, history=history)
    batch = draw(dataset, jax.random.key(1), 400, spec)
    e, t = np.moveaxis(np.asarray(batch.observations), -1, 0)
    assert np.all(e == e[:, :1])
    drawn = t[:, history]  # every step can be drawn, with its history or without
    rows, counts = np.unique(np.stack([e[:, 0], drawn]), axis=1, return_counts=True)
    assert rows.shape[1] == dataset.num_transitions
    assert counts.min() > 5
    steps = drawn[:, None] + np.arange(-history, window - history)
    lengths = np.array(LENGTHS)[e.astype(int)]
    np.testing.assert_array_equal(t, np.clip(steps, 0, lengths - 1))
    np.testing.assert_array_equal(batch.mask, (steps >= 0) & (steps < lengths))
    np.testing.assert_allclose(batch.actions[..., 0], 0.1 * e + 0.01 * t, atol=1e-6)


def test_an_episode_shorter_than_a_chunk_is_refused_by_name():
    spec = BatchSpec(("actions",), window=4, min_episode_steps=4)
    with pytest.raises(InputError, match="episode 1 has 1 steps, expected at least 4"):
        data.sample(numbered_dataset(), jax.random.key(0), 2, spec)
    with pytest.raises(InputError, match="episode 1 has 1 steps"):
        data.check_episodes(numbered_dataset(), spec)
    data.check_episodes(numbered_dataset((4, 5), (True, False)), spec)


def test_a_log_that_no_table_can_hold_is_refused_by_its_name():
    states, actions = np.array([0, 2, 1, 2]), np.array([0, 1, 3, 1])
    options = {"rewards": np.zeros(4), "terminations": [0, 0, 0, 1], "name": "lake"}
    numbers = data.from_arrays(states, actions, **options)
    one_hot = data.from_arrays(states, actions, observation_space=Discrete(3), **options)
    table = BatchSpec(("observations",), one_hot_observations=True)
    data.check_episodes(one_hot, table)
    for dataset in (numbers, data.normalize(one_hot, observations="standardize")):
        with pytest.raises(InputError, match=r"lake: observation 0 .*Discrete\(n\)"):
            data.check_episodes(dataset, table)
    data.check_episodes(one_hot, BatchSpec(("actions",), num_actions=4))
    with pytest.raises(InputError, match="lake: the log has action 3 and num_actions is 3"):
        data.check_episodes(one_hot, BatchSpec(("actions",), num_actions=3))


def test_draws_are_uniform():
    dataset = numbered_dataset()
    draws = 16_000
    batch = draw(dataset, jax.random.key(2), draws, BatchSpec(("observations",)))
    rows, counts = np.unique(np.asarray(batch.observations), axis=0, return_counts=True)
    assert len(rows) == dataset.num_transitions == 16
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000))


def test_initial_observations_are_first_ones_uniform_over_episodes():
    dataset = numbered_dataset()
    spec = BatchSpec(("rewards", "observations", "initial_observations"), minibatches=4)
    batch = draw(dataset, jax.random.key(2), 2_500, spec)
    episodes, steps = np.asarray(batch.initial_observations).T
    assert np.all(steps == 0)
    # One in five for each episode, whose lengths are 1 to 6 of 16 transitions.
    counts = np.bincount(episodes.astype(int), minlength=5)
    assert np.all(np.abs(counts - 2_000) < 5 * np.sqrt(2_000))
    # Independent of the row: as likely with a transition of the same episode as of another.
    same = np.mean(episodes == np.asarray(batch.observations)[:, 0])
    assert same == pytest.approx(0.2, abs=0.02)


def test_other_fields_do_not_share_random_numbers_with_the_initial_ones():
    dataset = numbered_dataset((2,) * 8, (False,) * 8)
    spec = BatchSpec(("observations", "initial_observations", "next_actions"))
    batch = draw(dataset, jax.random.key(0), 4_000, spec)
    pairs = 8 * batch.observations[:, 0] + batch.initial_observations[:, 0]
    counts = np.bincount(np.asarray(pairs, int), minlength=64)
    assert np.all(np.abs(counts - 62.5) < 5 * np.sqrt(62.5))


def test_initial_observations_of_images_and_of_normalised_datasets():
    images = [
        {
            "observations": np.full((3, 4, 4, 1), 10 * e, np.uint8)
            + np.arange(3, dtype=np.uint8)[:, None, None, None],
            "actions": np.zeros((2, 1)),
            "rewards": np.zeros(2),
            "terminations": True,
        }
        for e in range(3)
    ]
    spec = BatchSpec(("actions", "initial_observations"))
    batch = draw(data.from_episodes(images), jax.random.key(0), 64, spec)
    assert batch.initial_observations.shape == (64, 4, 4, 1)
    assert batch.initial_observations.dtype == jnp.uint8
    assert set(np.asarray(batch.initial_observations)[:, 0, 0, 0]) == {0, 10, 20}
    normalised = data.normalize(numbered_dataset(), observations="standardize")
    batch = draw(normalised, jax.random.key(0), 64, spec)
    raw = normalised.normalization.denormalize_observations(batch.initial_observations)
    np.testing.assert_allclose(raw[:, 1], 0.0, atol=1e-5)
    assert set(np.round(np.asarray(raw)[:, 0])) == set(range(5))


def test_same_key_same_batch_and_no_second_trace():
    dataset = numbered_dataset()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(dataset, key):
        def body(total, step):
            batch = data.sample(dataset, jax.random.fold_in(key, step), 8, BatchSpec(("rewards",)))
            return total + jnp.sum(batch.rewards), batch.rewards

        return jax.lax.scan(body, 0.0, jnp.arange(3))

    first, second = run(dataset, jax.random.key(0)), run(dataset, jax.random.key(0))
    np.testing.assert_array_equal(first[1], second[1])
    spec = BatchSpec(("rewards",))
    alone = draw(dataset, jax.random.fold_in(jax.random.key(0), 2), 8, spec)
    np.testing.assert_array_equal(first[1][2], alone.rewards)


def test_impossible_specs_are_refused():
    dataset, key = numbered_dataset(), jax.random.key(0)
    with pytest.raises(InputError, match="unknown batch field 'obs'; known: observations"):
        data.sample(dataset, key, 2, BatchSpec(("obs",)))
    with pytest.raises(InputError, match="'mask' belongs to windows"):
        data.sample(dataset, key, 2, BatchSpec(("mask",)))
    with pytest.raises(InputError, match="'initial_observations' belongs to single transitions"):
        data.sample(dataset, key, 2, BatchSpec(("initial_observations",), window=2))
    with pytest.raises(InputError, match="window has 0 steps"):
        data.sample(dataset, key, 2, BatchSpec(("rewards",), window=0))
    with pytest.raises(InputError, match="window of 3 steps has 3 steps of history"):
        data.sample(dataset, key, 2, BatchSpec(("rewards",), window=3, history=3))
    one_step = numbered_dataset((1, 1), (False, False))
    with pytest.raises(InputError, match="no transition has a known next action"):
        data.sample(one_step, key, 2, BatchSpec(("next_actions",)))


def test_whole_dataset_starts_in_each_episode_in_turn():
    spec = BatchSpec(("rewards", "initial_observations"), whole_dataset=True)
    batch = data.sample(numbered_dataset(), jax.random.key(0), 2, spec)
    expected = [[i % 5, 0] for i in range(16)]  # (episode, step): 16 transitions, five episodes
    np.testing.assert_array_equal(batch.initial_observations, expected)


def test_whole_dataset_is_every_transition_once_in_order():
    dataset = numbered_dataset()
    fields = ("observations", "actions", "rewards", "next_observations")
    spec = BatchSpec(fields, whole_dataset=True)
    batch = data.sample(dataset, jax.random.key(0), 2, spec)
    np.testing.assert_array_equal(batch.actions, dataset.actions)
    np.testing.assert_array_equal(batch.rewards, dataset.rewards)
    starts = np.arange(dataset.num_transitions) + np.asarray(dataset.episode_ids)
    np.testing.assert_array_equal(batch.observations, np.asarray(dataset.observations)[starts])
    np.testing.assert_array_equal(
        batch.next_observations, np.asarray(dataset.observations)[starts + 1]
    )


@pytest.mark.parametrize(
    "options",
    [
        {"window": 3},
        {"fields": ("next_actions",)},
    ],
)
def test_whole_dataset_excludes_draws(options):
    spec = BatchSpec(**({"fields": ("rewards",), "whole_dataset": True} | options))
    with pytest.raises(InputError, match=r"whole dataset|present policy"):
        data.sample(numbered_dataset(), jax.random.key(0), 2, spec)


def test_windows_of_all_steps_are_not_those_of_a_log():
    spec = BatchSpec(fields=("rewards",), whole_dataset=True, window=3)
    with pytest.raises(InputError, match="episodes is a log, and the method learns from its pres"):
        data.sample(numbered_dataset(), jax.random.key(0), 2, spec)
