"""The fork bandit as batches, and how good a policy's actions are there."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm.envs.fork import Fork
from ddm.types import Batch, initial_policy_state

FORK = Fork()  # two branches, one dimension
BEST_LOG_PROB = -np.log(2.0) - np.log(0.05) - 0.5 * np.log(2 * np.pi * np.e)  # 0.884


def demonstrations(rows: int, seed: int = 0, fork: Fork = FORK, window: int | None = None) -> Batch:
    """Positions and demonstrated actions; (rows, window, .) and a full mask if there is one."""
    position_key, action_key = jax.random.split(jax.random.key(seed))
    leading = (rows,) if window is None else (rows, window)
    positions = jax.random.uniform(position_key, (*leading, 1), minval=-1.0, maxval=1.0)
    mask = None if window is None else jnp.ones(leading, bool)
    return Batch(observations=positions, actions=fork.demonstrate(action_key, positions), mask=mask)


def act_at(
    algorithm: Any, config: Any, state: Any, observations: jax.Array, *, deterministic: bool = False
) -> jax.Array:
    """The first action (B, A) of an episode that begins at each of the observations (B, 1)."""
    keys = jax.random.split(jax.random.key(2), len(observations))
    return _first_actions(algorithm, deterministic)(config, state, observations, keys)


@functools.cache
def _first_actions(algorithm: Any, deterministic: bool) -> Any:
    """One compiled function for all configurations that differ in numbers, and all states."""

    def first(config: Any, state: Any, observation: jax.Array, key: jax.Array) -> jax.Array:
        policy_state = initial_policy_state(algorithm, config, state)
        action, _ = algorithm.act(
            config, state, observation, key, policy_state, deterministic=deterministic
        )
        return action

    return jax.jit(jax.vmap(first, (None, None, 0, 0)))


def validity(observations: jax.Array, actions: jax.Array, fork: Fork = FORK) -> float:
    """Share of the actions that lie near a branch; 0.997 for the demonstrator."""
    return float(jnp.mean(fork.is_valid(observations, actions)))
