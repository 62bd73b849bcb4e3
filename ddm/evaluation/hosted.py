"""Evaluation in gymnasium environments, stepped on the host.

All lanes and episodes are stepped together: one batched, jitted call a step acts for all of them.
Its shapes never change, so it compiles once: a slot whose episode has ended takes the next
episode of its lane, and idles when there is none left. gymnasium's vector environments are not
used: they go on stepping episodes that have ended, and copy every observation twice.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ddm.data import spaces
from ddm.envs import episode_keys
from ddm.errors import InputError
from ddm.evaluation import policy as policy_lib
from ddm.evaluation.environments import quiet
from ddm.evaluation.policy import Policy
from ddm.evaluation.results import EvaluationResult, episode_seeds
from ddm.types import Box, Discrete, Space

if TYPE_CHECKING:
    import gymnasium

MAX_ENVIRONMENTS = 64  # open at a time, unless there are more lanes than that
_SUCCESS_KEYS = ("success", "is_success")


class GymnasiumEvaluator:
    """A function (policy with lanes, seed) -> EvaluationResult; see `make_evaluator`.

    It keeps its environments open between calls: making one with MuJoCo costs 10 to 50 ms.
    """

    def __init__(
        self,
        factory: Callable[[], gymnasium.Env],
        num_lanes: int,
        num_episodes: int,
        deterministic: bool,
    ):
        self._factory = factory
        self._num_episodes = num_episodes
        self._num_slots = max(1, min(num_episodes, MAX_ENVIRONMENTS // num_lanes))
        self._num_lanes = num_lanes
        self._deterministic = deterministic
        self._environments: list[gymnasium.Env] = []
        self._open()

    def __call__(self, policy: Policy, seed: int) -> EvaluationResult:
        """Evaluates all lanes of the policy; closes the environments if one of them fails.

        Raises:
          InputError: the policy was trained on other spaces, or has another number of lanes.
        """
        if policy_lib.num_lanes(policy) != self._num_lanes:
            raise InputError(
                f"the policy has {policy_lib.num_lanes(policy)} lanes, the evaluator was made "
                f"for {self._num_lanes}"
            )
        policy_lib.check_spaces(policy, self._name, self._observation_space, self._action_space)
        try:
            self._open()
            return self._run(policy, episode_seeds(seed, self._num_episodes))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the environments; a later call opens them again."""
        while self._environments:
            self._environments.pop().close()

    def __enter__(self) -> GymnasiumEvaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> None:
        try:
            while len(self._environments) < self._num_lanes * self._num_slots:
                self._environments.append(_open_flat(self._factory))
        except BaseException:
            self.close()
            raise
        first = self._environments[0]
        self._name = first.spec.id if first.spec else type(first.unwrapped).__name__
        self._observation_space = spaces.flat_space(spaces.parse_space(first.observation_space))
        self._action_space = _flat_action_space(first.action_space, self._name)

    def _run(self, policy: Policy, seeds: np.ndarray) -> EvaluationResult:
        rollout = _Rollout(self._environments, self._num_lanes, seeds, self._observation_space)
        policy_states = _initial_states(policy, (self._num_lanes, self._num_slots))
        while rollout.running:
            actions, policy_states = _act(
                self._deterministic,
                policy,
                rollout.observations,
                rollout.seeds,
                rollout.times,
                policy_states,
            )
            rollout.step(np.asarray(actions))
        return rollout.result()


@dataclasses.dataclass(eq=False)
class _Slot:
    """One environment, and the episode that it plays."""

    environment: gymnasium.Env
    index: tuple[int, int]  # lane, position in the lane
    episode: int = 0
    episode_return: float = 0.0
    length: int = 0
    success: bool = False


class _Rollout:
    """One evaluation: arrays with axes (lane, slot) for the policy, and the finished episodes."""

    def __init__(
        self,
        environments: list[gymnasium.Env],
        num_lanes: int,
        seeds: np.ndarray,
        observation_space: Box,
    ):
        slots_shape = (num_lanes, len(environments) // num_lanes)
        results_shape = (num_lanes, len(seeds))
        self._action_shape = environments[0].action_space.shape or ()
        self._action_dtype = environments[0].action_space.dtype
        self._episode_seeds = seeds
        self._waiting = [iter(range(len(seeds))) for _ in range(num_lanes)]
        self._returns = np.zeros(results_shape)
        self._lengths = np.zeros(results_shape, np.int64)
        self._successes = np.zeros(results_shape, bool)
        self._reports_success = False
        self.observations = np.zeros(slots_shape + observation_space.shape, observation_space.dtype)
        self.seeds = np.zeros(slots_shape, np.uint32)  # of the episode that the slot plays
        self.times = np.zeros(slots_shape, np.int32)  # steps of that episode; 0: it has just begun
        slots = zip(environments, np.ndindex(slots_shape), strict=True)
        self.running = [_Slot(environment, index) for environment, index in slots]
        for slot in self.running:
            self._start_next(slot)

    def step(self, actions: np.ndarray) -> None:
        """One step of every episode under way; `actions` has the leading axes (lane, slot)."""
        actions = actions.reshape(self.times.shape + self._action_shape)
        actions = actions.astype(self._action_dtype, copy=False)
        ended = []
        for slot in self.running:
            observation, reward, terminated, truncated, info = slot.environment.step(
                actions[slot.index]
            )
            self.observations[slot.index] = observation
            slot.episode_return += float(reward)
            slot.length += 1
            for key in _SUCCESS_KEYS:
                if key in info:
                    self._reports_success = True
                    slot.success |= bool(np.any(info[key]))
            if terminated or truncated:
                ended.append(slot)
        self.times += 1
        for slot in ended:
            self._finish(slot)

    def result(self) -> EvaluationResult:
        """The results, once nothing is running."""
        successes = self._successes if self._reports_success else None
        return EvaluationResult(self._returns, self._lengths, successes)

    def _finish(self, slot: _Slot) -> None:
        """Writes the episode's results down and lets the slot go on with the next one."""
        row = (slot.index[0], slot.episode)
        self._returns[row] = slot.episode_return
        self._lengths[row] = slot.length
        self._successes[row] = slot.success
        if not self._start_next(slot):
            self.running.remove(slot)

    def _start_next(self, slot: _Slot) -> bool:
        """Begins the lane's next episode in this slot; False if none is left."""
        episode = next(self._waiting[slot.index[0]], None)
        if episode is None:
            return False
        slot.episode, slot.episode_return, slot.length, slot.success = episode, 0.0, 0, False
        seed = int(self._episode_seeds[episode])
        self.observations[slot.index], _ = slot.environment.reset(seed=seed)
        self.seeds[slot.index] = seed
        self.times[slot.index] = 0
        return True


_initial_states = jax.jit(policy_lib.initial_states, static_argnums=1)


@functools.partial(jax.jit, static_argnums=0)
def _act(deterministic, policy, observations, seeds, times, policy_states):
    """Actions and next policy states of all lanes and slots, leading axes (L, S)."""

    def one_slot(policy, initial_state, observation, seed, time, policy_state):
        key = jax.random.fold_in(episode_keys(seed).policy, time)
        policy_state = jax.tree.map(
            lambda first, now: jnp.where(time == 0, first, now), initial_state, policy_state
        )
        return policy(observation, key, policy_state, deterministic=deterministic)

    def one_lane(policy, *slots):
        function = functools.partial(one_slot, policy, policy.initial_state())
        return jax.vmap(function)(*slots)

    return policy_lib.map_lanes(one_lane, policy, observations, seeds, times, policy_states)


def _open_flat(factory: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """One environment whose observations are vectors or images, as in a `ddm.data.Dataset`."""
    import gymnasium

    with quiet():
        environment = factory()
        space = environment.observation_space
        is_vector = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
        if not is_vector and not spaces.is_image(spaces.parse_space(space)):
            environment = gymnasium.wrappers.FlattenObservation(environment)
    return environment


def _flat_action_space(space: gymnasium.Space, name: str) -> Space:
    """The space of the actions that a policy gives.

    Raises:
      InputError: neither Box nor Discrete.
    """
    import gymnasium

    if isinstance(space, gymnasium.spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, gymnasium.spaces.Box):
        return spaces.flat_space(spaces.parse_space(space))
    raise InputError(f"{name}: the action space {space} is neither Box nor Discrete")
