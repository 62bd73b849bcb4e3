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
    np.testing.assert_allclose(dataset.normalization.observation_std, [std, 1], rtol=1e-6)
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
        ("return_range", [0.25, 0.5, 1.75]),  # 1 / (7 - 3)
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
    tested |= {"antmaze_calql", "times_100", "standardize", "return_range"}
    assert set(data.REWARD_TRANSFORMS) == tested
    assert set(data.OBSERVATION_TRANSFORMS) == {"none", "standardize"}


def test_wrong_uses_are_refused_by_name():
    dataset = small_dataset()
    with pytest.raises(InputError, match="unknown reward transform 'x'; known: none, return_range"):
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
    with pytest.raises(InputError, match="'return_range' divides by the spread"):
        data.normalize(one, rewards="return_range")


def test_equal_rewards_are_not_turned_into_zeros():
    ones = data.from_arrays(np.zeros((3, 1)), [0, 1, 0], np.ones(3), [0, 0, 1])
    with pytest.raises(InputError, match=r"all rewards are 1, and .* would turn them into zeros"):
        data.normalize(ones, rewards="standardize")


def test_reward_scale_comes_after_the_transform():
    dataset = data.normalize(small_dataset(), rewards="minus_one", reward_scale=0.5)
    np.testing.assert_allclose(dataset.rewards, [0, 0.5, 3])
    np.testing.assert_allclose(dataset.returns_to_go, [0.5, 0.5, 3])
    alone = data.normalize(small_dataset(), reward_scale=0.05)
    np.testing.assert_allclose(alone.rewards, [0.05, 0.1, 0.35])
    np.testing.assert_allclose(alone.normalization.denormalize_rewards(alone.rewards), [1, 2, 7])
    for scale in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match=r"reward_scale is .*, expected a positive number"):
            data.normalize(small_dataset(), reward_scale=scale)


def test_a_shift_counts_for_the_step_that_was_dropped():
    # Rewards 1, 2 | 4, 8, 16; the last step of the second episode has no known successor.
    log = data.from_arrays(
        np.arange(5.0)[:, None],
        np.zeros((5, 1)),
        [1.0, 2, 4, 8, 16],
        [0, 1, 0, 0, 0],
        [0, 0, 0, 0, 1],
    )
    assert log.recorded_lengths.tolist() == [2, 3]
    shifted = data.normalize(log, rewards="minus_one")
    assert shifted.rewards.tolist() == [0, 1, 3, 7]
    assert shifted.returns_to_go.tolist() == [1, 1, 3 + 7 + 15, 7 + 15]


def waking(spread, steps=200):
    """Dimensions of spread 1, `spread` and 0; the second ones vary around 0.5."""
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(steps, 4)) * [1, 1, spread, 0] + [0, 0, 0.5, 0]
    return data.from_arrays(observations, np.zeros((steps, 1)), None, np.arange(steps) == steps - 1)


def test_a_dimension_that_wakes_up_is_not_multiplied():
    dataset = data.normalize(waking(1.0), observations="standardize")
    woken = dataset.normalization.normalize_observations(jnp.array([0.0, 0, 0.5, 1.0]))
    assert float(woken[3]) == 1.0
    assert any("scale of observation dimension 3, constant" in note for note in dataset.info.notes)


def test_a_nearly_constant_dimension_is_floored_relative_to_the_others():
    dataset = data.normalize(waking(1e-6), observations="standardize")
    std = np.asarray(dataset.normalization.observation_std)
    # A hundredth of the others' spread of 1, and TD3+BC's 1e-3 beside it.
    np.testing.assert_allclose(std, [1, 1, 0.011, 1], rtol=0.1)
    assert any("divides observation dimension 2, nearly" in note for note in dataset.info.notes)
    found = data.describe(waking(1e-6))
    assert (found.constant_dimensions, found.nearly_constant_dimensions) == ((3,), (2,))
    assert data.describe(dataset).nearly_constant_dimensions == (2,)
    assert "constant in dimension 3, nearly constant in dimension 2" in str(found)


def test_the_floor_leaves_dimensions_of_other_units_alone():
    dataset = waking(0.05)  # a twentieth of the others
    std = np.asarray(data.normalize(dataset, "standardize").normalization.observation_std)
    np.testing.assert_allclose(std[2], 0.051, rtol=0.1)
    assert data.describe(dataset).nearly_constant_dimensions == ()


def test_images_are_not_standardized():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    one = {"observations": images, "actions": [[0.0]], "rewards": [0.0], "terminations": True}
    with pytest.raises(InputError, match="observations are bytes of shape"):
        data.normalize(data.from_episodes([one]), "standardize")


def test_actions_are_mapped_by_centre_and_half_width_and_back():
    statistics = data.identity_normalization(
        (2,), action_center=np.array([1.0, -2.0]), action_scale=np.array([2.0, 0.5])
    )
    raw, mapped = jnp.array([[3.0, -2.25]]), [[1.0, -0.5]]
    np.testing.assert_allclose(statistics.normalize_actions(raw), mapped)
    np.testing.assert_allclose(statistics.denormalize_actions(jnp.array(mapped)), raw)


def test_normalization_is_a_pytree_of_arrays():
    normalization = data.normalize(small_dataset(), "standardize").normalization
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(normalization))
    doubled = jax.tree.map(lambda x: 2 * x, normalization)
    np.testing.assert_allclose(doubled.observation_mean, [4, 10])


def test_auto_standardises_real_vectors_and_leaves_states_and_images():
    real, states = np.linspace(-5.0, 5.0, 12).reshape(6, 2), np.eye(6)
    images = np.zeros((6, 4, 4, 3), np.uint8)
    flags = {"rewards": np.ones(5), "actions": np.zeros((5, 1))}
    for rows, is_standardised in ((real, True), (states, False), (images, False)):
        log = data.from_episodes([{"observations": rows, **flags}], action_space=(-1.0, 1.0))
        chosen = data.normalize(log, observations="auto")
        plain = data.normalize(log, observations="standardize") if is_standardised else log
        np.testing.assert_array_equal(chosen.observations, plain.observations)
        assert any("standardised" in note for note in chosen.info.notes) == is_standardised
