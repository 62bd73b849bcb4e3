"""Evaluation in gymnasium environments that are made for the purpose."""

from __future__ import annotations

import random

import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_fakes import constant, drift, echo, hesitate

from ddm import envs, evaluation
from ddm.data import identity_normalization
from ddm.errors import EvaluationError, InputError
from ddm.evaluation import hosted, simulators
from ddm.types import Box, Discrete

gymnasium = pytest.importorskip("gymnasium")

BOX = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)


class Countdown(gymnasium.Env):
    """Ends after as many steps as the episode's seed says (1 to 5); the reward is the action."""

    opened = closed = 0

    def __init__(self, action_space=BOX, observation_space=None):
        self.action_space = action_space
        bounds = gymnasium.spaces.Box(0.0, 10.0, (1,), np.float64)
        self.observation_space = observation_space or gymnasium.spaces.Dict(
            left=bounds, goal=bounds
        )
        Countdown.opened += 1

    def _observe(self):
        observation = {"left": np.array([float(self._left)]), "goal": np.array([0.5])}
        is_dict = isinstance(self.observation_space, gymnasium.spaces.Dict)
        return observation if is_dict else np.full(self.observation_space.shape, self._left)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = seed % 5 + 1
        return self._observe(), {}

    def step(self, action):
        assert self._left > 0, "stepped after its end"
        assert self.action_space.contains(action), action
        self._left -= 1
        info = {"is_success": np.array([self._left == 2])}
        return self._observe(), float(np.sum(action)), self._left == 0, False, info

    def close(self):
        Countdown.closed += 1


class Broken(Countdown):
    """Fails in its second step."""

    def step(self, action):
        if self._left == 2:
            raise RuntimeError("the simulator exploded")
        return super().step(action)


def _lengths(num_episodes, seed=0):
    return evaluation.episode_seeds(seed, num_episodes).astype(int) % 5 + 1


@pytest.mark.parametrize("max_environments", [64, 4, 1])
def test_every_episode_counts_once_whatever_the_number_of_environments(max_environments):
    result = evaluation.evaluate(
        echo(0.1, 0.0), Countdown, seed=0, num_episodes=7, max_environments=max_environments
    )
    lengths = _lengths(7)
    np.testing.assert_array_equal(result.lengths, np.tile(lengths, (2, 1)))
    # The flattened observation sums up to (steps left + 0.5).
    expected = [sum(0.1 * (left + 0.5) for left in range(1, n + 1)) for n in lengths]
    np.testing.assert_allclose(result.returns, [expected, np.zeros(7)], rtol=1e-5)
    np.testing.assert_array_equal(result.successes, np.tile(lengths >= 3, (2, 1)))


def test_policy_state_starts_anew_when_an_environment_is_used_again():
    maze = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    result = evaluation.evaluate(
        hesitate(2), lambda: Countdown(maze), seed=0, num_episodes=6, max_environments=1
    )
    np.testing.assert_allclose(result.returns[0], np.maximum(_lengths(6) - 2, 0))


def test_index_actions_and_matrix_actions():
    index = gymnasium.spaces.Discrete(4)
    result = evaluation.evaluate(
        constant(jnp.int32(3)), lambda: Countdown(index), seed=0, num_episodes=2
    )
    np.testing.assert_allclose(result.returns[0], 3.0 * _lengths(2))
    matrix = gymnasium.spaces.Box(-1.0, 1.0, (2, 3), np.float64)
    result = evaluation.evaluate(
        constant(jnp.full(6, 0.5)), lambda: Countdown(matrix), seed=0, num_episodes=2
    )
    np.testing.assert_allclose(result.returns[0], 3.0 * _lengths(2))


@pytest.mark.parametrize(
    ("space", "shape", "dtype"),
    [
        (gymnasium.spaces.Box(0.0, 9.0, (2, 3), np.float64), (6,), np.float32),
        (gymnasium.spaces.Box(0, 255, (4, 4, 3), np.uint8), (4, 4, 3), np.uint8),
    ],
)
def test_observations_are_vectors_or_images(space, shape, dtype):
    seen = []

    class Look:
        @staticmethod
        def act(config, state, observation, key, policy_state=(), *, deterministic=False):
            seen.append((observation.shape, observation.dtype))
            return jnp.zeros(1), policy_state

    policy = evaluation.Policy(Look, {}, {"unused": jnp.zeros(1)})
    factory = lambda: Countdown(observation_space=space)  # noqa: E731
    evaluation.evaluate(policy, factory, seed=0, num_episodes=1)
    assert seen == [(shape, dtype)]


def test_environments_stay_open_between_calls_and_nothing_compiles_again():
    Countdown.opened = Countdown.closed = 0
    with evaluation.make_evaluator(Countdown, num_lanes=2, num_episodes=3) as evaluator:
        first = evaluator(echo(0.1, 0.05), seed=1)
        compiled = hosted.act._cache_size()
        evaluator(echo(0.0, 0.15), seed=2)
        again = evaluator(echo(0.1, 0.05), seed=1)
        assert hosted.act._cache_size() == compiled
        assert (Countdown.opened, Countdown.closed) == (6, 0)
    assert Countdown.closed == 6
    np.testing.assert_array_equal(first.returns, again.returns)


def test_a_failing_environment_closes_all_of_them():
    Countdown.opened = Countdown.closed = 0
    evaluator = evaluation.make_evaluator(Broken, num_lanes=1, num_episodes=8)
    with pytest.raises(
        EvaluationError, match=r"Broken: .* step \d of the episode with seed \d+: RuntimeError: the"
    ):
        evaluator(echo(0.1), seed=0)
    assert Countdown.opened == Countdown.closed == 8


def test_an_environment_that_cannot_be_made_closes_those_that_were():
    Countdown.opened = Countdown.closed = 0

    def third_time_unlucky():
        if Countdown.opened == 2:
            raise RuntimeError("out of memory")
        return Countdown()

    with pytest.raises(RuntimeError, match="out of memory"):
        evaluation.make_evaluator(third_time_unlucky, num_lanes=1, num_episodes=3)
    assert Countdown.opened == Countdown.closed == 2


def test_bad_input_is_named():
    evaluator = evaluation.make_evaluator(Countdown, num_lanes=2, num_episodes=1)
    with evaluator, pytest.raises(InputError, match=r"1 lanes.*for 2"):
        evaluator(echo(0.1), seed=0)
    switches = gymnasium.spaces.MultiBinary(3)
    with pytest.raises(InputError, match=r"Countdown.*neither Box nor Discrete"):
        evaluation.evaluate(echo(0.1), lambda: Countdown(switches), seed=0, num_episodes=1)


class Steps(Countdown):
    """Ends after three steps; the reward is what a function makes of the action."""

    def __init__(self, reward, action_space=BOX):
        super().__init__(action_space)
        self._reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = 3
        return self._observe(), {}

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, self._reward(action), terminated, truncated, info


def _score(reward, policy, action_space=BOX, **options):
    factory = lambda: Steps(reward, action_space)  # noqa: E731
    options = {"seed": 0, "num_episodes": 2} | options
    return evaluation.evaluate(policy, factory, **options).returns[0]


def test_whole_numbers_are_rounded_to_the_nearest_and_stay_in_their_box():
    whole = gymnasium.spaces.Box(0, 9, (1,), np.int64)
    statistics = identity_normalization(
        (2,), action_center=np.array([4.5]), action_scale=np.array([4.5])
    )
    for action, expected in [(1.0, 9), (0.9999, 9), (-1.0, 0), (0.2, 5), (7.0, 9)]:
        policy = constant(jnp.array([action]), statistics)
        np.testing.assert_array_equal(_score(lambda a: a[0], policy, whole), 3 * expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actions_do_not_leave_their_box_by_a_last_bit(dtype):
    # In single precision, centre - half width is below -0.1, or centre + half width above 0.7.
    low, high = np.array([-0.1], dtype), np.array([0.7], dtype)
    box = gymnasium.spaces.Box(low, high, (1,), dtype)
    center, scale = (np.float32(x) for x in ((low + high) / 2, (high - low) / 2))
    statistics = identity_normalization((2,), action_center=center, action_scale=scale)
    inside = lambda action: float(box.contains(action))  # noqa: E731
    for action in (1.0, -1.0):
        policy = constant(jnp.array([action]), statistics)
        np.testing.assert_array_equal(_score(inside, policy, box), 3.0)


def test_indices_count_from_the_start_of_their_space():
    space = gymnasium.spaces.Discrete(3, start=2)
    statistics = identity_normalization((2,), action_center=np.array(2))
    policy = constant(jnp.int32(1), statistics).replace(action_space=Discrete(3, 2))
    np.testing.assert_array_equal(_score(float, policy, space), 9.0)


def test_one_number_in_an_array_is_a_reward_and_several_are_not():
    policy = constant(jnp.zeros(1))
    np.testing.assert_array_equal(_score(lambda a: np.array([0.5]), policy), 1.5)
    with pytest.raises(InputError, match=r"Steps: the reward has shape \(2,\)"):
        _score(lambda a: np.zeros(2), policy)


def test_generators_that_programs_share_are_seeded_by_the_episode_and_left_as_they_were():
    draw = lambda action: np.random.rand() + 10 * random.random()  # noqa: E731
    policy = constant(jnp.zeros(1))
    np.random.seed(1)
    random.seed(1)
    expected = np.random.rand(), random.random()
    np.random.seed(1)
    random.seed(1)
    first = _score(draw, policy, num_episodes=4)
    assert (np.random.rand(), random.random()) == expected
    assert len(set(first)) == 4
    # Neither the user's draws nor the number of simulators side by side make a difference.
    np.testing.assert_array_equal(first, _score(draw, policy, num_episodes=4, max_environments=1))
    np.testing.assert_array_equal(first[:3], _score(draw, policy, num_episodes=3))
    assert (first != _score(draw, policy, num_episodes=4, seed=1)).all()


def test_one_environment_for_all_episodes_is_refused():
    shared = Countdown()
    policy = echo(0.1)
    for factory in (lambda: shared, lambda: gymnasium.Wrapper(shared)):
        with pytest.raises(InputError, match=r"Countdown: .* the same environment twice"):
            evaluation.evaluate(policy, factory, seed=0, num_episodes=2)
    result = evaluation.evaluate(policy, lambda: shared, seed=0, num_episodes=3, max_environments=1)
    np.testing.assert_array_equal(result.lengths[0], _lengths(3))
    with pytest.raises(InputError, match="the environment is a Countdown"):
        evaluation.evaluate(policy, shared, seed=0, num_episodes=1)
    with pytest.raises(InputError, match=r"gave a int, expected a gymnasium\.Env"):
        evaluation.evaluate(policy, lambda: 3, seed=0, num_episodes=1)


def test_an_environment_without_a_step_limit_is_refused(monkeypatch):
    policy = constant(jnp.int32(0))
    with pytest.raises(InputError, match=r"CliffWalking-v1 has no step limit.*max_episode_steps"):
        evaluation.evaluate(policy, "CliffWalking-v1", seed=0, num_episodes=1)
    limited = lambda: gymnasium.make("CliffWalking-v1", max_episode_steps=7)  # noqa: E731
    wrapped = lambda: gymnasium.wrappers.TimeLimit(gymnasium.make("CliffWalking-v1"), 7)  # noqa: E731
    for factory in (limited, wrapped):
        result = evaluation.evaluate(policy, factory, seed=0, num_episodes=1)
        np.testing.assert_array_equal(result.lengths, 7)
    # Who makes an environment without gymnasium's registry is told when an episode does not end.
    monkeypatch.setattr(simulators, "MAX_EPISODE_STEPS", 2)
    with pytest.raises(EvaluationError, match=r"Steps: the episode .* not ended after 2 steps"):
        _score(lambda action: 0.0, constant(jnp.zeros(1)))


def test_as_many_environments_as_half_of_the_free_memory_holds(monkeypatch):
    # Each takes 100 MB where 1 GB is free.
    Countdown.opened = 0
    monkeypatch.setattr(simulators.memory, "free_host_bytes", lambda: 10**9)
    monkeypatch.setattr(simulators, "_resident_bytes", lambda: 10**9 + 10**8 * Countdown.opened)
    for lanes, expected in ((1, 5), (2, 4), (8, 8)):
        Countdown.opened = 0
        with evaluation.make_evaluator(Countdown, num_lanes=lanes, num_episodes=20) as evaluator:
            assert evaluator.num_environments == expected
            result = evaluator(echo(*[0.1] * lanes), 0)
            np.testing.assert_array_equal(result.lengths, np.tile(_lengths(20), (lanes, 1)))
            # The same number after they were closed, whatever is free then.
            evaluator.close()
            evaluator(echo(*[0.1] * lanes), 0)
            assert evaluator.num_environments == expected
    Countdown.opened = 0
    with evaluation.make_evaluator(
        Countdown, num_lanes=1, num_episodes=20, max_environments=7
    ) as evaluator:
        assert evaluator.num_environments == 7


def test_a_check_finds_what_would_fail_and_changes_nothing():
    policy = echo(0.1, 0.0)
    with evaluation.make_evaluator(Countdown, num_lanes=2, num_episodes=7) as evaluator:
        before = evaluator(policy, seed=3)
        evaluator.check(policy)
        after = evaluator(policy, seed=3)
        np.testing.assert_array_equal(before.returns, after.returns)
        np.testing.assert_array_equal(before.lengths, after.lengths)
        with pytest.raises(InputError, match=r"actions lie in \[-1, 1\].* in \[-2, 2\]"):
            evaluator.check(policy.replace(action_space=Box((1,), (-2.0,), (2.0,))))
        with pytest.raises(InputError, match=r"float32 and shape \(2,\).* shape \(1,\)"):
            evaluator.check(drift(1.0, 0.5))
    with (
        evaluation.make_evaluator(
            lambda: Steps(lambda action: 1 / 0), num_lanes=1, num_episodes=1
        ) as evaluator,
        pytest.raises(EvaluationError, match=r"Steps: .* at step 1 .*ZeroDivisionError"),
    ):
        evaluator.check(constant(jnp.zeros(1)))


def test_an_action_that_is_not_finite_is_named():
    policy = constant(jnp.array([jnp.nan]))
    with pytest.raises(EvaluationError, match=r"Countdown: the policy's action is not finite at"):
        evaluation.evaluate(policy, Countdown, seed=0, num_episodes=1)


def test_an_observation_that_is_not_of_its_space_is_named():
    class Short(Steps):
        def _observe(self):
            return np.zeros(1)

    space = gymnasium.spaces.Box(0.0, 10.0, (2,), np.float64)

    def factory():
        environment = Short(lambda action: 0.0)
        environment.observation_space = space
        return environment

    with pytest.raises(InputError, match=r"Short: an observation has shape \(1,\).*\(2,\)"):
        evaluation.evaluate(constant(jnp.zeros(1)), factory, seed=0, num_episodes=1)


@pytest.mark.parametrize("key", ["success", "is_success", "goal_achieved"])
def test_success_at_any_step_counts(key):
    class Goal(Steps):
        def step(self, action):
            observation, reward, terminated, truncated, _ = super().step(action)
            reached = self._left == 1
            return observation, reward, terminated, truncated, {key: np.float32(reached)}

    factory = lambda: Goal(lambda action: 0.0)  # noqa: E731
    result = evaluation.evaluate(constant(jnp.zeros(1)), factory, seed=0, num_episodes=2)
    np.testing.assert_array_equal(result.successes, [[True, True]])


def test_mujoco():
    pytest.importorskip("mujoco")
    policy = constant(jnp.zeros(1))
    result = evaluation.evaluate(policy, "InvertedPendulum-v5", seed=0, num_episodes=2)
    # The pole falls: one for each step but the last.
    assert (result.lengths < 200).all()
    np.testing.assert_array_equal(result.returns, result.lengths - 1)
    assert result.successes is None


def test_registered_face_is_evaluated_like_any_gymnasium_environment():
    envs.register()
    result = evaluation.evaluate(
        drift(0.0), lambda: gymnasium.make("ddm/PointMaze-UMaze-v0"), seed=0, num_episodes=1
    )
    np.testing.assert_array_equal(result.lengths, 100)
    np.testing.assert_array_equal(result.successes, False)
