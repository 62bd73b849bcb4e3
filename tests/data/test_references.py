"""Reference scores against the published table."""

from __future__ import annotations

import numpy as np
import pytest

from ddm import data
from ddm.data.references import REFERENCES, find_reference, why_incomparable
from ddm.errors import InputError


@pytest.mark.parametrize(
    ("name", "mean_return", "score", "tolerance"),
    [
        ("halfcheetah-medium-v2", 5927.410523, 50.0, 1e-3),
        ("hopper-medium-replay-v0", 1607.013847, 50.0, 1e-3),
        ("pen-human-v1", 1586.548, 50.0, 1e-3),
        ("kitchen-mixed-v0", 2, 50.0, 0),
        ("antmaze-large-play-v2", 0.8, 80.0, 1e-9),
        ("hammer-cloned-v1", -314.0, -0.3, 1e-2),
        ("walker2d-expert-v2", 4592.3, 100.0, 0),
        ("maze2d-umaze-v1", 23.85, 0.0, 0),
    ],
)
def test_published_scores(name, mean_return, score, tolerance):
    found = data.normalized_score(mean_return, data.reference_scores(name))
    np.testing.assert_allclose(found, score, atol=tolerance)


def test_scores_of_many_returns():
    scores = data.normalized_score(np.array([[0.0, 4], [8, -4]]), (0.0, 4.0))
    np.testing.assert_array_equal(scores, [[0, 100], [200, -100]])
    with pytest.raises(InputError, match=r"both 1.0"):
        data.normalized_score(1.0, (1.0, 1.0))


def test_every_suite_is_in_the_table():
    # 4 locomotion suites of 6, 4 Adroit of 3, 6 AntMaze, 3 Kitchen, 8 maze2d, 2 MiniGrid, 2 CARLA,
    # 4 Flow, and PyBullet's 4 of 5 and 4 mazes.
    assert len(REFERENCES) == 24 + 12 + 6 + 3 + 8 + 2 + 2 + 4 + 20 + 4
    for name in ("ant-full-replay", "minigrid-fourrooms", "minigrid-fourrooms-random"):
        assert name in REFERENCES
    for name in ("carla-town", "flow-ring-controller", "bullet-maze2d-open", "maze2d-open-dense"):
        assert name in REFERENCES
    assert all(low < high for low, high in REFERENCES.values())


def test_file_names_and_minari_ids():
    assert data.reference_scores("hopper_medium_expert-v2") == (-20.272305, 3234.3)
    assert data.reference_scores("D4RL/door/human-v2") == data.reference_scores("door-human-v1")
    assert find_reference("D4RL/pen/human-v2").note is not None


def test_what_is_on_another_scale_has_none_and_says_why():
    for name in ("D4RL/antmaze/umaze-v1", "D4RL/kitchen/mixed-v2", "mujoco/hopper/medium-v0"):
        assert data.reference_scores(name) is None
        assert why_incomparable(name)
    assert data.reference_scores("own-data-v0") is None
    assert why_incomparable("own-data-v0") is None
