"""Refusal of what does not fit."""

from __future__ import annotations

import jax
import pytest

from ddm import data
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
