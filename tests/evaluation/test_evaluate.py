"""Evaluation in pure environments, and its agreement with evaluation through gymnasium."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_fakes import constant, drift, echo, hesitate

from ddm import envs, evaluation
from ddm.data import identity_normalization
from ddm.errors import EvaluationError, InputError
from ddm.evaluation import pure
from ddm.types import Box, Discrete

# From the start's middle, the goal's edge is three and a half cells away: 14 steps of 0.25 cells.
CORRIDOR = envs.PointMaze(("#######", "#S...G#", "#######"), name="Corridor", time_limit=40)
START = jnp.tile(CORRIDOR.cells("S"), (5, 1))  # as many starts as there are cells: one compilation
PARAMS = CORRIDOR.default_params.replace(start_noise=0.0, response=1.0, start_cells=START)
ANYWHERE = PARAMS.replace(start_cells=CORRIDOR.free_cells())


def _evaluate(policy, environment=CORRIDOR, params=PARAMS, **options):
    if callable(environment):
        params = None
    return evaluation.evaluate(
        policy, environment, **{"seed": 0, "num_episodes": 20, "params": params} | options
    )


def _through_gymnasium(environment, params):
    pytest.importorskip("gymnasium")
    from ddm.envs.gym import GymnasiumFace

    return lambda: GymnasiumFace(environment, params)


def test_returns_lengths_and_successes_by_hand():
    result = _evaluate(drift(1.0, 0.5, -1.0))
    np.testing.assert_array_equal(result.lengths, np.repeat([[14], [28], [40]], 20, axis=1))
    np.testing.assert_array_equal(result.returns, np.repeat([[1.0], [1.0], [0.0]], 20, axis=1))
    np.testing.assert_array_equal(result.successes, result.returns == 1.0)
    assert result.returns.dtype == np.float64
    assert result.lengths.dtype == np.int64


def test_finished_episodes_do_not_count_later_rewards():
    # Episodes end at different times, and the point that goes on east is stopped by the wall
    # inside the goal, where every further step would earn 1.
    result = _evaluate(drift(1.0, 0.5, 1.0), params=ANYWHERE)
    np.testing.assert_array_equal(result.returns, 1.0)
    assert set(result.lengths[0]) == {1, 2, 6, 10, 14}


def test_every_lane_meets_the_same_episodes_and_equals_itself_alone():
    options = {"params": ANYWHERE, "deterministic": False}
    together = _evaluate(drift(1.0, 0.7, 1.0, noise=0.5), **options)
    np.testing.assert_array_equal(together.lengths[0], together.lengths[2])
    alone = _evaluate(drift(0.7, noise=0.5), **options)
    np.testing.assert_array_equal(together.lengths[1], alone.lengths[0])
    single = jax.tree.map(lambda leaf: leaf[0], drift(0.7, noise=0.5))
    single = _evaluate(single, **options, lanes=False)
    np.testing.assert_array_equal(single.lengths, alone.lengths)


def test_sampled_actions_agree_with_the_gymnasium_face():
    dense = envs.PointMaze(CORRIDOR.layout, reward=envs.dense_reward, time_limit=5)
    params = dense.default_params.replace(start_noise=0.0, response=1.0)
    options = {"deterministic": False, "num_episodes": 3}
    sampled = _evaluate(drift(1.0, noise=0.5), dense, params, **options)
    distances = 4.0 - 0.25 * np.arange(1, 6)
    assert (sampled.returns < np.exp(-distances).sum()).all()  # sidesteps cost something
    assert len(set(sampled.returns[0])) == 3  # each episode has its own random numbers
    hosted = _evaluate(drift(1.0, noise=0.5), _through_gymnasium(dense, params), **options)
    np.testing.assert_allclose(hosted.returns, sampled.returns, rtol=1e-5)
    np.testing.assert_array_equal(hosted.lengths, sampled.lengths)


def test_policy_state_starts_anew_in_every_episode():
    result = _evaluate(hesitate(0, 5))
    np.testing.assert_array_equal(result.lengths, np.repeat([[14], [19]], 20, axis=1))


def test_pure_environment_and_its_gymnasium_face_agree():
    params = ANYWHERE.replace(start_noise=0.25, response=0.5)
    on_device = _evaluate(hesitate(0, 3), params=params)
    hosted = _evaluate(hesitate(0, 3), _through_gymnasium(CORRIDOR, params))
    np.testing.assert_array_equal(on_device.lengths, hosted.lengths)
    np.testing.assert_allclose(on_device.returns, hosted.returns)
    np.testing.assert_array_equal(on_device.successes, hosted.successes)


def test_index_actions():
    maze = envs.PointMaze(CORRIDOR.layout, discrete=True, time_limit=40)
    result = _evaluate(constant(jnp.int32(1)), maze)
    np.testing.assert_array_equal(result.lengths, 14)


def test_environment_without_a_goal_reports_no_success():
    result = _evaluate(constant(jnp.zeros(1)), "Pendulum-v1", None, num_episodes=2)
    assert result.successes is None
    np.testing.assert_array_equal(result.lengths, 200)
    assert (result.returns < 0).all()


def test_the_second_evaluation_does_not_compile():
    _evaluate(drift(1.0, 0.5, -1.0))
    compiled = pure._run._cache_size()
    _evaluate(drift(0.1, 0.2, 0.3), seed=5)
    with evaluation.make_evaluator(
        CORRIDOR, num_lanes=3, num_episodes=20, params=ANYWHERE
    ) as evaluator:
        evaluator(drift(0.1, 0.2, 0.3), 7)
    assert pure._run._cache_size() == compiled


def test_episode_seeds_depend_on_seed_and_index_only():
    seeds = evaluation.episode_seeds(3, 100)
    np.testing.assert_array_equal(seeds[:10], evaluation.episode_seeds(3, 10))
    assert len(set(seeds) | set(evaluation.episode_seeds(4, 100))) == 200
    assert seeds.dtype == np.uint32
    assert (seeds < 2**31).all()


def test_bad_input_is_named():
    statistics = identity_normalization((5,), action_center=np.zeros(2), action_scale=np.ones(2))
    with pytest.raises(InputError, match=r"Corridor: observations have shape \(6,\)"):
        _evaluate(echo(1.0, normalization=statistics))
    with pytest.raises(InputError, match="num_episodes is 0"):
        _evaluate(drift(1.0), num_episodes=0)
    with pytest.raises(InputError, match="params"):
        evaluation.make_evaluator(object, num_lanes=1, num_episodes=1, params=PARAMS)


def test_an_action_that_the_environment_lacks_is_refused_not_clamped():
    maze = envs.PointMaze(CORRIDOR.layout, discrete=True, time_limit=40)
    number = maze.action_space(maze.default_params).n
    with pytest.raises(InputError, match=rf"none of the environment's {number}"):
        _evaluate(constant(jnp.int32(number)), maze)
    policy = constant(jnp.int32(1)).replace(action_space=Discrete(number + 1))
    with pytest.raises(InputError, match=rf"has {number} actions, .* has {number + 1} actions"):
        _evaluate(policy, maze)


def test_a_log_in_other_bounds_than_the_environments_is_refused():
    statistics = identity_normalization((3,), action_center=np.zeros(1), action_scale=np.ones(1))
    for policy in (
        constant(jnp.zeros(1), statistics),
        constant(jnp.zeros(1)).replace(action_space=Box((1,), (-1.0,), (1.0,))),
    ):
        with pytest.raises(InputError, match=r"Pendulum-v1: .*\[-2, 2\].*log in \[-1, 1\]"):
            _evaluate(policy, "Pendulum-v1", None)
        with pytest.raises(InputError, match=r"Pendulum-v1: .*\[-2, 2\].*log in \[-1, 1\]"):
            evaluation.make_evaluator("Pendulum-v1", num_lanes=1, num_episodes=1).check(policy)
        with pytest.raises(InputError, match=r"Pendulum-v1: .*\[-2, 2\].*log in \[-1, 1\]"):
            envs.collect(
                envs.make("Pendulum-v1"), policy.lane(0), jax.random.key(0), num_episodes=1
            )


def test_actions_are_not_spread_over_more_dimensions():
    with pytest.raises(InputError, match=r"Corridor: .* shape \(1,\), expected .* \(2,\)"):
        _evaluate(constant(jnp.ones(1)))


def test_a_check_traces_an_episode_and_changes_nothing():
    policy = drift(1.0, 0.5, -1.0)
    evaluator = evaluation.make_evaluator(CORRIDOR, num_lanes=3, num_episodes=20, params=PARAMS)
    before = evaluator(policy, 1)
    evaluator.check(policy)
    np.testing.assert_array_equal(evaluator(policy, 1).lengths, before.lengths)
    with pytest.raises(InputError, match=r"shape \(1,\), expected .* \(2,\)"):
        evaluator.check(constant(jnp.ones(1)))

    class Broken(envs.Pendulum):
        def step(self, key, state, action, params):
            return super().step(key, state, action @ jnp.ones((3, 3)), params)

    broken = pure.PureEvaluator(envs.Pendulum(), 1, True)
    broken._environment = Broken()
    with pytest.raises(EvaluationError, match=r"Pendulum-v1: an episode cannot be computed: TypeE"):
        broken.check(constant(jnp.zeros(1)))
