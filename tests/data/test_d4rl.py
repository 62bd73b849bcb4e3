"""D4RL's HDF5 files on a tiny one, by hand."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from ddm import data
from ddm.data.fields import time_limit_flags
from ddm.errors import InputError


def write(path, **changes):
    """Episodes: steps 0-2 (timeout), 3-4 (terminal), 5-6 (timeout)."""
    fields = {
        "observations": np.arange(7, dtype=np.float32)[:, None],
        "actions": np.zeros((7, 1), np.float32),
        "rewards": np.ones(7, np.float32),
        "terminals": np.array([0, 0, 0, 0, 1, 0, 0], bool),
        "timeouts": np.array([0, 0, 1, 0, 0, 0, 1], bool),
    }
    with h5py.File(path, "w") as file:
        for name, array in (fields | changes).items():
            if array is not None:
                file[name] = array
        file["metadata/algorithm"] = "SAC"
    return path


def test_timeouts_rule(tmp_path):
    dataset = data.load(write(tmp_path / "hopper_medium-v2.hdf5"))
    assert dataset.num_transitions == 7 - 2  # N - number of timeouts
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 3, 4, 4, 5, 6]
    assert dataset.episode_starts.tolist() == [0, 2, 4, 5]
    assert dataset.terminations.tolist() == [0, 0, 0, 1, 0]
    assert dataset.truncations.tolist() == [0, 1, 0, 0, 1]
    assert dataset.episode_returns.tolist() == [3, 2, 2]  # of the raw episodes
    assert dataset.info.environment_id == "Hopper-v4"
    assert dataset.info.reference_scores == (-20.272305, 3234.3)


def test_stored_successors_keep_every_transition(tmp_path):
    successors = np.array([1, 2, 9, 4, 9, 6, 9], np.float32)[:, None]
    dataset = data.load(write(tmp_path / "x.hdf5", next_observations=successors))
    assert dataset.num_transitions == 7
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 9, 3, 4, 9, 5, 6, 9]
    assert dataset.info.reference_scores is None


def test_files_without_timeouts_need_the_time_limit(tmp_path):
    path = write(tmp_path / "old.hdf5", timeouts=None)
    with pytest.raises(InputError, match=r"old.hdf5: field timeouts is missing; give max_episode"):
        data.load(path)
    dataset = data.load(path, max_episode_steps=3)
    assert dataset.episode_returns.tolist() == [3, 2, 2]


def test_time_limit_restarts_after_a_terminal():
    flags = time_limit_flags(np.array([0, 0, 0, 1, 0, 0, 0]), 2)
    assert flags.tolist() == [False, True, False, True, False, True, False]


def test_missing_field_and_wrong_file_are_named(tmp_path):
    with pytest.raises(InputError, match=r"x.hdf5: field actions or action is missing"):
        data.load(write(tmp_path / "x.hdf5", actions=None))
    (tmp_path / "y.hdf5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"y.hdf5 is not a readable D4RL file"):
        data.load(tmp_path / "y.hdf5")
    with pytest.raises(InputError, match=r"z.hdf5 does not exist, expected a Minari id"):
        data.load(tmp_path / "z.hdf5")


@pytest.mark.parametrize("name", ["hopper_medium-v2", "hopper-medium-v2"])
def test_a_file_names_its_environment_with_dashes_or_without(tmp_path, name):
    info = data.load(write(tmp_path / f"{name}.hdf5")).info
    assert info.environment_id == "Hopper-v4"
    assert info.reference_scores == (-20.272305, 3234.3)


def test_a_known_task_has_its_bounds_and_other_files_a_guess(tmp_path):
    known = data.load(write(tmp_path / "hopper-medium-v2.hdf5"))
    assert known.info.environment_id == "Hopper-v4"
    assert not known.info.bounds_guessed
    assert data.load(write(tmp_path / "x.hdf5")).info.bounds_guessed


def test_robomimic_is_named(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((3, 1))
    with pytest.raises(InputError, match=r"x.hdf5 has a group data of episodes, as robomimic"):
        data.load(tmp_path / "x.hdf5")
