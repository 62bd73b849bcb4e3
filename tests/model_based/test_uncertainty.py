"""The four uncertainties against loops over members."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ddm.model_based.parts.uncertainty import UNCERTAINTIES

RANDOM = np.random.default_rng(0)
MEANS = RANDOM.normal(size=(4, 5, 3)).astype(np.float32)
STDS = RANDOM.uniform(0.1, 2.0, (4, 5, 3)).astype(np.float32)


def by_hand(name, means, stds):
    """One row: (E, 1 + O) means and standard deviations, the reward first."""
    observations = means[:, 1:]
    if name == "max_std":
        return max(np.sqrt(np.sum(std**2)) for std in stds)
    if name == "max_disagreement":
        pairs = itertools.combinations(observations, 2)
        return max(np.sqrt(np.sum((one - other) ** 2)) for one, other in pairs)
    middle = sum(observations) / len(observations)
    if name == "max_deviation":
        return max(np.sqrt(np.sum((one - middle) ** 2)) for one in observations)
    variance = sum((one - middle) ** 2 for one in observations) / len(observations)
    return np.sqrt(np.sum(variance))


@pytest.mark.parametrize("name", UNCERTAINTIES)
def test_an_uncertainty_is_what_a_loop_over_members_says(name):
    found = UNCERTAINTIES[name](MEANS, STDS)
    expected = [by_hand(name, MEANS[:, row], STDS[:, row]) for row in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["max_disagreement", "max_deviation", "std_of_means"])
def test_members_that_agree_on_the_next_state_are_sure(name):
    means = np.repeat(MEANS[:1], 4, axis=0)
    means[:, :, 0] = MEANS[:, :, 0]  # of the reward they may think what they like
    np.testing.assert_allclose(UNCERTAINTIES[name](means, STDS), np.zeros(5), atol=1e-6)


def test_the_rewards_deviation_counts_in_the_largest_one():
    stds = np.zeros((2, 1, 3), np.float32)
    stds[1, 0, 0] = 3.0
    np.testing.assert_allclose(UNCERTAINTIES["max_std"](stds, stds), [3.0])


def test_one_member_disagrees_with_nobody():
    np.testing.assert_array_equal(UNCERTAINTIES["max_disagreement"](MEANS[:1], STDS[:1]), [0] * 5)
