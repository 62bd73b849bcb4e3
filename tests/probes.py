"""Small problems whose values and best actions are known, for every actor-critic.

Two steps: from the start (observation -1) any action leads, without reward, to the end
(observation +1), where action a earns 1 - (a - 0.5)^2 and the episode terminates. The best action
there is 0.5; with discount g the best values are Q(end, a) = 1 - (a - 0.5)^2 and Q(start, .) = g.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm.types import Batch, BatchSpec

BEST_ACTION = 0.5


def two_steps(spec: BatchSpec, rows: int, seed: int, best_share: float = 0.0) -> Batch:
    """Logged rows of uniform actions, a share of them near the best action."""
    random = np.random.default_rng(seed)
    at_end = random.random(rows) < 0.5
    actions = random.uniform(-1.0, 1.0, (rows, 1))
    near_best = random.random((rows, 1)) < best_share
    actions = np.where(near_best, BEST_ACTION + 0.05 * random.normal(size=(rows, 1)), actions)
    rewards = np.where(at_end, 1.0 - (actions[:, 0] - BEST_ACTION) ** 2, 0.0)
    fields = {
        "observations": np.where(at_end, 1.0, -1.0)[:, None],
        "actions": actions,
        "rewards": rewards,
        "next_observations": np.ones((rows, 1)),
    }
    if "next_actions" in spec.fields:  # s' is always the end
        fields["next_actions"] = random.uniform(-1.0, 1.0, (rows, 1))
    if "initial_observations" in spec.fields:
        fields["initial_observations"] = -np.ones((rows, 1))
    arrays = {name: jnp.asarray(value, jnp.float32) for name, value in fields.items()}
    every_field = {**arrays, "terminations": jnp.asarray(at_end)}
    return Batch(**{name: every_field[name] for name in spec.fields})


def two_step_windows(spec: BatchSpec, rows: int, seed: int) -> Batch:
    """Windows of the same problem, from either step on; beyond the end they repeat it."""
    random = np.random.default_rng(seed)
    at_end = random.random(rows) < 0.5
    steps = at_end[:, None] + np.arange(spec.window or 1)
    mask, later = steps < 2, steps > 0
    actions = random.uniform(-1.0, 1.0, (rows, 2))  # of both steps
    actions = np.take_along_axis(actions, later.astype(int), axis=1)
    fields = {
        "observations": np.where(later, 1.0, -1.0)[..., None],
        "actions": actions[..., None],
        "rewards": np.where(later, 1.0 - (actions - BEST_ACTION) ** 2, 0.0),
        "next_observations": np.ones((*steps.shape, 1)),
    }
    arrays = {name: jnp.asarray(value, jnp.float32) for name, value in fields.items()}
    every_field = {**arrays, "terminations": jnp.asarray(later), "mask": jnp.asarray(mask)}
    return Batch(**{name: every_field[name] for name in spec.fields})


def train(algorithm: Any, config: Any, data: Batch, steps: int, batch_size: int = 64) -> Any:
    """`steps` updates on random rows of `data`, as one compiled scan; returns state, metrics."""
    spec = algorithm.batch_spec(config)
    rows = jax.tree.leaves(data)[0].shape[0]

    def one(state: Any, key: jax.Array) -> tuple[Any, Any]:
        index = jax.random.randint(key, (batch_size * spec.minibatches,), 0, rows)
        return algorithm.update(config, state, jax.tree.map(lambda leaf: leaf[index], data))

    example = jax.tree.map(lambda leaf: leaf[: spec.minibatches], data)
    state = algorithm.init(config, jax.random.key(0), example)
    keys = jax.random.split(jax.random.key(1), steps)
    state, metrics = jax.jit(lambda state: jax.lax.scan(one, state, keys))(state)
    return state, jax.tree.map(lambda series: float(series[-100:].mean()), metrics)


def train_lanes(
    algorithm: Any, configs: list[Any], data: list[Batch], steps: int, batch_size: int = 64
) -> list[tuple[Any, dict[str, float]]]:
    """`train` for configurations that differ in numbers, each with its data: one compilation.

    The data sets have equally many rows. Returns the state and the metrics of each lane.
    """
    spec = algorithm.batch_spec(configs[0])
    rows = jax.tree.leaves(data[0])[0].shape[0]
    key = jax.random.key(0)

    def one_lane(config: Any, data: Batch) -> Any:
        def one(state: Any, key: jax.Array) -> tuple[Any, Any]:
            index = jax.random.randint(key, (batch_size * spec.minibatches,), 0, rows)
            return algorithm.update(config, state, jax.tree.map(lambda leaf: leaf[index], data))

        state = algorithm.init(
            config, key, jax.tree.map(lambda leaf: leaf[: spec.minibatches], data)
        )
        state, metrics = jax.lax.scan(one, state, jax.random.split(jax.random.key(1), steps))
        return state, jax.tree.map(lambda series: series[-100:].mean(), metrics)

    stack = lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves])  # noqa: E731
    states, metrics = jax.jit(jax.vmap(one_lane))(
        jax.tree.map(stack, *configs), jax.tree.map(stack, *data)
    )
    return [
        (
            jax.tree.map(lambda leaf, lane=lane: leaf[lane], states),
            {name: float(value[lane]) for name, value in metrics.items()},
        )
        for lane in range(len(configs))
    ]


def mode(algorithm: Any, config: Any, state: Any, observation: float) -> float:
    """The deterministic action at one of the probe's observations."""
    action, _ = algorithm.act(
        config, state, jnp.array([observation]), jax.random.key(0), deterministic=True
    )
    return float(action[0])
