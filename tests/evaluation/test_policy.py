from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_fakes import Constant, Echo, Hesitate

from ddm.data import identity_normalization
from ddm.errors import InputError
from ddm.evaluation import Policy
from ddm.evaluation.policy import check_spaces
from ddm.types import Box, Discrete

KEY = jax.random.key(0)


def _box(size):
    return Box(shape=(size,), low=(-1.0,) * size, high=(1.0,) * size)


def test_raw_observation_in_raw_action_out():
    statistics = identity_normalization(
        (2,), action_center=np.array([10.0]), action_scale=np.array([4.0])
    ).replace(observation_mean=jnp.array([1.0, 2.0]), observation_std=jnp.array([2.0, 4.0]))
    policy = Policy(Echo, {}, {"gain": 0.5}, statistics)
    # ((2 - 1) / 2 + (4 - 2) / 4) * 0.5 = 0.5, and 10 + 4 * 0.5 = 12.
    action, policy_state = policy(jnp.array([2.0, 4.0]), KEY)
    np.testing.assert_allclose(action, [12.0])
    assert policy_state == ()
    # An answer of 50 is cut to 1 and thus to the box's edge.
    action, _ = policy(jnp.array([101.0, 202.0]), KEY)
    np.testing.assert_allclose(action, [14.0])


def test_index_actions_are_not_clipped_but_shifted_to_their_start():
    statistics = identity_normalization((1,), action_center=np.array(2))
    policy = Policy(Constant, {}, {"action": jnp.int32(3)}, statistics)
    action, _ = policy(jnp.zeros(1), KEY)
    assert action == 5
    assert action.dtype == jnp.int32


def test_without_normalization_nothing_is_mapped():
    action, _ = Policy(Echo, {}, {"gain": 3.0})(jnp.array([2.0]), KEY)
    np.testing.assert_allclose(action, [6.0])


def test_initial_state_is_the_algorithms_or_empty():
    assert Policy(Echo, {}, {"gain": 1.0}).initial_state() == ()
    policy = Policy(Hesitate, {}, {"wait": 1})
    first, policy_state = policy(jnp.zeros(1), KEY, policy.initial_state())
    second, _ = policy(jnp.zeros(1), KEY, policy_state)
    np.testing.assert_array_equal([first[0], second[0]], [0.0, 1.0])


def test_is_an_argument_of_jitted_functions():
    @jax.jit
    def act(policy):
        return policy(jnp.array([2.0]), KEY)[0]

    np.testing.assert_allclose(act(Policy(Echo, {}, {"gain": 3.0})), [6.0])
    np.testing.assert_allclose(act(Policy(Echo, {}, {"gain": 4.0})), [8.0])
    assert act._cache_size() == 1


@pytest.mark.parametrize(
    ("observation_space", "action_space", "message"),
    [
        (_box(5), _box(1), r"Maze: observations have shape \(5,\), the policy .* on \(2,\)"),
        (_box(2), _box(3), r"Maze: actions have shape \(3,\), the policy .* on \(1,\)"),
        (_box(2), Discrete(4), "Maze: actions are indices, the policy was trained on vectors"),
    ],
)
def test_other_spaces_are_refused_by_name(observation_space, action_space, message):
    statistics = identity_normalization((2,), action_center=np.zeros(1), action_scale=np.ones(1))
    policy = Policy(Echo, {}, {"gain": 1.0}, statistics)
    check_spaces(policy, "Maze", _box(2), _box(1))
    with pytest.raises(InputError, match=message):
        check_spaces(policy, "Maze", observation_space, action_space)


def test_an_index_policy_is_refused_where_actions_are_vectors():
    policy = Policy(Constant, {}, {"action": 0}, identity_normalization((2,)))
    check_spaces(policy, "Maze", _box(2), Discrete(4))
    with pytest.raises(InputError, match="actions are vectors"):
        check_spaces(policy, "Maze", _box(2), _box(1))
