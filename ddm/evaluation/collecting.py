"""Experience from gymnasium environments, stepped on the host between two calls of the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ddm.data import spaces
from ddm.errors import EvaluationError
from ddm.evaluation import hosted, simulators
from ddm.evaluation.matching import check_spaces
from ddm.evaluation.policy import Policy
from ddm.types import Batch, Discrete, PyTree, Space

if TYPE_CHECKING:
    import gymnasium


class HostStream:
    """Simulators that run on from call to call, `copies` per lane; ended episodes are replaced.

    The state of a simulator cannot be saved. So new episodes begin at every checkpoint, with seeds
    that follow from its gradient step, in a run that continues and in one that is resumed there.
    Both see the same episodes, if the simulator depends only on its seed.

    Args:
      factory: makes one environment at each call.
      seeds: of the lanes; equal seeds see equal episodes.
      copies: simulators of each lane.
    """

    def __init__(self, factory: Callable[[], gymnasium.Env], seeds: Sequence[int], copies: int):
        self._lane_seeds = list(seeds)
        self._shape = (len(self._lane_seeds), copies)
        self._pool = simulators.Pool(factory, len(self._lane_seeds), copies)
        with simulators.user_generators_kept():
            self._pool.open()
        first = self._pool.simulators[0]
        self.name = first.name
        self._gym_actions = first.environment.action_space
        tree = spaces.parse_space(first.environment.observation_space)
        self.observation_space = spaces.flat_space(tree)
        self.action_space: Space = simulators.flat_action_space(self._gym_actions, self.name)
        self.episodes = 0  # how many have ended since the last restart
        # (L, copies) undiscounted, of the last episodes that ended; 0 before any ended
        self.last_returns = np.zeros(self._shape)
        self.restart(0)

    def restart(self, step: int) -> None:
        """Begins new episodes everywhere, as at the checkpoint of this gradient step."""
        self._step = step
        self._begun = np.zeros(self._shape, np.int64)
        self._returns = np.zeros(self._shape)
        self._times = np.zeros(self._shape, np.int32)
        self._seeds = np.zeros(self._shape, np.uint32)
        self._random = np.random.default_rng([step, *self._lane_seeds])
        self._policy_states: PyTree = None
        space = self.observation_space
        self._observations = np.zeros(self._shape + space.shape, space.dtype)
        with simulators.user_generators_kept():
            for slot in np.ndindex(self._shape):
                self._begin(slot)

    def collect(self, policy: Policy | None, steps: int) -> Batch:
        """The next steps of every simulator.

        Args:
          policy: with the leading axis of lanes; its actions are sampled. None: uniformly random
          actions.
          steps: of each simulator.

        Returns:
          Transitions as numpy arrays (L, steps * copies, ...), in the environment's units.

        Raises:
          InputError: the policy was trained on other spaces.
          EvaluationError: a simulator fails, or an action is not finite.
        """
        if policy is not None:
            check_spaces(policy, self.name, self.observation_space, self.action_space)
            if self._policy_states is None:
                self._policy_states = hosted.initial_states(policy, self._shape)
        with simulators.user_generators_kept():
            rows = [self._advance(policy) for _ in range(steps)]
        # (steps, L, copies, ...) to (L, steps * copies, ...)
        return jax.tree.map(
            lambda *parts: np.stack(parts, axis=1).reshape(
                self._shape[0], steps * self._shape[1], *parts[0].shape[2:]
            ),
            *rows,
        )

    def close(self) -> None:
        """Closes the simulators."""
        self._pool.close()

    def _advance(self, policy: Policy | None) -> Batch:
        """One step of every simulator, (L, copies, ...)."""
        before = self._observations.copy()
        chosen = self._random_actions() if policy is None else self._act(policy)
        if not np.isfinite(chosen).all():
            raise EvaluationError(f"{self.name}: an action to collect with is not finite")
        actions = simulators.to_actions(chosen, self._gym_actions)
        rewards = np.zeros(self._shape, np.float32)
        ends = np.zeros((2, *self._shape), bool)
        after = np.empty_like(before)
        for slot, simulator in zip(np.ndindex(self._shape), self._pool.simulators, strict=True):
            outcome = simulator.step(actions[slot])
            after[slot], rewards[slot] = outcome.observation, outcome.reward
            ends[(0, *slot)] = outcome.terminated
            ends[(1, *slot)] = outcome.ended and not outcome.terminated
        self._observations = after.copy()
        self._times += 1
        self._returns += rewards
        for slot in zip(*np.nonzero(ends.any(axis=0)), strict=True):
            self.last_returns[slot] = self._returns[slot]
            self.episodes += 1
            self._begin(slot)
        rows: dict[str, Any] = {  # numpy arrays, where a batch has JAX's
            "observations": before,
            "actions": chosen,
            "rewards": rewards,
            "next_observations": after,
            "terminations": ends[0],
            "truncations": ends[1],
        }
        return Batch(**rows)

    def _begin(self, slot: tuple[Any, ...]) -> None:
        """The next episode of a simulator, with a seed that no other episode has."""
        lane, copy = (int(i) for i in slot)
        entropy = [self._lane_seeds[lane], self._step, copy, int(self._begun[slot])]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
        simulator = self._pool.simulators[lane * self._shape[1] + copy]
        self._observations[slot] = simulator.reset(seed)
        self._begun[slot] += 1
        self._seeds[slot], self._times[slot], self._returns[slot] = seed, 0, 0.0

    def _act(self, policy: Policy) -> np.ndarray:
        actions, self._policy_states = hosted.act(
            False,
            (self.name, self.action_space),
            policy,
            self._observations,
            self._seeds,
            self._times,
            self._policy_states,
        )
        return np.asarray(actions)

    def _random_actions(self) -> np.ndarray:
        space = self.action_space
        if isinstance(space, Discrete):
            return self._random.integers(space.start, space.start + space.n, self._shape, np.int32)
        low, high = np.asarray(space.low), np.asarray(space.high)
        if not np.isfinite([low, high]).all():
            raise EvaluationError(f"{self.name}: actions have no bounds to draw from at random")
        drawn = self._random.uniform(low, high, (*self._shape, low.size))
        return drawn.reshape(*self._shape, *space.shape).astype(np.float32)
