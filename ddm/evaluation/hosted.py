"""Evaluation in gymnasium environments, stepped on the host.

All lanes and episodes are stepped together: one batched, jitted call per step acts for all of them.
Its shapes never change, so it compiles once: a slot whose episode has ended takes the next episode
of its lane, and is idle when none is left. gymnasium's vector environments are not used: they still
step episodes that have ended, and copy every observation twice.
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
from ddm.errors import EvaluationError, InputError
from ddm.evaluation import policy as policy_lib
from ddm.evaluation import simulators
from ddm.evaluation.matching import check_action, check_spaces
from ddm.evaluation.policy import Policy
from ddm.evaluation.results import EvaluationResult, episode_seeds
from ddm.evaluation.simulators import Simulator
from ddm.types import Box

if TYPE_CHECKING:
    import gymnasium


class GymnasiumEvaluator:
    """A function (policy with lanes, seed) -> EvaluationResult; see `make_evaluator`.

    It keeps its environments open between calls: making one with MuJoCo costs 10 to 50 ms, an arm
    half a second.
    """

    def __init__(
        self,
        factory: Callable[[], gymnasium.Env],
        num_lanes: int,
        num_episodes: int,
        deterministic: bool,
        max_environments: int = 0,
    ):
        most = max_environments or simulators.MAX_ENVIRONMENTS
        num_slots = max(1, min(num_episodes, most // num_lanes))
        self._num_episodes = num_episodes
        self._num_lanes = num_lanes
        self._deterministic = deterministic
        self._pool = simulators.Pool(factory, num_lanes, num_slots)
        self._open(measure=not max_environments)

    @property
    def num_environments(self) -> int:
        """The number of open environments."""
        return len(self._pool.simulators)

    def __call__(self, policy: Policy, seed: int) -> EvaluationResult:
        """Evaluates all lanes of the policy; closes the environments if one of them fails.

        Raises:
          InputError: the policy was trained on other spaces, or has another number of lanes.
          EvaluationError: a simulator fails; its episode and step are named.
        """
        rollout = self._run(policy, seed)
        return rollout.result()

    def check(self, policy: Policy) -> None:
        """Finds before the training why an evaluation would fail, by one step of each slot.

        Later evaluations are not changed: each of them resets the environments.

        Raises:
          InputError, EvaluationError: as a call.
        """
        self._run(policy, 0, max_steps=1)

    def close(self) -> None:
        """Closes the environments; a later call opens them again."""
        self._pool.close()

    def __enter__(self) -> GymnasiumEvaluator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self, *, measure: bool = False) -> None:
        with simulators.user_generators_kept():
            self._pool.open(measure=measure)
        first = self._pool.simulators[0]
        self._name = first.name
        try:
            tree = spaces.parse_space(first.environment.observation_space)
            self._observation_space = spaces.flat_space(tree)
            space = first.environment.action_space
            self._action_space = simulators.flat_action_space(space, self._name)
        except BaseException:
            self.close()
            raise

    def _run(self, policy: Policy, seed: int, max_steps: int | None = None) -> _Rollout:
        """All episodes, or the first steps of the first ones."""
        if policy_lib.num_lanes(policy) != self._num_lanes:
            raise InputError(
                f"the policy has {policy_lib.num_lanes(policy)} lanes, the evaluator was made "
                f"for {self._num_lanes}"
            )
        check_spaces(policy, self._name, self._observation_space, self._action_space)
        try:
            self._open()
            with simulators.user_generators_kept():
                return self._play(policy, episode_seeds(seed, self._num_episodes), max_steps)
        except BaseException:
            self.close()
            raise

    def _play(self, policy: Policy, seeds: np.ndarray, max_steps: int | None) -> _Rollout:
        pool = self._pool.simulators
        rollout = _Rollout(pool, self._num_lanes, seeds, self._observation_space)
        policy_states = initial_states(policy, rollout.times.shape)
        steps = 0
        while rollout.running and steps != max_steps:
            actions, policy_states = act(
                self._deterministic,
                (self._name, self._action_space),
                policy,
                rollout.observations,
                rollout.seeds,
                rollout.times,
                policy_states,
            )
            rollout.step(np.asarray(actions))
            steps += 1
        return rollout


@dataclasses.dataclass(eq=False)
class _Slot:
    """One simulator, and the episode that it plays."""

    simulator: Simulator
    index: tuple[int, int]  # lane, position in the lane
    episode: int = 0
    episode_return: float = 0.0
    length: int = 0
    success: bool = False


class _Rollout:
    """One evaluation: arrays with axes (lane, slot) for the policy, and the finished episodes."""

    def __init__(
        self,
        pool: list[Simulator],
        num_lanes: int,
        seeds: np.ndarray,
        observation_space: Box,
    ):
        slots_shape = (num_lanes, len(pool) // num_lanes)
        results_shape = (num_lanes, len(seeds))
        self._name = pool[0].name
        self._action_space = pool[0].environment.action_space
        self._episode_seeds = seeds
        self._waiting = [iter(range(len(seeds))) for _ in range(num_lanes)]
        self._returns = np.zeros(results_shape)
        self._lengths = np.zeros(results_shape, np.int64)
        self._successes = np.zeros(results_shape, bool)
        self._reports_success = False
        self.observations = np.zeros(slots_shape + observation_space.shape, observation_space.dtype)
        self.seeds = np.zeros(slots_shape, np.uint32)  # of the episode that the slot plays
        self.times = np.zeros(slots_shape, np.int32)  # steps of that episode; 0: it has just begun
        slots = zip(pool, np.ndindex(slots_shape), strict=True)
        self.running = [_Slot(simulator, index) for simulator, index in slots]
        for slot in list(self.running):
            self._start_next(slot)

    def step(self, actions: np.ndarray) -> None:
        """One step of every episode under way; `actions` has the leading axes (lane, slot)."""
        self._check_finite(actions)
        actions = simulators.to_actions(actions, self._action_space)
        ended = []
        for slot in self.running:
            outcome = slot.simulator.step(actions[slot.index])
            self.observations[slot.index] = outcome.observation
            slot.episode_return += outcome.reward
            slot.length += 1
            if outcome.success is not None:
                self._reports_success = True
                slot.success |= outcome.success
            if outcome.ended:
                ended.append(slot)
        self.times += 1
        for slot in ended:
            self._finish(slot)

    def _check_finite(self, actions: np.ndarray) -> None:
        if np.isfinite(actions).all():
            return
        for slot in self.running:  # what an idle slot does is ignored
            if not np.isfinite(actions[slot.index]).all():
                raise EvaluationError(
                    f"{self._name}: the policy's action is not finite at step {slot.length + 1} "
                    f"of the episode with seed {self.seeds[slot.index]} (lane {slot.index[0]})"
                )

    def result(self) -> EvaluationResult:
        """The results, when all episodes have ended."""
        successes = self._successes if self._reports_success else None
        return EvaluationResult(self._returns, self._lengths, successes)

    def _finish(self, slot: _Slot) -> None:
        """Stores the episode's results, and the slot continues with the next episode."""
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
        self.observations[slot.index] = slot.simulator.reset(seed)
        self.seeds[slot.index] = seed
        self.times[slot.index] = 0
        return True


initial_states = jax.jit(policy_lib.initial_states, static_argnums=1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def act(deterministic, place, policy, observations, seeds, times, policy_states):
    """Actions and next policy states of all lanes and slots, leading axes (L, S)."""
    name, action_space = place

    def one_slot(policy, initial_state, observation, seed, time, policy_state):
        key = jax.random.fold_in(episode_keys(seed).policy, time)
        policy_state = jax.tree.map(
            lambda first, now: jnp.where(time == 0, first, now), initial_state, policy_state
        )
        action, policy_state = policy(observation, key, policy_state, deterministic=deterministic)
        check_action(action, action_space, name)
        return action, policy_state

    def one_lane(policy, *slots):
        function = functools.partial(one_slot, policy, policy.initial_state())
        return jax.vmap(function)(*slots)

    return policy_lib.map_lanes(one_lane, policy, observations, seeds, times, policy_states)
