"""A model of a walled box that is exact, but that nobody trusts inside the wall.

A point moves in [-1, 1]^2 towards a goal on the right, at a cost of 0.1 for each step. A wall
stands between, around which a way leads above and one below. The log says nothing of the wall. The
members of the model all believe that one walks through it, and disagree by a known amount about
where one arrives. So the shortest way that is believed leads through the wall, and the shortest
safe one around it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ddm import networks
from ddm.model_based.parts import halting
from ddm.types import Batch

SPEED, COST = 0.25, 0.1
GOAL = (0.75, 0.0)
START = (-0.75, 0.3)
DOUBTS = (0.0, 0.02, -0.02, 0.01)  # of the members, so that they disagree by 0.04 in the wall


def move(observations: Any, actions: Any) -> Any:
    """Next positions (..., 2): at most `SPEED` far in any direction, and inside the box."""
    length = jnp.sqrt(jnp.sum(actions**2, axis=-1, keepdims=True))
    return jnp.clip(observations + SPEED * actions / jnp.maximum(length, 1.0), -1.0, 1.0)


def in_wall(positions: Any) -> Any:
    """(...) whether a position lies inside the wall."""
    x, y = positions[..., 0], positions[..., 1]
    return (jnp.abs(x) < 0.2) & (jnp.abs(y) < 0.65)


def at_goal(positions: Any) -> Any:
    """(...) whether the episode ends: the termination rule."""
    x, y = positions[..., 0] - GOAL[0], positions[..., 1] - GOAL[1]
    return (jnp.abs(x) < 0.2) & (jnp.abs(y) < 0.2)


class Member(nn.Module):
    """What one member believes; its only parameter moves where it arrives in the wall."""

    @nn.compact
    def __call__(self, observations: jax.Array, actions: jax.Array) -> networks.Outcome:
        doubt = self.param("doubt", nn.initializers.zeros_init(), (1,), jnp.float32)
        arrived = move(observations, actions)
        change = (arrived - observations).at[:, 0].add(doubt * in_wall(arrived))
        rewards = jnp.full_like(change[:, :1], -COST)
        mean = jnp.concatenate([rewards, change], axis=-1)
        return networks.Outcome(mean, jnp.zeros_like(mean), jnp.zeros_like(mean[:, 0]))


def member(config: Any, action_size: int) -> Member:
    """For `dynamics_network`."""
    del config, action_size
    return Member()


# Of a MOReL that plans in this model and does not train it.
MODEL = {
    "dynamics_network": member,
    "num_members": 4,
    "num_elites": 4,
    "max_epochs": 0,
    "steps_per_epoch": 1,
    "termination": at_goal,
    "threshold": "given",
    "threshold_coefficient": 0.01,
}


def start(algorithm: Any, config: Any, seed: int = 0, doubts: Any = DOUBTS) -> Any:
    """The state of a method whose model is given, with what its stage would measure on the log."""
    state = algorithm.init(config, jax.random.key(seed), log(8, 0))
    params = {"params": {"doubt": jnp.asarray(doubts, jnp.float32)[:, None]}}
    state = state.replace(model=state.model.replace(params=params))
    return state.replace(measured=halting.measure(config, state.model, log(64, 0)))


def passes_wall(path: np.ndarray) -> bool:
    """Whether one of the places (T, 2) lies inside the wall."""
    return bool(np.any(np.asarray(in_wall(path))))


def around(observations: jax.Array) -> jax.Array:
    """Actions (B, 2) of a demonstrator who keeps well above the wall."""
    x, y = observations[:, :1], observations[:, 1:]
    above = jnp.where((x > -0.4) & (y > 0.6), jnp.array([[0.5, 0.9]]), jnp.array([[-0.25, 0.9]]))
    way = jnp.where(x < 0.15, above, jnp.array([GOAL])) - observations
    return 0.8 * way / jnp.maximum(jnp.sqrt(jnp.sum(way**2, axis=-1, keepdims=True)), 0.25)


def log(rows: int, seed: int) -> Batch:
    """Random steps that do not lead into the wall, and places left of it where episodes begin."""
    random = np.random.default_rng(seed)
    observations = random.uniform(-1.0, 1.0, (4 * rows, 2)).astype(np.float32)
    actions = random.uniform(-1.0, 1.0, (4 * rows, 2)).astype(np.float32)
    arrived = np.asarray(move(observations, actions))
    kept = np.flatnonzero(~np.asarray(in_wall(observations) | in_wall(arrived)))[:rows]
    starts = random.uniform((-0.9, -0.5), (-0.6, 0.5), (rows, 2)).astype(np.float32)
    return Batch(
        observations=jnp.asarray(observations[kept]),
        actions=jnp.asarray(actions[kept]),
        rewards=jnp.full(rows, -COST, jnp.float32),
        next_observations=jnp.asarray(arrived[kept]),
        terminations=jnp.asarray(at_goal(arrived[kept])),
        initial_observations=jnp.asarray(starts),
    )


def walk(algorithm: Any, config: Any, state: Any, steps: int = 25) -> np.ndarray:
    """(T, 2) where the policy's deterministic actions lead in the true box, up to the goal."""

    def step(position: jax.Array, _: None):
        action, _ = algorithm.act(config, state, position, jax.random.key(0), deterministic=True)
        arrived = move(position, action)
        return arrived, arrived

    path = np.asarray(jax.lax.scan(step, jnp.asarray(START), length=steps)[1])
    arrivals = np.flatnonzero(np.asarray(at_goal(path)))
    return path[: arrivals[0] + 1] if len(arrivals) else path
