"""Named transforms against hand-computed numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError


def small_dataset():
    """Observations (0, 5), (2, 5) | (4, 5), returns 3 and 7, the last observation far away."""
    return data.from_episodes(
        [
            {
                "observations": [[0.0, 5], [2, 5], [100, 5]],
                "actions": [[0.0], [0.5]],
                "rewards": [1.0, 2],
                "terminations": True,
            },
            {
                "observations": [[4.0, 5], [100, 5]],
                "actions": [[-0.5]],
                "rewards": [7.0],
                "truncations": True,
            },
        ]
    )


def test_standardize_uses_observations_with_an_action_and_keeps_constants_finite():
    dataset = data.normalize(small_dataset(), observations="standardize")
    mean, std = 2.0, np.sqrt(8 / 3) + 1e-3
    np.testing.assert_allclose(dataset.normalization.observation_mean, [2, 5])
    np.testing.assert_allclose(dataset.normalization.observation_std, [std, 1e-3], rtol=1e-6)
    expected = (np.array([0, 2, 100, 4, 100]) - mean) / std
    np.testing.assert_allclose(dataset.observations[:, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(dataset.observations[:, 1], 0)
    raw = jnp.array([4.0, 5.0])
    mapped = dataset.normalization.normalize_observations(raw)
    np.testing.assert_allclose(mapped, dataset.observations[3])
    np.testing.assert_allclose(
        dataset.normalization.denormalize_observations(mapped), raw, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1, 2, 7]),
        ("iql_locomotion", [250, 500, 1750]),  # 1000 / (7 - 3)
        ("minus_one", [0, 1, 6]),
        ("antmaze_iql", [0, 1, 6]),
        ("antmaze_cql", [2, 6, 26]),
        ("antmaze_calql", [5, 15, 65]),
        ("times_100", [100, 200, 700]),
        ("standardize", (np.array([1, 2, 7]) - 10 / 3) / np.std([1, 2, 7])),
    ],
)
def test_reward_transforms(name, expected):
    dataset = data.normalize(small_dataset(), rewards=name)
    np.testing.assert_allclose(dataset.rewards, expected, rtol=1e-5)
    to_go = [expected[0] + expected[1], expected[1], expected[2]]
    np.testing.assert_allclose(dataset.returns_to_go, to_go, rtol=1e-5, atol=1e-5)
    assert dataset.episode_returns.tolist() == [3, 7]  # raw, whatever the transform
    back = dataset.normalization.denormalize_rewards(dataset.rewards)
    np.testing.assert_allclose(back, [1, 2, 7], rtol=1e-5)


def test_every_transform_is_tested():
    tested = {"none", "iql_locomotion", "minus_one", "antmaze_iql", "antmaze_cql"}
    tested |= {"antmaze_calql", "times_100", "standardize"}
    assert set(data.REWARD_TRANSFORMS) == tested
    assert set(data.OBSERVATION_TRANSFORMS) == {"none", "standardize"}


def test_wrong_uses_are_refused_by_name():
    dataset = small_dataset()
    with pytest.raises(InputError, match="unknown reward transform 'x'; known: none, iql_locomo"):
        data.normalize(dataset, rewards="x")
    with pytest.raises(InputError, match="unknown observation transform 'x'; known: none, stand"):
        data.normalize(dataset, observations="x")
    with pytest.raises(InputError, match="rewards are already transformed"):
        data.normalize(data.normalize(dataset, rewards="times_100"), rewards="minus_one")
    with pytest.raises(InputError, match="observations are already transformed"):
        data.normalize(data.normalize(dataset, "standardize"), "standardize")


def test_equal_returns_have_no_locomotion_scale():
    one = data.from_arrays([[0.0]], [[0.0]], [1.0], [1])
    with pytest.raises(InputError, match="all 1 episodes have the same return"):
        data.normalize(one, rewards="iql_locomotion")
    assert data.normalize(one, rewards="standardize").rewards.tolist() == [0]


def test_images_are_not_standardized():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    one = {"observations": images, "actions": [[0.0]], "rewards": [0.0], "terminations": True}
    with pytest.raises(InputError, match="observations are bytes of shape"):
        data.normalize(data.from_episodes([one]), "standardize")


def test_normalization_is_a_pytree_of_arrays():
    normalization = data.normalize(small_dataset(), "standardize").normalization
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(normalization))
    doubled = jax.tree.map(lambda x: 2 * x, normalization)
    np.testing.assert_allclose(doubled.observation_mean, [4, 10])
