"""Experience from gymnasium environments, stepped on the host between two calls of the device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ddm.data import spaces
from ddm.errors import EvaluationError
from ddm.evaluation import experts, hosted, simulators, supervision
from ddm.evaluation import policy as policy_lib
from ddm.evaluation.matching import check_spaces
from ddm.evaluation.policy import Policy
from ddm.types import Batch, Discrete, PyTree, Space

if TYPE_CHECKING:
    import gymnasium


_RULE = 7  # sets the keys of decisions apart from others of the same seed


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
        self._step, self._moved = step, 0
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
            self._prepare(policy)
        with simulators.user_generators_kept():
            rows = [self._advance(policy) for _ in range(steps)]
        return _by_lane(rows)

    def collect_labelled(
        self, policy: Policy, steps: int, expert: experts.Expert, memory: PyTree
    ) -> tuple[Batch, np.ndarray, PyTree]:
        """The next steps of every simulator, by the policy's mode or an expert who also labels.

        Args:
          policy: with the leading axis of lanes.
          steps: of each simulator.
          expert: asked once a step about all simulators; one that labels afterwards about the whole
            call.
          memory: of the algorithm's rule, with the leading axis of lanes.

        Returns:
          Transitions as :meth:`collect` gives them, whose actions are the labels; which of them
          were asked for, (L, steps * copies) bool; the rule's memory.

        Raises:
          InputError: the policy was trained on other spaces, or the expert gives what is no action.
          EvaluationError: a simulator fails, or an action is not finite.
        """
        self._prepare(policy)
        found = []
        with simulators.user_generators_kept():
            for _ in range(steps):
                rows, asked, memory = self._advance_labelled(policy, expert, memory)
                found.append((rows, asked))
        rows, asked = _by_lane(found)
        if isinstance(expert, experts.HostExpert) and expert.afterwards and asked.any():
            known = experts.labels_of(
                expert, rows.observations[asked], self.action_space, self.name
            )
            actions = np.array(rows.actions)
            actions[asked] = known
            rows = rows.replace(actions=actions)
        return rows, asked, memory

    def check_expert(self, expert: experts.Expert) -> None:
        """Refuses an expert that does not fit the environment; see `experts.check_expert`."""
        examples = self._observations.reshape(-1, *self.observation_space.shape)
        spaces = self.observation_space, self.action_space
        experts.check_expert(expert, self.name, *spaces, examples)

    def _prepare(self, policy: Policy) -> None:
        check_spaces(policy, self.name, self.observation_space, self.action_space)
        if self._policy_states is None:
            self._policy_states = hosted.initial_states(policy, self._shape)

    def close(self) -> None:
        """Closes the simulators."""
        self._pool.close()

    def _advance(self, policy: Policy | None) -> Batch:
        """One step of every simulator, (L, copies, ...)."""
        return self._move(self._random_actions() if policy is None else self._act(policy))

    def _advance_labelled(
        self, policy: Policy, expert: experts.Expert, memory: PyTree
    ) -> tuple[Batch, np.ndarray, PyTree]:
        """One step of every simulator with its labels, which of them were asked, the memory."""
        seen = self._observations.reshape(-1, *self.observation_space.shape).copy()
        proposals = self._act(policy, deterministic=True)
        flat = proposals.reshape(-1, *proposals.shape[2:])
        labels_later = isinstance(expert, experts.HostExpert) and expert.afterwards
        labels = flat
        if not labels_later:
            labels = experts.labels_of(expert, seen, self.action_space, self.name)
        wishes = np.asarray(experts.wishes_of(expert, seen, flat), bool).reshape(self._shape)
        actions, labels, asked, memory = _rule(
            not labels_later, policy, memory, self._observations, proposals,
            labels.reshape(proposals.shape), wishes, self._policy_states,
            np.asarray(self._lane_seeds, np.uint32), np.int32(self._step), np.int32(self._moved),
        )  # fmt: skip
        rows = self._move(np.asarray(actions))
        return rows.replace(actions=np.asarray(labels)), np.asarray(asked), memory

    def _move(self, chosen: np.ndarray) -> Batch:
        """One step of every simulator with these actions (L, copies, ...)."""
        before = self._observations.copy()
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
        self._moved += 1
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

    def _act(self, policy: Policy, *, deterministic: bool = False) -> np.ndarray:
        actions, self._policy_states = hosted.act(
            deterministic,
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


def _by_lane(rows: list[Any]) -> Any:
    """Trees of each step, leaves (L, copies, ...), as one with leaves (L, steps * copies, ...)."""

    def join(*parts: np.ndarray) -> np.ndarray:
        lanes, copies = parts[0].shape[:2]
        return np.stack(parts, axis=1).reshape(lanes, len(parts) * copies, *parts[0].shape[2:])

    return jax.tree.map(join, *rows)


@functools.partial(jax.jit, static_argnums=0)
def _rule(
    may_act, policy, memory, observations, proposals, labels, wishes, policy_states, seeds, step,
    moved,
):  # fmt: skip
    """The algorithm's decision for all lanes; see `supervision.rule`.

    The key of a step follows from the lane's seed, the last checkpoint and the steps since then, so
    a run that is resumed there decides alike.
    """

    def one_lane(lane, memory, seed, *values):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), moved)
        arguments: tuple[Any, ...] = (lane, memory, *values, jax.random.fold_in(key, _RULE))
        actions, labels, ruling, memory = supervision.rule(*arguments, may_act=may_act)
        return actions, labels, ruling.asked, memory

    values = observations, proposals, labels, wishes, policy_states
    return policy_lib.map_lanes(one_lane, policy, memory, seeds, *values)
