from __future__ import annotations

import copy
import dataclasses
import importlib
import pickle
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_fakes import Constant, Echo, Hesitate
from flax import struct

from ddm import envs, evaluation
from ddm.data import identity_normalization
from ddm.errors import InputError
from ddm.evaluation import Policy
from ddm.evaluation.policy import check_spaces, num_lanes, with_lane_axis
from ddm.imitation import bc
from ddm.types import Batch, Box, Discrete, program_key

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


def _refused(policy, action_space, message, observation_space=None):
    with pytest.raises(InputError, match=message):
        policy.check_spaces("Maze", observation_space or _box(2), action_space)


def test_bounds_are_those_of_the_log():
    inside = _box(2)
    statistics = identity_normalization((2,), action_center=np.zeros(2), action_scale=np.ones(2))
    declared = Policy(Echo, {}, {"gain": 1.0}, None, inside)
    pendulum = Box((2,), (-1.0, -2.0), (1.0, 2.0))
    message = (
        r"Maze: its actions lie in \[-2, 2\] \(dimension 1\), those of the policy's log in "
        r"\[-1, 1\].*--action_low and --action_high"
    )
    for policy in (declared, Policy(Echo, {}, {"gain": 1.0}, statistics)):
        policy.check_spaces("Maze", inside, inside)
        policy.check_spaces("Maze", inside, Box((2,), (-1.00001, -1.0), (1.0, 0.99999)))
        _refused(policy, pendulum, message)
        # Without bounds, an environment takes every action; with one, those that respect it.
        infinite = float("inf")
        for bounds in (infinite, 3.4e38, 1e10):
            policy.check_spaces("Maze", inside, Box((2,), (-bounds,) * 2, (bounds,) * 2))
        policy.check_spaces("Maze", inside, Box((2,), (-1.0, -3.0), (infinite,) * 2))
        _refused(policy, Box((2,), (0.0, 0.0), (infinite,) * 2), r"lie in \[0, inf\]")


def test_a_dimension_that_cannot_move_fits():
    # Its scale is 1 because it must not be 0.
    statistics = identity_normalization(
        (2,), action_center=np.array([0.0, 3.0]), action_scale=np.ones(2)
    )
    policy = Policy(Echo, {}, {"gain": 1.0}, statistics)
    policy.check_spaces("Maze", _box(2), Box((2,), (-1.0, 3.0), (1.0, 3.0)))
    _refused(policy, Box((2,), (-1.0, 2.0), (1.0, 2.0)), "dimension 1")


def test_whole_numbers_are_not_taken_for_real_ones():
    box = {"shape": (1,), "low": (0.0,), "high": (9.0,)}
    whole, real = Box(**box, dtype="int64"), Box(**box)
    policy = Policy(Echo, {}, {"gain": 1.0}, None, whole)
    policy.check_spaces("Maze", _box(2), Box(**box, dtype="uint8"))
    _refused(policy, real, r"real numbers \(float32\).* whole ones \(int64\)")
    # A pair of bounds does not say that actions are whole: they are rounded in the environment.
    policy.replace(action_space=real).check_spaces("Maze", _box(2), whole)


@pytest.mark.parametrize("space", [Discrete(4), Discrete(2), Discrete(3, start=1)])
def test_indices_are_those_of_the_log(space):
    policy = Policy(Constant, {}, {"action": 0}, identity_normalization((2,)), Discrete(3))
    policy.check_spaces("Maze", _box(2), Discrete(3))
    message = rf"it has {space.n} actions, {space.start} \.\. .* has 3 actions, 0 \.\. 2;.*num_act"
    _refused(policy, space, message)


def test_indices_count_from_where_the_policy_counts_and_as_many_as_it_was_told():
    shifted = identity_normalization((2,), action_center=np.array(1))
    policy = Policy(Constant, {}, {"action": 0}, shifted)  # before policies knew their space
    policy.check_spaces("Maze", _box(2), Discrete(7, start=1))
    _refused(policy, Discrete(7), "actions from 1")
    told = Policy(
        Constant, types.SimpleNamespace(num_actions=4), {}, identity_normalization((2,)),
        Discrete(3),
    )  # fmt: skip
    told.check_spaces("Maze", _box(2), Discrete(4))
    _refused(told, Discrete(3), "has 4 actions")


def test_observations_are_those_of_the_log():
    image = Box((4, 4, 3), (0.0,) * 48, (255.0,) * 48, "uint8")
    vector = Policy(Echo, {}, {"gain": 1.0}, identity_normalization((4, 4, 3)))
    bytes_ = identity_normalization((4, 4, 3), byte_observations=True)
    images = Policy(Echo, {}, {"gain": 1.0}, bytes_, observation_shape=(4, 4, 3))
    images.check_spaces("Maze", image, Discrete(2))
    _refused(vector, Discrete(2), "observations are bytes, the policy .* on numbers", image)
    floats = dataclasses.replace(image, dtype="float32")
    _refused(images, Discrete(2), "observations are numbers, the policy .* on bytes", floats)
    _refused(images, Discrete(2), r"shape \(2,\), the policy was trained on \(4, 4, 3\)")


def test_several_observations_keys_or_lanes_are_refused():
    statistics = identity_normalization((2,), action_center=np.zeros(1), action_scale=np.ones(1))
    policy = Policy(Echo, {}, {"gain": 0.1}, statistics)
    observations, keys = jnp.arange(6.0).reshape(3, 2), jax.random.split(KEY, 3)
    for one in (policy, Policy(Echo, {}, {"gain": 0.1}, observation_shape=(2,))):
        with pytest.raises(InputError, match=r"shape \(2,\), not \(3, 2\).*jax\.vmap"):
            one(observations, KEY)
        with pytest.raises(InputError, match=r"one key, not \(3,\)"):
            one(observations[0], keys)
        actions, _ = jax.vmap(one)(observations, keys)
        np.testing.assert_allclose(actions[:, 0], [0.1, 0.5, 0.9], rtol=1e-6)
    images = identity_normalization((2, 2, 1), byte_observations=True)
    with pytest.raises(InputError, match=r"takes bytes \(uint8\), not float32"):
        Policy(Echo, {}, {"gain": 0.1}, images)(jnp.zeros((2, 2, 1)), KEY)


def _stepped(*gains):
    class Gains(struct.PyTreeNode):
        gain: jax.Array
        step: jax.Array

        def __getitem__(self, name):
            return getattr(self, name)

    return Policy(Echo, {}, Gains(jnp.asarray(gains), jnp.zeros(len(gains), jnp.int32)))


def test_the_only_lane_acts_and_others_are_chosen():
    np.testing.assert_allclose(_stepped(3.0)(jnp.ones(1), KEY)[0], [3.0])
    two = _stepped(3.0, 4.0)
    with pytest.raises(InputError, match=r"2 lanes.*policy\.lane\(i\)"):
        two(jnp.ones(1), KEY)
    np.testing.assert_allclose(two.lane(1)(jnp.ones(1), KEY)[0], [4.0])
    with pytest.raises(InputError, match="lanes=False"):
        num_lanes(two.lane(1))


def test_an_action_of_another_shape_is_not_spread_over_the_box():
    statistics = identity_normalization((2,), action_center=np.zeros(3), action_scale=np.ones(3))
    for options in ({"normalization": statistics}, {"action_space": _box(3)}):
        with pytest.raises(InputError, match=r"shape \(1,\), expected a vector of shape \(3,\)"):
            Policy(Echo, {}, {"gain": 1.0}, **options)(jnp.ones(2), KEY)


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_actions_lie_in_the_box_of_the_log(dtype):
    space = Box((1,), (-0.25,), (3.5,) if dtype == "float32" else (3.0,), dtype)
    policy = Policy(Echo, {}, {"gain": 1.0}, action_space=space)
    found = [float(policy(jnp.array([x]), KEY)[0][0]) for x in (9.0, -9.0, 1.75)]
    assert found == ([3.5, -0.25, 1.75] if dtype == "float32" else [3.0, 0.0, 2.0])
    assert policy(jnp.ones(1), KEY)[0].dtype == dtype


def test_observations_may_be_of_any_number_type():
    statistics = identity_normalization((2,), action_center=np.zeros(1), action_scale=np.ones(1))
    policy = Policy(Echo, {}, {"gain": 0.25}, statistics)
    for observation in (np.ones(2), np.ones(2, np.int64), [1, 1]):
        np.testing.assert_allclose(policy(observation, KEY)[0], [0.5])


def test_a_call_is_compiled_once():
    traced = []

    class Counts:
        @staticmethod
        def act(config, state, observation, key, policy_state=(), *, deterministic=False):
            traced.append(deterministic)
            return observation * state["gain"], policy_state

    for gain in (1.0, 2.0, 3.0):
        policy = Policy(Counts, {}, {"gain": jnp.float32(gain)})
        np.testing.assert_allclose(policy(jnp.ones(1), KEY)[0], [gain])
    policy(jnp.ones(1), KEY, deterministic=False)
    assert traced == [True, False]


def test_an_edited_and_reloaded_module_is_what_runs(tmp_path, monkeypatch):
    source = """
def act(config, state, observation, key, policy_state=(), *, deterministic=False):
    return observation[:1] * {}, policy_state
"""
    path = tmp_path / "edited_algorithm.py"
    path.write_text(source.format(0.5))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("edited_algorithm")
    policy = Policy(module, {}, {"gain": jnp.ones(1)})
    lanes = with_lane_axis(policy)
    pendulum = envs.make("Pendulum-v1")

    def answers():
        result = evaluation.evaluate(lanes, pendulum, seed=0, num_episodes=1)
        (episode,) = envs.collect(
            pendulum, policy.replace(algorithm=module), KEY, num_episodes=1,
            params=pendulum.default_params.replace(max_steps=2),
        )  # fmt: skip
        return policy(jnp.ones(1), KEY)[0], result.returns, episode["actions"]

    first = answers()
    path.write_text(source.format(-3.0))
    importlib.reload(module)
    second = answers()
    assert [float(first[0][0]), float(second[0][0])] == [0.5, -3.0]
    assert first[1] != second[1]
    assert (first[2] != second[2]).all()


class Weird:
    """A user's algorithm that has no hash."""

    def __init__(self, gain):
        self.gain = gain

    def __eq__(self, other):
        return isinstance(other, Weird)

    def act(self, config, state, observation, key, policy_state=(), *, deterministic=False):
        return observation * self.gain, policy_state


def test_an_algorithm_needs_no_hash():
    for gain in (2.0, 3.0):
        policy = Policy(Weird(gain), {}, {"unused": jnp.zeros(1)})
        for act in (policy, jax.jit(lambda observation, p=policy: p(observation, KEY)[0])):
            found = act(jnp.ones(1), KEY)[0] if act is policy else act(jnp.ones(1))
            np.testing.assert_allclose(found, [gain])
    key = program_key(policy.algorithm)
    assert hash(key) == hash(program_key(policy.algorithm))
    assert key == program_key(policy.algorithm)
    assert key != program_key(Weird(3.0))


def _trained():
    batch = Batch(observations=jnp.zeros((1, 2)), actions=jnp.zeros((1, 1)))
    config = bc.Config(hidden_sizes=(4,))
    statistics = identity_normalization((2,), action_center=np.zeros(1), action_scale=np.ones(1))
    return Policy(bc, config, bc.init(config, KEY, batch), statistics, _box(1), (2,))


@pytest.mark.parametrize(
    "copied", [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy, copy.copy]
)
def test_policies_are_pickled_and_copied(copied):
    policy = _trained()
    other = copied(policy)
    assert other.algorithm is bc
    assert (other.action_space, other.observation_shape) == (_box(1), (2,))
    assert jax.tree.structure(other) == jax.tree.structure(policy)
    assert other.state.key.dtype == policy.state.key.dtype
    for deterministic in (True, False):
        np.testing.assert_array_equal(
            other(jnp.ones(2), KEY, deterministic=deterministic)[0],
            policy(jnp.ones(2), KEY, deterministic=deterministic)[0],
        )


def test_an_index_policy_is_refused_where_actions_are_vectors():
    policy = Policy(Constant, {}, {"action": 0}, identity_normalization((2,)))
    check_spaces(policy, "Maze", _box(2), Discrete(4))
    with pytest.raises(InputError, match="actions are vectors"):
        check_spaces(policy, "Maze", _box(2), _box(1))
