"""Simulators of gymnasium: how many are opened, and the checks that a score needs."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddm.data import memory, spaces
from ddm.errors import DdmError, EvaluationError, InputError
from ddm.evaluation.environments import quiet
from ddm.types import Box, Discrete, Space

if TYPE_CHECKING:
    import gymnasium

MAX_ENVIRONMENTS = 64  # open at a time, unless there are more lanes than that
MAX_EPISODE_STEPS = 1_000_000  # a longer episode is assumed to have no end
MEMORY_SHARE = 0.5  # of the memory that is free before the first simulator is opened
STATM = Path("/proc/self/statm")
_SUCCESS_KEYS = ("success", "is_success", "goal_achieved")


class Outcome(NamedTuple):
    """One step of a simulator."""

    observation: Any
    reward: float
    ended: bool
    terminated: bool  # the task ended it, not a time limit
    success: bool | None  # None: not reported


class Simulator:
    """One environment, with its own state of the global generators of Python and numpy.

    So an environment that draws from `random` or `np.random` depends only on its episode's seed,
    not on episodes that run at the same time.
    """

    def __init__(self, environment: gymnasium.Env):
        self.environment = environment
        self.name = name_of(environment)
        self._numpy = np.random.MT19937()
        self._python = random.getstate()
        self._seed, self._steps = 0, 0

    def reset(self, seed: int) -> Any:
        """The first observation of the episode that the seed names."""
        self._seed, self._steps = seed, 0
        with self._generators():
            random.seed(seed)
            np.random.seed(seed)
            observation, _ = self.environment.reset(seed=seed)
        return self._checked(observation)

    def step(self, action: Any) -> Outcome:
        """One step of the episode.

        Raises:
          EvaluationError: the simulator fails, or the episode has no end.
          InputError: the reward or the observation is not what its space says.
        """
        self._steps += 1
        with self._generators():
            observation, reward, terminated, truncated, info = self.environment.step(action)
        reward = np.asarray(reward)
        if reward.size != 1:
            raise InputError(f"{self.name}: the reward has shape {reward.shape}, expected a number")
        ended = bool(terminated) or bool(truncated)
        if self._steps >= MAX_EPISODE_STEPS and not ended:
            raise EvaluationError(
                f"{self.name}: the episode with seed {self._seed} has not ended after "
                f"{self._steps} steps: give the environment a limit (--max_episode_steps, or "
                "gymnasium.wrappers.TimeLimit)"
            )
        success = [bool(np.any(info[key])) for key in _SUCCESS_KEYS if key in info]
        observation = self._checked(observation)
        reported = any(success) if success else None
        return Outcome(observation, float(reward.item()), ended, bool(terminated), reported)

    def _checked(self, observation: Any) -> Any:
        expected = self.environment.observation_space.shape
        if np.shape(observation) != expected:
            raise InputError(
                f"{self.name}: an observation has shape {np.shape(observation)}, its space says "
                f"{expected}"
            )
        return observation

    @contextlib.contextmanager
    def _generators(self) -> Iterator[None]:
        """Installs the simulator's own generators, and names the simulator if it fails."""
        _share(self._numpy)
        random.setstate(self._python)
        try:
            yield
        except DdmError:
            raise
        except Exception as error:  # a simulator raises what it likes
            raise EvaluationError(
                f"{self.name}: the simulator failed at step {self._steps} of the episode with seed "
                f"{self._seed}: {_sentence(error)}"
            ) from error
        finally:
            self._python = random.getstate()


@contextlib.contextmanager
def user_generators_kept() -> Iterator[None]:
    """Restores the generators of `random` and `np.random`."""
    numpy: Any = np.random.get_bit_generator()  # pyright: ignore[reportAttributeAccessIssue]
    python = random.getstate()
    try:
        yield
    finally:
        _share(numpy)
        random.setstate(python)


def _share(generator: np.random.BitGenerator) -> None:
    """Makes the functions of `np.random` draw from this generator, which keeps their state."""
    np.random.set_bit_generator(generator)  # pyright: ignore[reportAttributeAccessIssue]


class Pool:
    """The simulators of an evaluator: rows with one per lane, as many rows as memory allows."""

    def __init__(self, factory: Callable[[], gymnasium.Env], num_lanes: int, max_rows: int):
        self._factory, self._num_lanes, self._rows = factory, num_lanes, max_rows
        self._measures = False
        self.simulators: list[Simulator] = []

    def open(self, *, measure: bool = False) -> None:
        """Opens missing simulators; closes all if one of them cannot be made.

        Args:
          measure: stop with fewer rows where the next one could take too much memory.

        Raises:
          InputError: the factory gives no environment, or the same one twice, or one whose
            episodes need not end.
          EvaluationError: the factory fails.
        """
        free, start, first = memory.free_host_bytes(), _resident_bytes(), None
        try:
            for row in range(self._rows):
                count = len(self.simulators)
                if measure and first is not None and count > 1 and free and start is not None:
                    used = _resident_bytes() or start
                    each = max(used - first, 0) / (count - 1)
                    if used - start + each * self._num_lanes > MEMORY_SHARE * free:
                        self._rows = row
                        return
                while len(self.simulators) < (row + 1) * self._num_lanes:
                    self._open_one()
                    first = _resident_bytes() if first is None else first
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes all simulators."""
        while self.simulators:
            self.simulators.pop().environment.close()

    def _open_one(self) -> None:
        environment = _make(self._factory)
        others = (simulator.environment.unwrapped for simulator in self.simulators)
        if any(environment.unwrapped is other for other in others):
            raise InputError(
                f"{name_of(environment)}: the function gave the same environment twice, and its "
                "episodes would be mixed: make a new one at each call, as in "
                "lambda: gymnasium.make(...)"
            )
        simulator = Simulator(environment)
        self.simulators.append(simulator)
        _check_ends(environment, simulator.name)


def name_of(environment: gymnasium.Env) -> str:
    """The name in messages."""
    return environment.spec.id if environment.spec else type(environment.unwrapped).__name__


def flat_action_space(space: gymnasium.Space, name: str) -> Space:
    """The space of the actions that a policy gives.

    Raises:
      InputError: neither Box nor Discrete.
    """
    import gymnasium

    if isinstance(space, gymnasium.spaces.Discrete):
        return Discrete(int(space.n), int(space.start))
    if isinstance(space, gymnasium.spaces.Box):
        tree = spaces.parse_space(space)
        low, high = (np.ravel(tree[bound]).tolist() for bound in ("low", "high"))
        return Box((len(low),), tuple(low), tuple(high), tree["dtype"])
    raise InputError(f"{name}: the action space {space} is neither Box nor Discrete")


def to_actions(actions: np.ndarray, space: gymnasium.Space) -> np.ndarray:
    """Actions in the form of their space: its shape and type, whole numbers, inside its bounds.

    Args:
      actions: flattened actions with leading axes.
      space: Box or Discrete.
    """
    import gymnasium

    if not isinstance(space, gymnasium.spaces.Box):
        return actions.astype(space.dtype, copy=False)
    actions = actions.reshape(*actions.shape[:-1], *space.shape)
    if space.dtype.kind in "iub":
        actions = np.rint(actions)  # truncation would turn 8.9999 into 8
    else:
        actions = actions.astype(space.dtype, copy=False)  # before the bounds are compared
    return np.clip(actions, space.low, space.high).astype(space.dtype, copy=False)


def _make(factory: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """One environment whose observations are vectors or images, as in a `ddm.data.Dataset`."""
    import gymnasium

    with quiet():
        try:
            environment = factory()
        except DdmError:
            raise
        except Exception as error:  # a simulator raises what it likes
            raise EvaluationError(f"the environment cannot be made: {_sentence(error)}") from error
        if not isinstance(environment, gymnasium.Env):
            raise InputError(
                f"the function that makes the environment gave a {type(environment).__name__}, "
                "expected a gymnasium.Env"
            )
        space = environment.observation_space
        is_vector = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
        if not is_vector and not spaces.is_image(spaces.parse_space(space)):
            environment = gymnasium.wrappers.FlattenObservation(environment)
    return environment


def _check_ends(environment: gymnasium.Env, name: str) -> None:
    """Refuses an environment that is registered without any step limit.

    An environment that a function makes without gymnasium's registry may end its episodes itself.
    """
    import gymnasium

    from ddm.envs.gym import GymnasiumFace

    spec = environment.spec
    if spec is None or spec.max_episode_steps or isinstance(environment.unwrapped, GymnasiumFace):
        return
    layer = environment
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, gymnasium.wrappers.TimeLimit):
            return
        layer = layer.env
    raise InputError(
        f"{name} has no step limit, so an episode may never end: give one "
        f"(--max_episode_steps, or gymnasium.make('{name}', max_episode_steps=...))"
    )


def _resident_bytes() -> int | None:
    """Memory of this process; None where it is not known."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
