"""The digest of a dataset: what changes it and what does not."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from ddm import data
from ddm.types import Discrete

PROGRAM = """
import numpy as np
from ddm import data
from ddm.types import Discrete
observations = np.array([[0.5], [1.5], [2.5]])
rows = (observations, [3, 4, 3], [1.0, 2, 3], [0, 0, 1])
made = data.from_arrays(*rows, action_space=Discrete(2, 3))
print(data.digest(data.normalize(made, "standardize", "times_100")))
"""


def made(name="arrays", **changes):
    fields = {
        "observations": np.array([[0.5], [1.5], [2.5]]),
        "actions": [3, 4, 3],
        "rewards": [1.0, 2, 3],
        "terminations": [0, 0, 1],
        "action_space": Discrete(2, 3),
    }
    return data.from_arrays(**(fields | changes), name=name)


def test_a_name_and_a_file_do_not_change_it(tmp_path):
    expected = data.digest(made())
    assert len(expected) == 64
    assert data.digest(made(name="other", environment_id="Env-v0")) == expected
    data.save_npz(made(), tmp_path / "x.npz")
    assert data.digest(data.load(tmp_path / "x.npz")) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"observations": np.array([[0.5], [1.5], [2.6]])},
        {"actions": [3, 3, 3]},
        {"rewards": [1.0, 2, 4]},
        {"terminations": [0, 1, 1]},
        {"action_space": Discrete(3, 3)},
        {"action_space": Discrete(3, 2)},
    ],
)
def test_every_array_and_space_changes_it(changes):
    assert data.digest(made(**changes)) != data.digest(made())


def test_transforms_change_it():
    digests = {
        data.digest(data.normalize(made(), observations, rewards))
        for observations in ("none", "standardize")
        for rewards in ("none", "times_100")
    }
    assert len(digests) == 4


def test_it_is_the_same_with_64_bits():
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    run = [sys.executable, "-c", PROGRAM]
    wide = subprocess.run(run, env=environment, capture_output=True, text=True, check=True)
    here = data.digest(data.normalize(made(), "standardize", "times_100"))
    assert wide.stdout.strip() == here
