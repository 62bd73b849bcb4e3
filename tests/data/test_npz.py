"""`.npz` round trips and refusals."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError


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
    with pytest.raises(InputError, match=r"x.npz is not a readable .npz of plain arrays"):
        data.load(tmp_path / "x.npz")


def rewrite(path, **changes):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"header": np.array("no JSON")}, "header is not that of a saved dataset"),
        ({"header": np.array('{"format": "ddm-dataset", "version": 99}')}, "ddm-dataset 99, exp"),
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
