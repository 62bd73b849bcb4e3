"""The memory-mapped cache: found, rebuilt, and never in the way."""

from __future__ import annotations

import os

import numpy as np
import pytest

from ddm.data.cache import cache_directory, cached_arrays


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("DDM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "data"
    path.write_bytes(b"data")
    return path


class Reader:
    """Counts how often the slow way is taken."""

    def __init__(self):
        self.reads = 0

    def __call__(self):
        self.reads += 1
        return {"a": np.arange(6.0).reshape(3, 2), "b": np.array([True, False])}


def check(arrays):
    np.testing.assert_array_equal(arrays["a"], [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(arrays["b"], [True, False])


def the_folder():
    (folder,) = cache_directory().iterdir()
    return folder


def test_reads_once_and_maps_afterwards(source):
    read = Reader()
    check(cached_arrays([source], read))
    arrays = cached_arrays([source], read)
    check(arrays)
    assert read.reads == 1
    assert isinstance(arrays["a"], np.memmap)
    assert not arrays["a"].flags.writeable


def test_a_changed_file_is_read_again(source):
    read = Reader()
    cached_arrays([source], read)
    os.utime(source, ns=(0, 0))
    cached_arrays([source], read)
    assert read.reads == 2


def test_a_file_that_is_changed_within_a_folder_is_read_again(source, tmp_path):
    folder = tmp_path / "set"
    (folder / "0").mkdir(parents=True)
    file = folder / "0" / "part-0.arrow"
    file.write_bytes(b"data")
    read = Reader()
    cached_arrays([folder], read)
    cached_arrays([folder], read)
    assert read.reads == 1
    file.write_bytes(b"other data")
    cached_arrays([folder], read)
    assert read.reads == 2


def cut(folder):
    path = folder / "a.npy"
    path.write_bytes(path.read_bytes()[:-5])


def flip(folder):
    path = folder / "a.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip,
        lambda folder: (folder / "b.npy").unlink(),
        lambda folder: (folder / "a.npy").write_bytes(b""),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("[]"),
    ],
)
def test_a_damaged_copy_is_rebuilt(source, damage):
    read = Reader()
    cached_arrays([source], read)
    damage(the_folder())
    check(cached_arrays([source], read))
    assert read.reads == 2
    check(cached_arrays([source], read))
    assert read.reads == 2


def test_a_full_disk_costs_a_warning(source, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.warns(UserWarning, match="no cache was written .* No space left"):
        check(cached_arrays([source], Reader()))
    assert list(cache_directory().iterdir()) == []
