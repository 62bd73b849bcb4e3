"""`.npz` round trips and refusals."""

from __future__ import annotations

import json
import os
import stat

import h5py
import jax
import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError
from ddm.types import Discrete


def dataset():
    return data.from_arrays(
        [[0.0], [1], [2], [3]],
        [3, 4, 3, 4],
        [1.0, 2, 3, 4],
        [0, 1, 0, 0],
        [0, 0, 0, 1],
        environment_id="Env-v0",
        reference_scores=(0.0, 10.0),
    )


def test_round_trip_is_exact(tmp_path):
    given = data.normalize(dataset(), "standardize", "minus_one")
    data.save_npz(given, tmp_path / "x.npz")
    assert data.load(tmp_path / "x.npz").info.name == str(tmp_path / "x.npz")
    found = data.load(tmp_path / "x.npz", name=given.info.name)
    assert found.info == given.info
    assert jax.tree.structure(found) == jax.tree.structure(given)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    other = data.load(tmp_path / "x.npz", environment_id="Other-v0", reference_scores=(1.0, 2.0))
    assert other.info.environment_id == "Other-v0"
    assert other.info.reference_scores == (1.0, 2.0)


def test_plain_arrays_under_either_name(tmp_path):
    arrays = {"observations": [[0.0], [1]], "actions": [[0.0], [0]], "rewards": [1.0, 2]}
    np.savez(tmp_path / "a.npz", **arrays, terminations=[0, 1])
    np.savez(tmp_path / "b.npz", **arrays, terminals=[0, 1], timeouts=[0, 0])
    for name in ("a.npz", "b.npz"):
        assert data.load(tmp_path / name).terminations.tolist() == [False, True]


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "x.npz", observations=np.array([{}], object))
    with pytest.raises(InputError, match=r"x.npz: array observations holds Python objects"):
        data.load(tmp_path / "x.npz")


def rewrite(path, **changes):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"header": np.array("no JSON")}, "header is not that of a saved dataset"),
        ({"header": np.array('{"format": "ddm-dataset", "version": 99}')}, "version 99, exp"),
        ({"rewards": None}, "array rewards is missing"),
        ({"rewards": np.array([1.0, np.nan, 0])}, "rewards of episode 0, step 1 is NaN"),
        ({"rewards": np.zeros(2)}, "rewards has 2 rows, expected 3"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, changes, message):
    path = tmp_path / "x.npz"
    data.save_npz(dataset(), path)
    rewrite(path, **changes)
    with pytest.raises(InputError, match=message):
        data.load(path)


def test_half_a_file_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    data.save_npz(dataset(), path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InputError, match=r"x.npz is not a readable"):
        data.load(path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    data.save_npz(dataset(), path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(InputError, match=r"x.npz cannot be written: No space left on device"):
        data.save_npz(dataset(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="cannot be written: No such file"):
        data.save_npz(dataset(), tmp_path / "no" / "x.npz")


def test_others_may_read_what_is_saved_and_the_home_folder_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    before = os.umask(0o027)
    try:
        data.save_npz(dataset(), "~/x.npz")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x.npz").stat().st_mode) == 0o640
    assert data.load("~/x.npz", name="arrays").info == dataset().info


def test_plain_arrays_may_name_their_environment(tmp_path):
    plain = {"observations": [[0.0], [1]], "actions": [[0.0], [0]], "rewards": [1.0, 2]}
    plain |= {"terminations": [0, 1], "environment_id": "Env-v0", "reference_scores": [1.0, 5.0]}
    np.savez(tmp_path / "x.npz", **plain)
    info = data.load(tmp_path / "x.npz").info
    assert info.environment_id == "Env-v0"
    assert (info.reference_scores, info.reference_source) == (
        (1.0, 5.0),
        "the data's reference_scores",
    )
    given = data.load(tmp_path / "x.npz", environment_id="Other-v0", reference_scores=(0.0, 1.0))
    assert given.info.environment_id == "Other-v0"
    assert given.info.reference_scores == (0.0, 1.0)
    assert given.info.reference_source != "the data's reference_scores"


def as_version_1(path):
    """The file as the first version wrote it: no recorded lengths, no start of integers."""
    with np.load(path) as file:
        header = json.loads(str(file["header"]))
    header["version"] = 1
    for field in ("moved_actions", "bounds_guessed", "has_rewards", "notes"):
        del header["info"][field]
    header["info"]["action_space"] = {"n": 2, "type": "Discrete"}
    rewrite(path, recorded_lengths=None, header=np.array(json.dumps(header)))


def test_files_of_version_1_are_read_as_they_were_meant(tmp_path):
    # Episode 0 is terminal; the last step of episode 1 was dropped.
    given = data.from_arrays(
        [[0.0], [1], [2], [3]],
        [3, 4, 3, 4],
        [1.0, 2, 3, 4],
        [0, 1, 0, 0],
        [0, 0, 0, 1],
        action_space=Discrete(2, 3),
    )
    path = tmp_path / "x.npz"
    data.save_npz(given, path)
    as_version_1(path)
    found = data.load(path)
    assert found.info.action_space == Discrete(2, 3)
    assert found.recorded_lengths.tolist() == given.recorded_lengths.tolist() == [2, 2]
    shifted = data.normalize(found, rewards="minus_one")
    assert shifted.returns_to_go.tolist() == [1, 1, 5]


PLAIN = {"observations": np.zeros((1000, 1000)), "actions": np.zeros((1000, 1))}


def forbidden(*args, **kwargs):
    raise AssertionError("read before its size was checked")


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "x.npz", **PLAIN, terminations=np.zeros(1000, bool))
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, array in {**PLAIN, "terminals": np.zeros(1000, bool)}.items():
            file[name] = array
    monkeypatch.setattr("ddm.data.memory.free_host_bytes", lambda: 2**20)
    monkeypatch.setattr(np.lib.format, "read_array", forbidden)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", forbidden)
    for name in ("x.npz", "x.hdf5"):
        with pytest.raises(InputError, match=r"x\..* holds arrays of 7.6 MiB and the host has 1.0"):
            data.load(tmp_path / name)


def test_memory_that_runs_out_while_reading_is_said(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", **PLAIN, terminations=np.zeros(1000, bool))

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(np.lib.format, "read_array", fail)
    with pytest.raises(InputError, match=r"x.npz does not fit the host's memory: use a machine"):
        data.load(tmp_path / "x.npz")
