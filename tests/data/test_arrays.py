"""Datasets from arrays and episodes: the timeouts rule by hand, and what is refused by name."""

from __future__ import annotations

import gymnasium
import jax
import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError
from ddm.types import BatchSpec, Box, Discrete


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
    assert dataset.info.data_cuts == 0  # the file says where episodes end


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
    assert dataset.returns_to_go.tolist() == [1, 28, 24, 16]
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


# --- A guess is not knowledge ---


def notes(**changes):
    return data.from_arrays(**transitions([0, 0, 0, 0, 1], [0] * 5, **changes)).info.notes


def test_guessed_bounds_are_said_and_never_clipped_against():
    fields = transitions([0, 0, 0, 0, 1], [0] * 5)
    dataset = data.from_arrays(**fields)
    assert dataset.info.bounds_guessed
    assert "nothing in the data bounds the actions" in dataset.info.notes[0]
    torques = fields | {"actions": np.array([[2.0], [-1.5], [0.5], [0.0], [1.0]])}
    for clip in (False, True):
        with pytest.raises(InputError, match=r"2 actions .* guess.*--action_low.* action_low"):
            data.from_arrays(**torques, clip_actions=clip)
    known = data.from_arrays(**torques, action_space=(-2.0, 2.0))
    assert not known.info.bounds_guessed
    assert known.info.notes == ()
    np.testing.assert_allclose(known.actions[:, 0], [1, -0.75, 0.25, 0, 0.5], atol=2e-5)


def test_a_box_without_bounds_is_a_guess_too():
    dataset = data.from_arrays(
        **transitions([0, 0, 0, 0, 1], [0] * 5), action_space=([-np.inf], [np.inf])
    )
    assert dataset.info.bounds_guessed
    assert "the action space has no bounds" in dataset.info.notes[0]


def test_bounds_in_the_data_count_and_an_argument_wins(tmp_path):
    fields = transitions([0, 0, 0, 0, 1], [0] * 5, actions=np.arange(10.0).reshape(5, 2))
    np.savez(tmp_path / "x.npz", **fields, action_low=[0.0, 0.0], action_high=[10.0, 20.0])
    dataset = data.load(tmp_path / "x.npz")
    assert dataset.info.action_space == Box((2,), (0.0, 0.0), (10.0, 20.0))
    assert not dataset.info.bounds_guessed
    np.testing.assert_allclose(dataset.actions[1], [-0.6, -0.7], atol=1e-6)
    wide = data.load(tmp_path / "x.npz", action_space=(-100.0, 100.0))
    assert wide.info.action_space == Box((2,), (-100.0, -100.0), (100.0, 100.0))
    cut = data.load(fields | {"action_low": 0.0, "action_high": 8.0}, clip_actions=True)
    assert cut.info.moved_actions == 1
    assert (
        data.load(fields | {"action_low": -9, "action_high": 9}).info.action_space.low == (-9,) * 2
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_low": [0.0]}, "action_low is there alone, expected action_low and action_high"),
        ({"action_low": [0.0, 1], "action_high": [1.0, 2, 3]}, r"have shapes \(2,\) and \(3,\)"),
        ({"action_low": 1.0, "action_high": 1.0}, "action_low is not below action_high"),
        ({"num_actions": 2.5}, r"num_actions is 2.5, expected one positive integer"),
        ({"environment_id": 3}, "environment_id is 3, expected one string"),
        ({"reference_scores": [1.0]}, r"reference scores are \[1.\], expected those of a random"),
    ],
)
def test_bad_settings_in_the_data_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        data.load(transitions([0, 0, 0, 0, 1], [0] * 5) | changes)


@pytest.mark.parametrize(
    ("actions", "space", "note"),
    [
        (np.array([0, 2, 1, 0, 0]), Discrete(3), r"the actions (int64) are taken for choices"),
        (np.array([[0], [2], [1], [0], [0]]), Discrete(3), "(int64 of shape (N, 1)) are taken"),
        (np.array([0, 1, 0, 0, 0], bool), Discrete(2), "the actions (bool) are taken for choices"),
        (np.zeros(5, bool), Discrete(2), "from 0 to 1"),
    ],
)
def test_what_actions_are_taken_for_is_said(actions, space, note):
    dataset = data.from_arrays(**transitions([0, 0, 0, 0, 1], [0] * 5, actions=actions))
    assert dataset.info.action_space == space
    assert dataset.actions.tolist() == actions.ravel().tolist()
    assert dataset.info.bounds_guessed
    assert note in dataset.info.notes[0]


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.array([0.0, 1, 1, 0, 1]), "all 0 or 1, which may be a choice between two or real"),
        (np.eye(5), "all 0 or 1, which may be one-hot choices or real"),
        (np.ones((5, 2), int), r"int64 of shape \(2,\) per step and have no space"),
        (np.array([-1, 0, 1, 0, 0]), r"integers from -1; give action_space=Discrete\(n, start\)"),
    ],
)
def test_ambiguous_actions_are_refused_with_what_to_give(actions, message):
    with pytest.raises(InputError, match=message):
        data.from_arrays(**transitions([0, 0, 0, 0, 1], [0] * 5, actions=actions))


def test_floats_are_choices_where_the_space_says_so():
    fields = transitions([0, 0, 0, 0, 1], [0] * 5, actions=np.array([0.0, 1, 1, 0, 1]))
    dataset = data.from_arrays(**fields, action_space=Discrete(2))
    assert dataset.actions.tolist() == [0, 1, 1, 0, 1]
    assert "whole numbers stored as float64" in dataset.info.notes[0]
    real = data.from_arrays(**fields, action_space=(0.0, 1.0))
    np.testing.assert_allclose(real.actions[:, 0], [-1, 1, 1, -1, 1], atol=2e-5)


def test_an_integer_box_keeps_its_dtype():
    space = gymnasium.spaces.Box(0, 9, (1,), np.int64)
    fields = transitions([0, 0, 0, 0, 1], [0] * 5, actions=np.array([[9], [0], [4], [5], [8]]))
    dataset = data.from_arrays(**fields, action_space=space)
    assert dataset.info.action_space == Box((1,), (0.0,), (9.0,), "int64")
    back = dataset.normalization.denormalize_actions(dataset.actions)
    assert np.round(back[:, 0]).tolist() == [9, 0, 4, 5, 8]


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_integer_observations_name_the_space_that_they_may_have(shape):
    states = np.array([0, 3, 1, 2, 0]).reshape(shape)
    assert any("observation_space=Discrete(4)" in note for note in notes(observations=states))
    fields = transitions([0, 0, 0, 0, 1], [0] * 5, observations=states)
    for dataset in (
        data.from_arrays(**fields, observation_space=Discrete(4)),
        data.load(fields | {"num_states": 4}),
    ):
        np.testing.assert_array_equal(dataset.observations[:5], np.eye(4)[states.ravel()])
        assert not any("observation" in note for note in dataset.info.notes)


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 8, 8), (4, 84, 84)])
def test_images_with_their_colours_first_are_refused(shape):
    images = np.zeros((2, *shape), np.uint8)
    one = episode(1, observations=images)
    message = r"colours first; transpose them to height x width x colours"
    with pytest.raises(InputError, match=message):
        data.from_episodes([one])
    with pytest.raises(InputError, match=message):
        data.from_episodes([one], observation_space=gymnasium.spaces.Box(0, 255, shape, np.uint8))
    last = np.moveaxis(images, 1, -1)
    made = data.from_episodes([episode(1, observations=last)])
    assert made.info.observation_space.shape == shape[1:] + shape[:1]


# --- Successors that an environment overwrote ---


def autoreset(last, terminations=(0, 0, 0, 0, 0, 0)):
    """Episodes 0-1, 2-3, 4-5; the successors of the first two ends are the next first rows."""
    observations = np.array([[0.1], [0.2], [1.1], [1.2], [2.1], [2.2]])
    successors = np.array([[0.2], [1.1], [1.2], [2.1], [2.2], [last]])
    return {
        "observations": observations,
        "actions": np.zeros((6, 1)),
        "rewards": np.array([1.0, 2, 4, 8, 16, 32]),
        "terminations": terminations,
        "next_observations": successors.astype(np.float32),
    }


def test_successors_of_the_next_episode_are_unknown():
    dataset = data.from_arrays(**autoreset(0.7), truncations=[0, 1, 0, 1, 0, 1])
    # The truncated ends are dropped, the last one too, as all others are overwritten.
    assert dataset.rewards.tolist() == [1, 4, 16]
    np.testing.assert_allclose(dataset.observations[:, 0], [0.1, 0.2, 1.1, 1.2, 2.1, 2.2])
    assert dataset.episode_returns.tolist() == [3, 12, 48]
    assert dataset.info.dropped_transitions == 3
    note = "next_observations of 3 of 3 episode ends are the next episode's first observation"
    assert any(note in one and "3 truncated transitions" in one for one in dataset.info.notes)


def test_an_overwritten_terminal_successor_is_repeated():
    dataset = data.from_arrays(**autoreset(0.7, terminations=(0, 1, 0, 1, 0, 1)))
    assert dataset.rewards.tolist() == [1, 2, 4, 8, 16, 32]
    expected = [0.1, 0.2, 0.2, 1.1, 1.2, 1.2, 2.1, 2.2, 2.2]
    np.testing.assert_allclose(dataset.observations[:, 0], expected)


def test_true_successors_and_those_where_the_data_stop_are_kept():
    fields = autoreset(2.3)
    fields["next_observations"][[1, 3]] = [[0.3], [1.3]]
    dataset = data.from_arrays(**fields, truncations=[0, 1, 0, 1, 0, 1])
    assert dataset.num_transitions == 6
    assert not any("next_observations" in one for one in dataset.info.notes)
    cut = data.from_arrays(**autoreset(2.3), truncations=[0, 1, 0, 1, 0, 0])
    assert cut.rewards.tolist() == [1, 4, 16, 32]
    np.testing.assert_allclose(cut.observations[-1], [2.3])


def test_states_from_a_few_coincide_by_chance():
    fields = autoreset(1) | {
        "observations": np.array([0, 1, 2, 1, 0, 2]),
        "next_observations": np.array([1, 2, 1, 2, 2, 1]),  # only the first end's is the next row
    }
    dataset = data.from_arrays(
        **fields, truncations=[0, 1, 0, 1, 0, 1], observation_space=Discrete(3)
    )
    assert dataset.num_transitions == 6


# --- Logs without rewards, and episodes of other kinds ---


def test_rewards_may_be_absent(tmp_path):
    observations, actions = np.arange(4.0)[:, None], np.full((4, 1), 0.5)
    one = {"observations": observations, "actions": actions[:3], "terminations": True}
    mapping = {"observations": observations, "actions": actions, "terminations": [0, 0, 0, 1]}
    for dataset in (
        data.from_arrays(observations, actions, terminations=[0, 0, 0, 1]),
        data.load(mapping),
        data.from_episodes([one]),
    ):
        assert not dataset.info.has_rewards
        assert not dataset.rewards.any()
        report = str(data.describe(dataset))
        assert report.count("no rewards in the data") == 2  # returns and scores
        for transform in ({"rewards": "minus_one"}, {"reward_scale": 2.0}):
            with pytest.raises(InputError, match="has no rewards, so that there are none"):
                data.normalize(dataset, **transform)
        for field in ("rewards", "returns_to_go"):
            spec = BatchSpec(("observations", field))
            with pytest.raises(InputError, match=f"has no rewards, and batch field '{field}' ne"):
                data.sample(dataset, jax.random.key(0), 2, spec)
        data.save_npz(dataset, tmp_path / "x.npz")
        assert data.load(tmp_path / "x.npz", name=dataset.info.name).info == dataset.info
        back = data.to_episodes(dataset)
        assert "rewards" not in back[0]
        assert not data.from_episodes(back).info.has_rewards
    with pytest.raises(InputError, match="episode 1: rewards is missing, or present only here"):
        data.from_episodes([episode(1), {k: v for k, v in episode(1).items() if k != "rewards"}])


def test_episodes_come_from_any_iterable_and_as_objects():
    class Recorded:
        """Attributes, as those of Minari's EpisodeData."""

        def __init__(self, fields):
            self.id = 0
            self.__dict__.update(fields)

    given = [episode(2), episode(3)]
    expected = data.digest(data.from_episodes(given))
    assert data.digest(data.from_episodes(one for one in given)) == expected
    assert data.digest(data.from_episodes([Recorded(one) for one in given])) == expected


def test_an_episode_may_store_its_successors():
    one = episode(3, observations=np.arange(3.0)[:, None])
    one["next_observations"] = np.array([[1.0], [2], [7]])
    assert data.from_episodes([one]).observations[:, 0].tolist() == [0, 1, 2, 7]
    one["next_observations"] = np.array([[1.0], [5], [7]])
    with pytest.raises(InputError, match=r"episode 0: next_observations.* differs from"):
        data.from_episodes([one])


@pytest.mark.parametrize("name", ["done", "is_last", "episode_ends", "action_low"])
def test_unclear_names_in_episodes_are_refused(name):
    with pytest.raises(InputError, match=f"episodes: episode 0: .*{name} is"):
        data.from_episodes([episode(2, **{name: [0, 1]})])
