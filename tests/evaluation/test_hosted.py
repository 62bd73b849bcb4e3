"""Evaluation in gymnasium environments that are made for the purpose."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from evaluation_fakes import constant, drift, echo, hesitate

from ddm import envs, evaluation
from ddm.errors import InputError
from ddm.evaluation import hosted

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
def test_every_episode_counts_once_whatever_the_number_of_environments(
    monkeypatch, max_environments
):
    monkeypatch.setattr(hosted, "MAX_ENVIRONMENTS", max_environments)
    result = evaluation.evaluate(echo(0.1, 0.0), Countdown, seed=0, num_episodes=7)
    lengths = _lengths(7)
    np.testing.assert_array_equal(result.lengths, np.tile(lengths, (2, 1)))
    # The flattened observation sums up to (steps left + 0.5).
    expected = [sum(0.1 * (left + 0.5) for left in range(1, n + 1)) for n in lengths]
    np.testing.assert_allclose(result.returns, [expected, np.zeros(7)], rtol=1e-5)
    np.testing.assert_array_equal(result.successes, np.tile(lengths >= 3, (2, 1)))


def test_policy_state_starts_anew_when_an_environment_is_used_again(monkeypatch):
    monkeypatch.setattr(hosted, "MAX_ENVIRONMENTS", 1)
    maze = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    result = evaluation.evaluate(
        hesitate(2), lambda: Countdown(action_space=maze), seed=0, num_episodes=6
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
        compiled = hosted._act._cache_size()
        evaluator(echo(0.0, 0.15), seed=2)
        again = evaluator(echo(0.1, 0.05), seed=1)
        assert hosted._act._cache_size() == compiled
        assert (Countdown.opened, Countdown.closed) == (6, 0)
    assert Countdown.closed == 6
    np.testing.assert_array_equal(first.returns, again.returns)


def test_a_failing_environment_closes_all_of_them():
    Countdown.opened = Countdown.closed = 0
    evaluator = evaluation.make_evaluator(Broken, num_lanes=1, num_episodes=8)
    with pytest.raises(RuntimeError, match="exploded"):
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
