"""Datasets from arrays and episodes: the timeouts rule by hand, and what is refused by name."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError
from ddm.types import Box, Discrete


def transitions(terminations, truncations, **changes):
    """Five transitions with observations 0 .. 4 and rewards 1, 2, 4, 8, 16."""
    fields = {
        "observations": np.arange(5.0)[:, None],
        "actions": np.linspace(-0.8, 0.8, 5)[:, None],
        "rewards": np.array([1.0, 2, 4, 8, 16]),
        "terminations": np.array(terminations, bool),
        "truncations": np.array(truncations, bool),
    }
    return fields | changes


def episode(steps=3, **changes):
    fields = {
        "observations": np.arange(steps + 1.0)[:, None],
        "actions": np.zeros((steps, 1)),
        "rewards": np.ones(steps),
        "terminations": np.arange(steps) == steps - 1,
    }
    return fields | changes


def test_truncated_transition_without_successor_is_dropped():
    dataset = data.from_arrays(**transitions([0, 1, 0, 0, 0], [0, 0, 0, 0, 1]))
    # Episode 0 ends terminal: its observation is repeated. Episode 1 loses its last transition,
    # whose observation 4 is the successor of the one before.
    assert dataset.observations[:, 0].tolist() == [0, 1, 1, 2, 3, 4]
    assert dataset.rewards.tolist() == [1, 2, 4, 8]
    assert dataset.episode_starts.tolist() == [0, 2, 4]
    assert dataset.episode_ids.tolist() == [0, 0, 1, 1]
    assert dataset.terminations.tolist() == [False, True, False, False]
    assert dataset.truncations.tolist() == [False, False, False, True]
    assert dataset.info.dropped_transitions == 1


def test_returns_are_those_of_the_recorded_episodes():
    dataset = data.from_arrays(**transitions([0, 1, 0, 0, 0], [0, 0, 0, 0, 1]))
    assert dataset.episode_returns.tolist() == [3, 28]
    assert dataset.returns_to_go.tolist() == [3, 2, 28, 24]


def test_stored_successors_keep_the_truncated_transition():
    fields = transitions([0, 1, 0, 0, 0], [0, 0, 0, 0, 1])
    dataset = data.from_arrays(**fields, next_observations=np.array([[1.0], [9], [3], [4], [7]]))
    assert dataset.observations[:, 0].tolist() == [0, 1, 9, 2, 3, 4, 7]
    assert dataset.num_transitions == 5
    assert dataset.info.dropped_transitions == 0


def test_one_truncated_step_vanishes_and_one_terminal_step_stays():
    dataset = data.from_arrays(**transitions([1, 0, 0, 0, 1], [0, 1, 0, 0, 0]))
    assert dataset.observations[:, 0].tolist() == [0, 0, 2, 3, 4, 4]
    assert dataset.episode_starts.tolist() == [0, 1, 4]
    assert dataset.episode_returns.tolist() == [1, 28]
    assert dataset.info.dropped_transitions == 1


def test_end_of_the_data_counts_as_a_truncation():
    dataset = data.from_arrays(**transitions([0, 0, 0, 0, 0], [0, 0, 0, 0, 0]))
    assert dataset.num_transitions == 4
    assert dataset.truncations.tolist() == [0, 0, 0, 1]
    assert dataset.info.data_cuts == 1
    with pytest.raises(InputError, match="every episode is one truncated transition"):
        data.from_arrays(**transitions([0] * 5, [1] * 5))


def test_both_flags_stop_the_bootstrap_and_keep_the_transition():
    dataset = data.from_arrays(**transitions([0, 0, 0, 0, 1], [0, 0, 0, 0, 1]))
    assert dataset.num_transitions == 5
    assert dataset.terminations.tolist() == dataset.truncations.tolist() == [0, 0, 0, 0, 1]


def test_a_dataset_does_not_alias_the_callers_arrays():
    fields = transitions([0, 0, 0, 0, 1], [0] * 5)
    fields["rewards"] = fields["rewards"].astype(np.float32)
    dataset = data.from_arrays(**fields)
    fields["rewards"][:] = -1
    assert dataset.rewards.tolist() == [1, 2, 4, 8, 16]


def test_actions_are_mapped_from_their_box_and_clipped():
    fields = transitions([0, 0, 0, 0, 1], [0] * 5, actions=[[0.0], [1], [2], [3], [4]])
    dataset = data.from_arrays(**fields, action_space=([0.0], [4.0]))
    limit = 1 - 1e-5
    np.testing.assert_allclose(dataset.actions[:, 0], [-limit, -0.5, 0, 0.5, limit], atol=1e-7)
    assert float(dataset.actions.max()) < 1
    assert dataset.info.clipped_actions == 2
    assert dataset.info.action_space == Box((1,), (0.0,), (4.0,))
    back = dataset.normalization.denormalize_actions(dataset.actions)
    np.testing.assert_allclose(back[:, 0], [0, 1, 2, 3, 4], atol=1e-4)


def test_integer_actions_start_at_zero_and_come_back():
    fields = transitions([0, 0, 0, 0, 1], [0] * 5, actions=np.array([3, 4, 5, 4, 3]))
    dataset = data.from_arrays(**fields, action_space=gymnasium.spaces.Discrete(3, start=3))
    assert dataset.actions.tolist() == [0, 1, 2, 1, 0]
    assert dataset.actions.dtype == np.int32
    assert dataset.info.action_space == Discrete(3, start=3)
    assert dataset.normalization.denormalize_actions(dataset.actions).tolist() == [3, 4, 5, 4, 3]
    assert data.from_arrays(**fields).info.action_space == Discrete(6)


def test_bytes_of_images_are_kept():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    dataset = data.from_episodes([episode(1, observations=images)])
    assert dataset.observations.dtype == np.uint8
    assert dataset.observations.shape == images.shape
    assert dataset.normalization.normalize_observations(dataset.observations).dtype == np.uint8
    assert dataset.info.observation_space.shape == (4, 4, 3)


def test_episodes_take_one_flag_or_many():
    dataset = data.from_episodes(
        [episode(2), episode(1, terminations=False, truncations=True), episode(2, terminations=0)]
    )
    assert dataset.terminations.tolist() == [0, 1, 0, 0, 0]
    assert dataset.truncations.tolist() == [0, 0, 1, 0, 1]
    assert dataset.info.data_cuts == 1
    assert dataset.episode_lengths.tolist() == [2, 1, 2]
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]


def test_episodes_survive_the_round_trip():
    first, second = episode(2), episode(3, actions=np.full((3, 1), 0.25))
    dataset = data.from_episodes([first, second])
    back = data.to_episodes(data.normalize(dataset, "standardize", "times_100"))
    for given, found in zip((first, second), back, strict=True):
        for field in ("observations", "actions", "rewards", "terminations"):
            np.testing.assert_allclose(found[field], given[field], atol=1e-5)


def test_dict_observations_need_their_space():
    nested = {"goal": np.zeros((4, 2)), "angle": np.arange(4)}
    with pytest.raises(InputError, match="episode 0: observations is a dict: give its observation"):
        data.from_episodes([episode(3, observations=nested)])
    space = gymnasium.spaces.Dict(
        {"goal": gymnasium.spaces.Box(-1, 1, (2,)), "angle": gymnasium.spaces.Discrete(4)}
    )
    dataset = data.from_episodes([episode(3, observations=nested)], observation_space=space)
    expected = [
        gymnasium.spaces.flatten(space, {"goal": nested["goal"][i], "angle": nested["angle"][i]})
        for i in range(4)
    ]
    np.testing.assert_array_equal(dataset.observations, expected)


def with_value(shape, row, value):
    array = np.zeros(shape)
    array[row] = value
    return array


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": with_value(5, 3, np.nan)}, "arrays: rewards of episode 1, step 1 is NaN"),
        ({"observations": with_value((5, 2), (2, 1), np.inf)}, "observations of episode 1, step 0"),
        ({"actions": with_value((5, 1), 4, np.nan)}, "actions of episode 1, step 2 is NaN"),
        ({"actions": np.zeros((4, 1))}, "actions has 4 rows, rewards has 5"),
        ({"observations": np.zeros((7, 1))}, "observations has 7 rows, rewards has 5"),
        ({"terminations": np.zeros(3)}, "terminations has 3 rows, rewards has 5"),
        ({"terminations": [0, 2, 0, 0, 0]}, "terminations has values other than 0 and 1"),
        ({"rewards": []}, "rewards is empty, expected at least one transition"),
        ({"rewards": np.zeros((5, 2))}, r"rewards has shape \(5, 2\), expected one number"),
        ({"rewards": ["a"] * 5}, "rewards has dtype <U1, expected real numbers"),
        ({"observations": [[1], [1, 2], [1], [1], [1]]}, "observations is ragged"),
        (
            {"actions": with_value((5, 1), slice(2, 4), 1.5)},
            r"2 actions are outside the box \[-1, 1\], the first at episode 1, step 0",
        ),
        (
            {"actions": [0, 1, 7, 1, 0], "action_space": Discrete(2)},
            r"1 actions are outside 0 .. 1, the first \(7\) at episode 1, step 0",
        ),
        (
            {"actions": np.full(5, 0.5), "action_space": Discrete(2)},
            "actions are float64 .* expected one integer",
        ),
        ({"action_space": ([-1.0, -1], [1.0, 1])}, "1 numbers per step, the action space has 2"),
        ({"action_space": gymnasium.spaces.MultiBinary(2)}, "MultiBinary space are not supported"),
        (
            {"next_observations": [[1.0], [9], [3], [8], [5]]},
            r"next_observations\[3\] differs from observations\[4\] at episode 1, step 1 \(1 such",
        ),
    ],
)
def test_bad_arrays_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        data.from_arrays(**(transitions([0, 1, 0, 0, 1], [0] * 5) | changes))


def test_rounding_beyond_the_box_is_forgiven():
    fields = transitions([0, 0, 0, 0, 1], [0] * 5, actions=np.full((5, 1), 1 + 5e-5))
    assert data.from_arrays(**fields).info.clipped_actions == 5


def test_actions_outside_the_box_are_clipped_where_asked():
    actions = np.array([[0.5], [-1.3], [3.0], [0.0], [-1.0]])
    fields = transitions([0, 0, 0, 0, 1], [0] * 5, actions=actions)
    fields["action_space"] = ([-1.0], [1.0])
    with pytest.raises(InputError, match=r"2 actions are outside .*load with clip_actions"):
        data.from_arrays(**fields)
    dataset = data.from_arrays(**fields, clip_actions=True)
    assert dataset.info.moved_actions == 2
    assert dataset.info.notes == ("2 actions outside their box were moved onto its edge",)
    np.testing.assert_allclose(dataset.actions[:, 0], [0.5, -1.0, 1.0, 0.0, -1.0], atol=2e-5)
    assert dataset.info.clipped_actions == 3
    fields["action_space"] = ([-2.0], [2.0])
    wide = data.from_arrays(**fields, clip_actions=True)
    assert wide.info.moved_actions == 1
    np.testing.assert_allclose(wide.actions[:, 0], [0.25, -0.65, 1.0, 0.0, -0.5], atol=2e-5)
    fields["action_space"] = ([-np.inf], [np.inf])
    with pytest.raises(InputError, match=r"give action_space=\(low, high\)"):
        data.from_arrays(**fields, clip_actions=True)


def test_unbounded_action_box_asks_for_bounds():
    fields = transitions([0, 0, 0, 0, 1], [0] * 5, actions=np.full((5, 1), 3.0))
    with pytest.raises(InputError, match=r"give action_space=\(low, high\)"):
        data.from_arrays(**fields, action_space=([-np.inf], [np.inf]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": np.ones(0)}, "episodes: episode 1 is empty"),
        ({"observations": np.zeros((3, 1))}, "episode 1: observations has 3 rows, expected 4"),
        ({"actions": np.zeros((4, 1))}, "episode 1: actions has 4 rows, expected 3 for 3 rewards"),
        ({"actions": np.zeros((3, 2))}, "episode 1: actions has steps of shape"),
        ({"observations": np.zeros((4, 2))}, "episode 1: observations has steps of shape"),
        ({"terminations": [1, 0, 0]}, "terminations is set at episode 1, step 0, before"),
        ({"observations": with_value((4, 1), 3, np.nan)}, "observations of episode 1, step 3"),
    ],
)
def test_bad_episodes_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        data.from_episodes([episode(2), episode(3, **changes)])


def test_missing_fields_are_named():
    incomplete = episode()
    del incomplete["actions"]
    with pytest.raises(InputError, match="episode 0: actions is missing"):
        data.from_episodes([incomplete])
    with pytest.raises(InputError, match="there is no episode"):
        data.from_episodes([])
    with pytest.raises(
        InputError, match=r"nothing says where episodes end, .*; it has observations,"
    ):
        data.load({"observations": [[0.0]], "actions": [[0.0]], "rewards": [0.0]})


def test_one_step_episodes_are_fine():
    dataset = data.from_episodes([episode(1), episode(1)])
    assert dataset.num_episodes == 2
    assert dataset.next_action_ids.tolist() == [0, 1]
