"""Copies of a pure environment that never stop: experience step by step, inside a scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from ddm.envs.base import Environment
from ddm.errors import InputError
from ddm.types import Batch, Discrete, PRNGKey, PyTree, Space

# (observation, key, policy state) -> (action, policy state), for one copy, in its own units
PolicyFn = Callable[[jax.Array, PRNGKey, PyTree], tuple[jax.Array, PyTree]]


class Stream(struct.PyTreeNode):
    """N copies of a pure environment between two steps; when an episode ends, a new one begins."""

    observations: jax.Array  # (N, *O), in the environment's units
    env_states: Any  # leaves (N, ...)
    policy_states: PyTree  # leaves (N, ...); the empty tuple for a policy without memory
    returns: jax.Array  # (N,) float32 undiscounted, of the running episodes
    last_returns: jax.Array  # (N,) float32 of the last episodes that ended; 0 before
    episodes: jax.Array  # () int32, how many have ended


def start(
    environment: Environment,
    params: Any,
    key: PRNGKey,
    copies: int,
    policy_state: PyTree = (),
) -> Stream:
    """Copies at the start of their first episodes.

    Args:
      environment: a pure environment.
      params: its parameters.
      key: used once.
      copies: N.
      policy_state: of one copy at the start of an episode.

    Raises:
      InputError: no copy.
    """
    if copies < 1:
        raise InputError(f"a stream has {copies} copies of {environment.name}, expected at least 1")
    observations, env_states = _reset(environment, params, jax.random.split(key, copies))
    return Stream(
        observations=observations,
        env_states=env_states,
        policy_states=_repeat(policy_state, copies),
        returns=jnp.zeros(copies, jnp.float32),
        last_returns=jnp.zeros(copies, jnp.float32),
        episodes=jnp.zeros((), jnp.int32),
    )


def advance(
    environment: Environment,
    params: Any,
    policy: PolicyFn,
    stream: Stream,
    key: PRNGKey,
    policy_state: PyTree = (),
) -> tuple[Stream, Batch]:
    """One step of every copy.

    Args:
      environment: a pure environment.
      params: its parameters.
      policy: acts for one copy, in the environment's units.
      stream: where the copies stand.
      key: used once.
      policy_state: of one copy at the start of an episode, for copies that begin a new one.

    Returns:
      The stream afterwards, and the N transitions in the environment's units. A successor is the
      observation that was reached, even if the episode ended there and the copy begins a new one.
    """
    copies = stream.observations.shape[0]
    act_key, step_key, reset_key = jax.random.split(key, 3)
    actions, policy_states = jax.vmap(policy)(
        stream.observations, jax.random.split(act_key, copies), stream.policy_states
    )
    return move(
        environment, params, stream, actions, policy_states, (step_key, reset_key), policy_state
    )


def move(
    environment: Environment,
    params: Any,
    stream: Stream,
    actions: jax.Array,
    policy_states: PyTree,
    keys: tuple[PRNGKey, PRNGKey],
    policy_state: PyTree = (),
) -> tuple[Stream, Batch]:
    """One step of every copy with given actions.

    Args:
      environment: a pure environment.
      params: its parameters.
      stream: where the copies stand.
      actions: (N, A) or (N,) in the environment's units.
      policy_states: leaves (N, ...), after the policy acted.
      keys: for the step, and for the episodes that begin.
      policy_state: of one copy at the start of an episode.

    Returns:
      As :func:`advance`.
    """
    copies = stream.observations.shape[0]
    step_key, reset_key = keys
    observations, env_states, rewards, terminations, truncations, _ = jax.vmap(
        environment.step, (0, 0, 0, None)
    )(jax.random.split(step_key, copies), stream.env_states, actions, params)
    rows = Batch(
        observations=stream.observations,
        actions=actions,
        rewards=rewards,
        next_observations=observations,
        terminations=terminations,
        truncations=truncations,
    )
    ended = terminations | truncations
    fresh = (*_reset(environment, params, jax.random.split(reset_key, copies)),)
    pick = jax.vmap(jnp.where)
    going_on = (observations, env_states, policy_states)
    observations, env_states, policy_states = jax.tree.map(
        lambda new, old: pick(ended, new, old), (*fresh, _repeat(policy_state, copies)), going_on
    )
    returns = stream.returns + rewards
    after = Stream(
        observations=observations,
        env_states=env_states,
        policy_states=policy_states,
        returns=jnp.where(ended, 0.0, returns),
        last_returns=jnp.where(ended, returns, stream.last_returns),
        episodes=stream.episodes + jnp.sum(ended, dtype=jnp.int32),
    )
    return after, rows


def random_action(space: Space, key: PRNGKey) -> jax.Array:
    """An action that is uniform in its space, in the environment's units.

    Raises:
      InputError: a box without bounds.
    """
    if isinstance(space, Discrete):
        return jax.random.randint(key, (), space.start, space.start + space.n, jnp.int32)
    low, high = (jnp.asarray(bound, jnp.float32) for bound in (space.low, space.high))
    if not all(abs(bound) < float("inf") for bound in (*space.low, *space.high)):
        raise InputError(f"actions of shape {space.shape} have no bounds to draw from at random")
    return jax.random.uniform(key, low.shape, jnp.float32, low, high).reshape(space.shape)


def _reset(environment: Environment, params: Any, keys: PRNGKey) -> tuple[jax.Array, Any]:
    return jax.vmap(environment.reset, (0, None))(keys, params)


def _repeat(tree: PyTree, copies: int) -> PyTree:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (copies, *jnp.shape(x))), tree)
