"""Finite Markov decision processes as pytrees of arrays.

Terminal states have the value zero, whatever their rows hold: the step that enters them earns the
reward. A dense and a sparse form have the same few methods, and everything else (`solvers`,
`environment`) uses only these. All leaves may be traced and carry a leading axis under `vmap`,
without any checks. :func:`make_mdp` and :func:`make_sparse_mdp` check.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.errors import InputError
from ddm.types import PRNGKey

_ROW_TOLERANCE = 1e-5  # of the sum of a row of probabilities; float32 data needs more than float64


class TabularMDP(struct.PyTreeNode):
    """S states and A actions, dense."""

    transitions: jax.Array  # (S, A, S) probabilities of the next state
    rewards: jax.Array  # broadcasts to (S, A, S): reward of (state, action, next state)
    initial: jax.Array  # (S,) probabilities of the first state
    discount: jax.Array  # () in [0, 1]
    terminal: jax.Array  # (S,) bool

    @property
    def num_states(self) -> int:
        """S."""
        return self.transitions.shape[-1]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.transitions.shape[-2]

    def expected_rewards(self) -> jax.Array:
        """(S, A) mean reward of a step."""
        if self.rewards.shape[-1] == 1:  # does not depend on the next state
            return jnp.broadcast_to(self.rewards[..., 0], self.transitions.shape[:-1])
        return jnp.sum(self.transitions * self.rewards, axis=-1)

    def expected_next(self, values: jax.Array) -> jax.Array:
        """(S, A) mean of `values` (S,) at the next state."""
        return self.transitions @ values

    def chain(self, policy: jax.Array) -> jax.Array:
        """(S, S) transition probabilities under a policy (S, A)."""
        return jnp.einsum("sa,san->sn", policy, self.transitions)

    def sample(
        self, key: PRNGKey, state: jax.Array, action: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The next state, int32, and the reward of one step."""
        next_state = draw(key, self.transitions[state, action])
        rewards = jnp.broadcast_to(self.rewards, self.transitions.shape)
        return next_state, rewards[state, action, next_state]


class SparseTabularMDP(struct.PyTreeNode):
    """S states and A actions, at most K of the states within one step of each pair."""

    next_states: jax.Array  # (S, A, K) int32
    probabilities: jax.Array  # (S, A, K)
    rewards: jax.Array  # broadcasts to (S, A, K)
    initial: jax.Array  # (S,) probabilities of the first state
    discount: jax.Array  # () in [0, 1]
    terminal: jax.Array  # (S,) bool

    @property
    def num_states(self) -> int:
        """S."""
        return self.next_states.shape[-3]

    @property
    def num_actions(self) -> int:
        """A."""
        return self.next_states.shape[-2]

    def expected_rewards(self) -> jax.Array:
        """(S, A) mean reward of a step."""
        return jnp.sum(self.probabilities * self.rewards, axis=-1)

    def expected_next(self, values: jax.Array) -> jax.Array:
        """(S, A) mean of `values` (S,) at the next state."""
        return jnp.sum(self.probabilities * values[self.next_states], axis=-1)

    def chain(self, policy: jax.Array) -> jax.Array:
        """(S, S) transition probabilities under a policy (S, A)."""
        rows = jnp.arange(self.num_states)[:, None, None]
        flow = policy[..., None] * self.probabilities
        empty = jnp.zeros((self.num_states, self.num_states), flow.dtype)
        return empty.at[rows, self.next_states].add(flow)

    def sample(
        self, key: PRNGKey, state: jax.Array, action: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The next state, int32, and the reward of one step."""
        branch = draw(key, self.probabilities[state, action])
        rewards = jnp.broadcast_to(self.rewards, self.probabilities.shape)
        return self.next_states[state, action, branch], rewards[state, action, branch]

    def dense(self) -> TabularMDP:
        """The same process with its full transition array; rewards become their means."""
        rows = jnp.arange(self.num_states)[:, None, None]
        columns = jnp.arange(self.num_actions)[None, :, None]
        shape = (self.num_states, self.num_actions, self.num_states)
        empty = jnp.zeros(shape, self.probabilities.dtype)
        return TabularMDP(
            transitions=empty.at[rows, columns, self.next_states].add(self.probabilities),
            rewards=self.expected_rewards()[..., None],
            initial=self.initial,
            discount=self.discount,
            terminal=self.terminal,
        )


MDP = TabularMDP | SparseTabularMDP


def make_mdp(
    transitions: Any, rewards: Any, initial: Any, discount: float, terminal: Any = None
) -> TabularMDP:
    """Checks the arrays of a finite MDP and makes the MDP.

    Args:
      transitions: (S, A, S) probabilities of the next state.
      rewards: (S, A), or anything that broadcasts to (S, A, S).
      initial: (S,) probabilities of the first state, or the index of the only one.
      discount: in [0, 1].
      terminal: (S,) bool; None for no terminal state.

    Returns:
      The MDP, in JAX's default precision.

    Raises:
      InputError: naming the array, and the state and action where it is wrong.
    """
    transitions = np.asarray(transitions)
    if transitions.ndim != 3 or transitions.shape[0] != transitions.shape[2]:
        raise InputError(
            f"transitions have shape {transitions.shape}, expected (states, actions, states)"
        )
    num_states, num_actions, _ = transitions.shape
    check_probabilities("transitions", transitions)
    rewards = np.asarray(rewards, dtype=float)
    if rewards.shape == (num_states, num_actions):
        rewards = rewards[..., None]
    _check_rewards(rewards, transitions.shape)
    return TabularMDP(
        transitions=jnp.asarray(transitions, float),
        rewards=jnp.asarray(rewards, float),
        **_checked_rest(num_states, initial, discount, terminal),
    )


def make_sparse_mdp(
    next_states: Any,
    probabilities: Any,
    rewards: Any,
    initial: Any,
    discount: float,
    terminal: Any = None,
) -> SparseTabularMDP:
    """Checks the arrays of a finite MDP with few successors and makes the MDP.

    Args:
      next_states: (S, A, K) integers, the states within one step; may repeat.
      probabilities: (S, A, K) of these.
      rewards: (S, A), or anything that broadcasts to (S, A, K).
      initial: as in :func:`make_mdp`, as are `discount` and `terminal`.
      discount: in [0, 1].
      terminal: (S,) bool; None for no terminal state.

    Raises:
      InputError: naming the array, and the state and action where it is wrong.
    """
    next_states, probabilities = np.asarray(next_states), np.asarray(probabilities)
    if next_states.ndim != 3 or next_states.shape != probabilities.shape:
        raise InputError(
            f"next_states and probabilities have shapes {next_states.shape} and "
            f"{probabilities.shape}, expected (states, actions, successors) for both"
        )
    num_states, num_actions, _ = next_states.shape
    outside = (next_states < 0) | (next_states >= num_states)
    if next_states.dtype.kind not in "iu" or np.any(outside):
        found = next_states[outside][0] if np.any(outside) else next_states.dtype
        raise InputError(f"next_states hold {found}, expected integers from 0 to {num_states - 1}")
    check_probabilities("probabilities", probabilities)
    rewards = np.asarray(rewards, dtype=float)
    if rewards.shape == (num_states, num_actions):
        rewards = rewards[..., None]
    _check_rewards(rewards, next_states.shape)
    return SparseTabularMDP(
        next_states=jnp.asarray(next_states, jnp.int32),
        probabilities=jnp.asarray(probabilities, float),
        rewards=jnp.asarray(rewards, float),
        **_checked_rest(num_states, initial, discount, terminal),
    )


def check_discount(discount: float) -> float:
    """The discount, refused outside [0, 1]."""
    if not 0.0 <= discount <= 1.0:
        raise InputError(f"discount is {discount}, expected a number in [0, 1]")
    return discount


def check_probabilities(name: str, rows: np.ndarray) -> None:
    """Refuses rows (..., S) that are not probabilities, naming the first one."""
    wrong = ~(np.abs(np.sum(rows, axis=-1, dtype=float) - 1.0) <= _ROW_TOLERANCE)
    wrong |= ~np.all(rows >= 0.0, axis=-1)
    if np.any(wrong):
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        row = rows[index]
        where = f"{name}[{', '.join(map(str, index))}]" if index else name
        if np.all(row >= 0.0):
            raise InputError(f"{where} sums to {np.sum(row, dtype=float):.6g}, expected 1")
        raise InputError(f"{where} holds {np.min(row):.6g}, expected probabilities")


def check_policy(mdp: MDP, policy: Any, name: str = "policy") -> jax.Array:
    """The policy as an array, refused unless it is (S, A)."""
    policy = jnp.asarray(policy)
    expected = (mdp.num_states, mdp.num_actions)
    if policy.shape != expected:
        raise InputError(f"{name} has shape {policy.shape}, expected (states, actions) {expected}")
    return policy


def draw(key: PRNGKey, probabilities: jax.Array) -> jax.Array:
    """An index, int32, with the given probabilities (K,); never one of probability zero."""
    cumulative = jnp.cumsum(probabilities)
    # By rounding the last sum may differ from one; scaled by it, the draw always lies inside.
    threshold = jax.random.uniform(key, dtype=cumulative.dtype) * cumulative[-1]
    return jnp.argmax(cumulative > threshold).astype(jnp.int32)


def _check_rewards(rewards: np.ndarray, shape: tuple[int, ...]) -> None:
    try:
        fits = np.broadcast_shapes(rewards.shape, shape) == shape and rewards.ndim == 3
    except ValueError:
        fits = False
    if not fits:
        raise InputError(
            f"rewards have shape {rewards.shape}, "
            f"expected {shape[:2]}, or what broadcasts to {shape}"
        )
    if not np.all(np.isfinite(rewards)):
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(rewards))[0])
        raise InputError(f"rewards{list(index)} is {rewards[index]}, expected a finite number")


def _check_state(name: str, state: int, num_states: int) -> None:
    if not 0 <= state < num_states:
        raise InputError(f"{name} is state {state}, expected 0 to {num_states - 1}")


def _checked_rest(
    num_states: int, initial: Any, discount: float, terminal: Any
) -> dict[str, jax.Array]:
    """The checked arrays that both forms share."""
    if np.ndim(initial) == 0:
        _check_state("initial", int(initial), num_states)
        initial = np.eye(num_states)[int(initial)]
    initial = np.asarray(initial)
    if initial.shape != (num_states,):
        raise InputError(f"initial has shape {initial.shape}, expected ({num_states},)")
    check_probabilities("initial", initial)
    terminal = np.zeros(num_states, bool) if terminal is None else np.asarray(terminal)
    if terminal.shape != (num_states,) or terminal.dtype != bool:
        raise InputError(
            f"terminal is {terminal.dtype} of shape {terminal.shape}, expected bool ({num_states},)"
        )
    return {
        "initial": jnp.asarray(initial, float),
        "discount": jnp.asarray(check_discount(discount), float),
        "terminal": jnp.asarray(terminal),
    }
