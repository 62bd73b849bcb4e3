"""The single-file example: its update is IQL's, and it learns more than its log shows."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import scripts

PATH = Path(__file__).parents[2] / "experiments" / "from_scratch.py"


@pytest.fixture(scope="module")
def script():
    """The example's module."""
    with scripts.imported(PATH) as module:
        yield module


def test_it_needs_nothing_of_ddm_but_its_formulas():
    lines = [line for line in PATH.read_text().splitlines() if "import" in line and "ddm" in line]
    assert lines == ["from ddm import ops"]


def test_a_clumsy_log_becomes_a_policy_that_reaches_the_goal(script, tmp_path):
    """From an .npz file, with few steps: far less than half of the walker's distance is left."""
    random = np.random.default_rng(0)

    def clumsy(place):
        return 0.3 * np.sign(script.GOAL - place) + random.normal(0.0, 0.6, place.shape)

    np.savez(tmp_path / "log.npz", **script.walk(clumsy, random, 100))
    log = script.read_log(str(tmp_path / "log.npz"))
    params, losses = script.train(jax.random.key(0), log, 600)
    assert all(np.isfinite(values).all() for values in losses.values())

    def learned(place):
        return np.asarray(script.mean_action(params.policy, place))

    scores = {
        policy: script.walk(policy, np.random.default_rng(1), 50)["rewards"].mean()
        for policy in (clumsy, learned)
    }
    assert scores[learned] > 0.5 * scores[clumsy]
