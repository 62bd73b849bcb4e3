"""Names and flags of logs: what each means, and what is asked instead of guessed."""

from __future__ import annotations

import h5py
import jax
import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError
from ddm.runner import Options, load_dataset
from ddm.types import BatchSpec


def log(**changes):
    """Five steps, observations 0 .. 4, rewards 1, 2, 4, 8, 16; fields that are None are absent."""
    fields = {
        "observations": np.arange(5.0)[:, None],
        "actions": np.zeros((5, 1)),
        "rewards": np.array([1.0, 2, 4, 8, 16]),
        "terminations": np.array([0, 1, 0, 0, 0]),
        "truncations": np.array([0, 0, 0, 0, 1]),
    }
    return {name: value for name, value in (fields | changes).items() if value is not None}


def write_all(tmp_path, fields):
    np.savez(tmp_path / "x.npz", **fields)
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, value in fields.items():
            file[name] = value
    return fields, tmp_path / "x.npz", tmp_path / "x.hdf5"


STARTS = [0, 2, 4]  # of the log above: the truncated last step is dropped


@pytest.mark.parametrize(
    "renamed",
    [
        {"truncations": "truncated", "terminations": "terminated"},
        {"truncations": "truncateds", "terminations": "terminateds"},
        {"truncations": "timeouts", "terminations": "terminals"},
        {"truncations": "timeout", "terminations": "terminal"},
        {"observations": "obs", "actions": "action", "rewards": "reward"},
        {"observations": "states"},
    ],
)
def test_synonyms_mean_the_same_in_every_source(tmp_path, renamed):
    fields = {renamed.get(name, name): value for name, value in log().items()}
    for source in write_all(tmp_path, fields):
        dataset = data.load(source)
        assert dataset.episode_starts.tolist() == STARTS
        assert dataset.terminations.tolist() == [False, True, False, False]
        assert dataset.episode_returns.tolist() == [3, 28]


@pytest.mark.parametrize(
    "ends",
    [
        {"episode_ends": [0, 1, 0, 0, 1]},
        {"episode_ends": [2, 5]},  # one past each last step
        {"ends": np.array([False, True, False, False, True])},
        {"episode_lengths": [2, 3]},
    ],
)
def test_episodes_can_be_bounded_apart_from_terminations(ends):
    dataset = data.load(log(truncations=None, **ends))
    assert dataset.episode_starts.tolist() == STARTS
    assert dataset.truncations.tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_last": np.zeros(5)}, "field is_last is unknown; rename it to one of observations, "),
        ({"timeouts": np.zeros(5)}, "ti.* and t.* are two names of truncations; keep one"),
        ({"truncations": None, "dones": np.ones(5)}, "dones is ambiguous: give terminations"),
        ({"terminations": None, "done": np.ones(5)}, "done is ambiguous: give terminations"),
        ({"dones": np.ones(5)}, "dones is set at row 0, where terminations and truncations are"),
        ({"terminations": None, "truncations": None}, "nothing says where episodes end"),
        ({"masks": np.ones(5)}, "masks is not 1 - terminations; keep one"),
        (
            {"terminations": None, "truncations": None, "masks": np.ones(5)},
            "masks say where bootstraps stop and not where episodes end; give episode_ends",
        ),
        ({"episode_lengths": [2, 2]}, "episode_lengths is 4 steps in all, .* sum to the 5 steps"),
        ({"episode_ends": [2, 4]}, "episode_ends is neither one flag for each of the 5 steps nor"),
        (
            {"truncations": [0, 1, 0, 0, 1], "episode_ends": [3, 5]},
            "truncations is set at row 1, where episode_ends is not",
        ),
        (
            {"terminations": None, "truncations": None, "terminals": [0, 1, 0, 0, 0]},
            "field timeouts is missing; give max_episode_steps",
        ),
    ],
)
def test_what_is_ambiguous_or_unknown_is_refused_in_every_source(tmp_path, changes, message):
    for source in write_all(tmp_path, log(**changes)):
        with pytest.raises(InputError, match=message):
            data.load(source)


def test_a_redundant_done_and_known_extras_are_let_through():
    extras = {"dones": [0, 1, 0, 0, 1], "infos/qpos": np.zeros((5, 9)), "qpos": np.zeros((5, 9))}
    dataset = data.load(log(**extras))
    assert dataset.episode_starts.tolist() == STARTS
    assert "qpos of the data is not used" in dataset.info.notes


def test_the_time_limit_stands_in_for_timeouts_in_every_source(tmp_path):
    # Rows 0-2 are cut after three steps; row 3 is terminal; row 4 is the last one of the data.
    fields = log(terminations=None, truncations=None, terminals=[0, 0, 0, 1, 0])
    for source in write_all(tmp_path, fields):
        dataset = data.load(source, max_episode_steps=3)
        assert dataset.episode_returns.tolist() == [7, 8]
        assert dataset.recorded_lengths.tolist() == [3, 1]


def test_our_own_terminations_may_stand_alone():
    dataset = data.load(log(truncations=None))
    assert dataset.episode_starts.tolist() == STARTS
    assert dataset.info.data_cuts == 1


# --- Bootstraps that stop inside an episode ---


def tasks():
    """OGBench's layout: `terminals` end episodes (rows 2 and 4), `masks` stop a value (row 1)."""
    return log(
        terminations=None,
        truncations=None,
        terminals=np.array([0.0, 0, 1, 0, 1]),
        masks=np.array([1.0, 0, 1, 1, 1]),
        next_observations=np.array([[1.0], [2], [9], [4], [7]]),
    )


def test_masks_stop_bootstraps_and_not_episodes():
    dataset = data.load(tasks())
    assert dataset.episode_starts.tolist() == [0, 3, 5]
    assert dataset.terminations.tolist() == [False, True, False, False, False]
    assert dataset.truncations.tolist() == [False, False, True, False, True]
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 9, 3, 4, 7]
    assert dataset.returns_to_go.tolist() == [7, 6, 4, 24, 16]
    assert dataset.episode_returns.tolist() == [7, 24]
    assert dataset.next_action_ids.tolist() == [0, 1, 3]  # the ends are truncated
    assert dataset.num_inner_stops == 1


def test_windows_go_on_where_only_a_bootstrap_stops():
    dataset = data.load(tasks())
    spec = BatchSpec(("observations", "terminations", "mask"), window=3)
    batch = data.sample(dataset, jax.random.key(0), 64, spec)
    first = np.asarray(batch.observations)[:, 0, 0] == 0
    assert first.any()
    windows = np.asarray(batch.observations)[first, :, 0]
    np.testing.assert_array_equal(windows, np.tile([0, 1, 2], (first.sum(), 1)))
    assert np.asarray(batch.mask)[first].all()
    stops = np.asarray(batch.terminations)[first]
    np.testing.assert_array_equal(stops, np.tile([False, True, False], (first.sum(), 1)))


def test_describe_counts_episodes_and_stops_apart():
    found = data.describe(data.load(tasks()))
    assert (found.terminations, found.truncations, found.inner_stops) == (0, 2, 1)
    report = " ".join(str(found).split())
    assert "0 terminated (0.0 %), 2 truncated (100.0 %); 1 bootstraps stop before" in report


def test_an_end_can_stop_the_bootstrap_too():
    fields = tasks() | {"masks": np.array([1.0, 0, 0, 1, 1])}
    dataset = data.load(fields)
    assert dataset.terminations.tolist() == [False, True, True, False, False]
    assert dataset.truncations.tolist() == [False, False, False, False, True]
    assert dataset.next_action_ids.tolist() == [0, 1, 2, 3]


def test_a_stop_inside_survives_without_successors_and_through_files(tmp_path):
    fields = tasks()
    del fields["next_observations"]
    dataset = data.load(fields)  # rows 2 and 4 are dropped: what follows them is unknown
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert dataset.terminations.tolist() == [False, True, False]
    dataset = data.load(tasks())
    data.save_npz(dataset, tmp_path / "x.npz")
    for again in (data.load(tmp_path / "x.npz"), data.from_episodes(data.to_episodes(dataset))):
        assert again.terminations.tolist() == dataset.terminations.tolist()
        assert again.episode_starts.tolist() == dataset.episode_starts.tolist()
        assert again.num_inner_stops == 1


def test_masks_that_repeat_the_terminations_add_nothing():
    dataset = data.load(log(masks=[1, 0, 1, 1, 1]))
    assert dataset.episode_starts.tolist() == STARTS


def test_the_flags_of_the_data_reach_the_loader(tmp_path):
    path = tmp_path / "x.npz"
    arrays = {"observations": np.zeros((4, 1)), "actions": [[3.0], [-1.0], [0.5], [0.0]]}
    np.savez(path, **arrays, rewards=np.ones(4), terminals=np.zeros(4))
    flags = {"dataset": str(path), "action_low": (-2.0,), "action_high": (2.0,)}
    flags |= {"clip_actions": True, "max_episode_steps": 4, "reward_scale": 0.5}
    dataset = load_dataset(Options(**flags))
    assert dataset.info.moved_actions == 1
    assert dataset.recorded_lengths.tolist() == [4]
    assert dataset.returns_to_go.tolist() == [2, 1.5, 1]
    np.testing.assert_allclose(dataset.actions[:, 0], [1, -0.5, 0.25], atol=2e-5)
    with pytest.raises(InputError, match="--action_low needs --action_high"):
        load_dataset(Options(**(flags | {"action_high": ()})))
