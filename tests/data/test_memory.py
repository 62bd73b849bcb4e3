"""Refusal of what does not fit."""

from __future__ import annotations

import subprocess
import sys

import jax
import numpy as np
import pytest

from ddm import data
from ddm.data import memory
from ddm.errors import InputError


class Accelerator:
    def memory_stats(self):
        return {"bytes_limit": 3 * 2**30, "bytes_in_use": 2**30}

    def __str__(self):
        return "gpu:0"


def test_both_sizes_are_named():
    data.check_fits(2 * 2**30, Accelerator())
    with pytest.raises(InputError, match=r"the set needs 2.50 GiB and gpu:0 has 2.00 GiB free"):
        data.check_fits(5 * 2**29, Accelerator(), name="the set")


def test_host_memory_counts_for_the_cpu():
    device = jax.devices("cpu")[0]
    data.check_fits(1, device)
    with pytest.raises(InputError, match="GiB free"):
        data.check_fits(2**60, device)


def test_loading_checks(monkeypatch):
    monkeypatch.setattr("ddm.data.memory.free_bytes", lambda device: 10)
    with pytest.raises(InputError, match=r"arrays needs 0.0 MiB and .* has 0.0 MiB free"):
        data.from_arrays([[0.0]], [[0.0]], [1.0], [1])


def test_limits_of_the_process_and_of_its_container_count(tmp_path, monkeypatch):
    for name, text in {
        "memory.max": f"{3 * 2**30}\n",
        "memory.current": f"{2 * 2**30}\n",
        "memory.stat": f"anon 5\ninactive_file {2**29}\n",
    }.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("ddm.data.memory.CGROUP", tmp_path)
    monkeypatch.setattr("ddm.data.memory._free_system_bytes", lambda: 2**60)
    assert memory.free_host_bytes() == 2**30 + 2**29  # pages of files are given up
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_host_bytes() == 2**60


def test_ulimit_gives_a_sentence(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", observations=np.zeros((2**18, 64)), actions=[0.0])
    program = f"""
import resource
from ddm import data
from ddm.data import memory
used = int(memory.STATM.read_text().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, resource.RLIM_INFINITY))
data.load({str(tmp_path / "x.npz")!r})
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "InputError" in run.stderr
    assert "x.npz holds arrays of 128.0 MiB and the host has" in run.stderr
