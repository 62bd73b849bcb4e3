"""Some episodes of a dataset are what they were in the whole."""

from __future__ import annotations

import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError


@pytest.fixture(scope="module")
def log() -> data.Dataset:
    """Five episodes of 2 to 6 steps; every second one terminates."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.normal(size=(steps + 1, 3)),
            "actions": random.uniform(-1, 1, size=(steps, 2)),
            "rewards": random.normal(size=steps),
            "terminations": np.arange(steps) == (steps - 1 if steps % 2 else -1),
            "truncations": np.arange(steps) == (-1 if steps % 2 else steps - 1),
        }
        for steps in (2, 3, 4, 5, 6)
    ]
    return data.normalize(data.from_episodes(episodes), observations="standardize")


def test_episodes_that_are_taken_are_unchanged(log):
    """Rows, ends and returns; the next actions of another episode are not taken for their own."""
    part = data.take_episodes(log, np.array([3, 0]))
    whole, parts = data.to_episodes(log), data.to_episodes(part)
    for ours, theirs in zip(parts, (whole[3], whole[0]), strict=True):
        for name, values in theirs.items():
            np.testing.assert_array_equal(ours[name], values, err_msg=name)
    np.testing.assert_array_equal(part.returns_to_go[5:], log.returns_to_go[:2])
    np.testing.assert_array_equal(part.episode_returns, log.episode_returns[[3, 0]])
    # Five steps of an episode that terminates, and two of one that is cut: its last has no next.
    np.testing.assert_array_equal(part.next_action_ids, [0, 1, 2, 3, 4, 5])


def test_what_is_held_out_and_the_rest_are_the_whole(log):
    """Every episode stands in one of the two parts; the units are those of the whole."""
    rest, held = data.hold_out(log, 0.4, seed=3)
    assert (rest.num_episodes, held.num_episodes) == (3, 2)
    returns = np.concatenate([rest.episode_returns, held.episode_returns])
    np.testing.assert_array_equal(np.sort(returns), np.sort(log.episode_returns))
    np.testing.assert_array_equal(
        held.normalization.observation_mean, log.normalization.observation_mean
    )
    again = data.hold_out(log, 0.4, seed=3)[1]
    assert data.digest(again) == data.digest(held)


@pytest.mark.parametrize("episodes", [[], [5], [1, 1], [-1]])
def test_episodes_that_there_are_not_are_refused(log, episodes):
    with pytest.raises(InputError, match="expected different episodes from 0 to 4"):
        data.take_episodes(log, np.array(episodes))


def test_shares_that_split_nothing_are_refused(log):
    with pytest.raises(InputError, match="expected a share of the episodes"):
        data.hold_out(log, 1.0)
    with pytest.raises(InputError, match="has one episode"):
        data.hold_out(data.take_episodes(log, np.array([0])), 0.5)
