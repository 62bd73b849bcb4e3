"""What the tests of the runner share: a tiny algorithm, a tiny dataset, a tiny environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Subprocesses of these tests import the tiny algorithm too.
HERE = str(Path(__file__).parent)
if HERE not in sys.path:
    sys.path.insert(0, HERE)

import linear_regression  # noqa: E402
import tiny  # noqa: E402

from ddm.runner import train  # noqa: E402


@pytest.fixture(scope="session")
def dataset():
    return tiny.make_dataset()


@pytest.fixture(scope="session")
def run(dataset):
    """A function that trains the tiny algorithm quietly."""

    def run(folder, *, config=None, environment=None, **options):
        return train(
            linear_regression,
            config or linear_regression.Config(),
            dataset,
            environment,
            tiny.make_options(folder, **options),
        )

    return run
