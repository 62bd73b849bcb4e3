"""Small problems whose values and best actions are known, for every actor-critic.

Two steps: from the start (observation -1) any action leads, without reward, to the end
(observation +1), where action a earns 1 - (a - 0.5)^2 and the episode terminates. The best action
there is 0.5; with discount g the best values are Q(end, a) = 1 - (a - 0.5)^2 and Q(start, .) = g.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm.types import Batch, BatchSpec

BEST_ACTION = 0.5
# Where more rows are learned from, they take longer than the compilation of faster code.
MANY_ROWS = 200_000


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
    numbers = jax.tree.map(lambda leaf: np.asarray(leaf, jnp.result_type(leaf)), config)
    state, metrics = _trainer(algorithm, steps, batch_size)(numbers, data)
    return state, {name: float(value) for name, value in jax.device_get(metrics).items()}


def train_lanes(
    algorithm: Any, configs: list[Any], data: list[Batch], steps: int, batch_size: int = 64
) -> list[tuple[Any, dict[str, float]]]:
    """`train` for configurations that differ in numbers, each with its data: one compilation.

    The data sets have equally many rows. Returns the state and the metrics of each lane.
    """
    stack = lambda *leaves: np.stack([np.asarray(leaf, jnp.result_type(leaf)) for leaf in leaves])  # noqa: E731
    states, metrics = _trainer(algorithm, steps, batch_size, len(configs))(
        jax.tree.map(stack, *configs), jax.tree.map(stack, *data)
    )
    metrics = jax.device_get(metrics)
    return [
        (
            jax.tree.map(lambda leaf, lane=lane: _row(leaf, lane), states),
            {name: float(value[lane]) for name, value in metrics.items()},
        )
        for lane in range(len(configs))
    ]


def _row(leaf: jax.Array, lane: int) -> jax.Array:
    """On the host, where it needs no compilation for each shape."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf[lane]
    return jnp.asarray(np.asarray(leaf)[lane])


@functools.cache
def _trainer(algorithm: Any, steps: int, batch_size: int, lanes: int | None = None) -> Any:
    """One compiled function for all configurations that differ in numbers."""

    def one_lane(config: Any, data: Batch) -> Any:
        spec = algorithm.batch_spec(config)
        rows = jax.tree.leaves(data)[0].shape[0]

        def one(state: Any, key: jax.Array) -> tuple[Any, Any]:
            index = jax.random.randint(key, (batch_size * spec.minibatches,), 0, rows)
            return algorithm.update(config, state, jax.tree.map(lambda leaf: leaf[index], data))

        example = jax.tree.map(lambda leaf: leaf[: spec.minibatches], data)
        state = algorithm.init(config, jax.random.key(0), example)
        state, metrics = jax.lax.scan(one, state, jax.random.split(jax.random.key(1), steps))
        return state, jax.tree.map(lambda series: series[-100:].mean(), metrics)

    many = (lanes or 1) * steps * batch_size > MANY_ROWS
    options = {"xla_backend_optimization_level": 1} if many else None
    return jax.jit(jax.vmap(one_lane) if lanes else one_lane, compiler_options=options)


@functools.cache
def _act(algorithm: Any) -> Any:
    return jax.jit(algorithm.act, static_argnames="deterministic")


def mode(algorithm: Any, config: Any, state: Any, observation: float) -> float:
    """The deterministic action at one of the probe's observations."""
    action, _ = _act(algorithm)(
        config, state, np.array([observation], np.float32), jax.random.key(0), deterministic=True
    )
    return float(action[0])
