"""The report, on a dataset with every anomaly built in."""

from __future__ import annotations

import numpy as np

from ddm import data


def walk(steps, jump=0.0, seed=0):
    rng = np.random.default_rng(seed)
    observations = np.stack([np.cumsum(rng.normal(size=steps + 1)), np.full(steps + 1, 3.0)], 1)
    observations[steps // 2 :, 0] += jump
    return {
        "observations": observations,
        "actions": np.full((steps, 1), 0.5),
        "rewards": np.ones(steps),
        "terminations": False,
    }


def odd_dataset():
    last = walk(600, jump=1000.0, seed=2) | {"terminations": True}
    last["actions"] = last["actions"] * 0 + np.eye(600, 1)  # one action on the edge
    episodes = [walk(400), walk(200, seed=1) | {"truncations": True}, walk(400), last]
    return data.from_episodes(episodes, name="odd", reference_scores=(0.0, 200.0))


def test_every_anomaly_is_counted():
    found = data.describe(odd_dataset())
    assert (found.transitions, found.episodes) == (1600, 4)
    assert found.lengths == (200, 400, 600)
    assert found.return_quantiles == (200, 350, 400, 450, 600)
    assert found.score_quantiles == (100, 175, 200, 225, 300)
    assert (found.terminations, found.truncations, found.data_cuts) == (1, 3, 2)
    assert found.constant_dimensions == (1,)
    assert found.duplicated_episodes == 1
    assert (found.discontinuities, found.first_discontinuity) == (1, (3, 299))
    assert (found.clipped_actions, found.moved_actions) == (1, 0)
    assert found.bounds_guessed
    np.testing.assert_allclose(found.action_range, (0, 1), atol=2e-5)


def test_transforms_do_not_change_the_returns():
    found = data.describe(data.normalize(odd_dataset(), "standardize", "times_100"))
    assert found.return_quantiles == (200, 350, 400, 450, 600)
    assert found.discontinuities == 1
    assert found.constant_dimensions == (1,)


def test_report_is_readable():
    report = str(data.describe(odd_dataset()))
    for text in (
        "1600 in 4 episodes",
        "200 to 600, median 400",
        "1 terminated (25.0 %), 3 truncated (75.0 %), 2 of these by the end of the data",
        "constant in dimension 1",
        "1 (0.1 %) on the edge of the box, clipped, the box is a guess",
        "note             nothing in the data bounds the actions",
        "the first in episode 3, step 299",
        "0 = 0, 100 = 200",
        "none: a policy trained on it has no score",
    ):
        assert text in report
    assert max(map(len, report.splitlines())) < 120


def test_without_references_the_returns_are_labelled_raw():
    one = data.from_arrays([[0.0]], [0], [1.0], [1])
    assert "raw returns only (no reference scores)" in str(data.describe(one))
    named = data.from_arrays([[0.0]], [0], [1.0], [1], name="D4RL/antmaze/umaze-v1")
    assert "raw returns only: Minari's antmaze goes on" in str(data.describe(named))


def test_images_are_described():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    one = {"observations": images, "actions": [0], "rewards": [0.0], "terminations": True}
    assert "4x4x3" in str(data.describe(data.from_episodes([one])))
