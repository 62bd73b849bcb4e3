"""What a log's numbers may be, and that one bad row spoils no other."""

from __future__ import annotations

import numpy as np
import pytest

from ddm import data
from ddm.data.values import coarse_columns, ranges
from ddm.errors import InputError


def log(**changes):
    """Two episodes of three and two steps; the last step of each has no known successor."""
    fields = {
        "observations": np.arange(5.0)[:, None],
        "actions": np.zeros((5, 1)),
        "rewards": np.array([1.0, 2, 4, 8, 16]),
        "terminations": np.zeros(5),
        "truncations": np.array([0, 0, 1, 0, 1]),
    }
    return fields | changes


def with_value(shape, row, value):
    array = np.zeros(shape)
    array[row] = value
    return array


def test_a_huge_reward_stays_in_its_episode():
    rewards = np.array([1.0, -1e18, 4, 0.25, 0.5])
    flags = {"terminations": [0, 0, 1, 0, 1], "truncations": None}
    by_rows = data.from_arrays(**log(rewards=rewards, **flags))
    episodes = [
        {
            "observations": np.zeros((len(part) + 1, 1)),
            "actions": np.zeros((len(part), 1)),
            "rewards": part,
            "terminations": True,
        }
        for part in (rewards[:3], rewards[3:])
    ]
    for dataset in (by_rows, data.from_episodes(episodes)):
        assert dataset.returns_to_go[3:].tolist() == [0.75, 0.5]
        assert dataset.returns_to_go[2] == 4
        np.testing.assert_allclose(dataset.episode_returns, [-1e18, 0.75])


@pytest.mark.parametrize("row", [0, 2])  # row 2 is dropped, because its successor is unknown
@pytest.mark.parametrize(
    ("value", "fault"),
    [(np.nan, "NaN or infinite"), (-np.inf, "NaN or infinite"), (1e39, "beyond the range of floa")],
)
@pytest.mark.parametrize("field", ["observations", "actions", "rewards"])
def test_bad_numbers_are_named_before_rows_are_dropped(field, value, fault, row):
    shape = (5,) if field == "rewards" else (5, 1)
    with pytest.raises(InputError, match=f"{field} of episode 0, step {row} is {fault}"):
        data.from_arrays(**log(**{field: with_value(shape, row, value)}))


def test_bad_successors_are_named_too():
    successors = np.array([1.0, 2, 9, 4, np.inf])[:, None]
    with pytest.raises(InputError, match="next_observations of episode 1, step 1 is NaN"):
        data.from_arrays(**log(next_observations=successors))


def test_a_return_beyond_float32_is_named():
    rewards = np.array([1.0, 2, 4, 3e38, 3e38])
    with pytest.raises(InputError, match="returns_to_go of episode 1, step 0 is beyond the range"):
        data.from_arrays(**log(rewards=rewards, terminations=[0, 0, 1, 0, 1], truncations=None))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.ones(5) * 1j}, "rewards has dtype complex128, expected real numbers"),
        ({"observations": np.ones((5, 1)) * 1j}, "observations has dtype complex128"),
        ({"actions": np.array([0, 1, 0, 1, 2**31])}, "actions has the integer 2147483648, expec"),
        ({"observations": np.full(5, -(2**31) - 1)}, "observations has the integer -2147483649"),
        ({"rewards": np.full(5, 2**63, np.uint64)}, "rewards has the integer 9223372036854775808"),
    ],
)
def test_numbers_that_the_device_cannot_hold_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        data.from_arrays(**log(**changes))


def columns(rows=1000):
    """Unix seconds, UTM metres with centimetres, and columns that float32 holds well."""
    rng = np.random.default_rng(0)
    steps = np.arange(rows)
    return np.stack(
        [
            1.7e9 + steps,
            rng.normal(size=rows),
            5.8e6 + 0.1 * rng.integers(1000, size=rows),
            0.1 * (steps % 7) + 1e-16 * (steps % 3),  # the last bits are noise
            np.full(rows, 1 / 3),
            100.0 * rng.uniform(size=rows) + 1000,
        ],
        axis=1,
    )


def test_columns_that_float32_makes_coarse_are_found():
    assert coarse_columns(columns()) == (0, 2)
    assert coarse_columns(columns().astype(np.float32)) == ()
    assert coarse_columns((1_700_000_000 + np.arange(1000))[:, None]) == (0,)
    outlier = columns()
    outlier[0] = 0  # hides neither the times nor the coordinates
    assert coarse_columns(outlier) == (0, 2)


def test_coarse_columns_are_noted_at_load_and_by_describe():
    observations = columns(400)
    arrays = (np.zeros((400, 1)), np.ones(400), np.arange(400) == 399)
    dataset = data.from_arrays(observations, *arrays)
    note = "observations in dimension 0, 2 lose values that differ"
    assert sum(note in one for one in dataset.info.notes) == 1
    assert note in str(data.describe(dataset))
    episode = {
        "observations": np.concatenate([observations, observations[-1:]]),
        "actions": np.zeros((400, 1)),
        "rewards": np.ones(400),
    }
    assert any(note in one for one in data.from_episodes([episode]).info.notes)
    assert not any(
        "lose" in one for one in data.from_arrays(observations[:, 1:2], *arrays).info.notes
    )


def test_ranges_in_words():
    assert ranges([0, 2, 3, 4, 9, 10]) == "0, 2-4, 9-10"
