"""One update computed a second time, from the paper's equations: what all such tests share.

Nothing here calls the networks, losses or optimisers of `ddm`. Three things hide wrong lines:
targets equal to what they follow; critics of one order or one sign; and the first step of Adam,
whose length is the step size whatever the gradient. :func:`some_state` takes them away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddm.types import TRANSITION_FIELDS, Batch

HIDDEN = (8, 8)
OUTPUT = ["output", "kernel"]
OBSERVATION_SIZE, ACTION_SIZE, NUM_ACTIONS = 3, 2, 3


def transitions(
    *more: str, rows: int = 16, num_actions: int = 0, fields: tuple[str, ...] = TRANSITION_FIELDS
) -> Batch:
    """Rows of noise with rewards of both signs; every fourth terminates, from the second on."""
    random = np.random.default_rng(0)
    vectors = lambda: random.normal(size=(rows, OBSERVATION_SIZE))  # noqa: E731
    actions = lambda: random.uniform(-0.95, 0.95, (rows, ACTION_SIZE))  # noqa: E731
    values = {
        "observations": vectors(),
        "actions": actions(),
        "rewards": 2.0 * random.normal(size=rows),
        "next_observations": vectors(),
        "next_actions": actions(),
        "initial_observations": vectors(),
    }
    arrays = {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}
    arrays["terminations"] = jnp.arange(rows) % 4 == 1
    if num_actions:
        for name in ("actions", "next_actions"):
            arrays[name] = jnp.asarray(random.integers(num_actions, size=rows), jnp.int32)
    return Batch(**{name: arrays[name] for name in (*fields, *more)})


def some_state(algorithm: Any, config: Any, batch: Batch, step: int = 4, seed: int = 0) -> Any:
    """A state of noise in the shapes of `init`: every target its own, optimisers under way."""
    random = np.random.default_rng(seed)

    def noise(path: Any, leaf: Any) -> Any:
        names = [getattr(part, "name", None) for part in path]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(5)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.full(leaf.shape, 1000 if "count" in names else step, leaf.dtype)
        values = random.normal(size=leaf.shape)
        if "nu" in names:
            values = 0.01 * (0.5 + values**2)
        elif "mu" in names:
            values = 0.1 * values
        elif leaf.ndim > 1:  # the weights of a layer
            values = values / np.sqrt(leaf.shape[-2] / 2)
            if [getattr(part, "key", None) for part in path][-2:] == OUTPUT:
                # Relu layers are positive: weights that sum to 0 give values of both signs.
                values = values - values.mean(axis=-2, keepdims=True)
        else:
            values = 0.4 * values
        return jnp.asarray(values, leaf.dtype)

    shapes = jax.eval_shape(algorithm.init, config, jax.random.key(0), batch)
    return jax.tree_util.tree_map_with_path(noise, shapes)


# Networks.


def mlp(params: Any, inputs: jax.Array) -> jax.Array:
    """Relu layers and a linear one, from the parameters (W, b) of each."""
    layers = params["params"].get("mlp", params["params"])
    for name in sorted(layers):
        inputs = inputs @ layers[name]["kernel"] + layers[name]["bias"]
        inputs = jnp.maximum(inputs, 0.0) if name != "output" else inputs
    return inputs


def critics(params: Any, observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Q_i (E, B, ...) of actions (B, ..., A), or of indices (B,)."""
    if jnp.issubdtype(actions.dtype, jnp.integer):
        return chosen(all_values(params, observations), actions)
    observations = like(observations, actions)
    inputs = jnp.concatenate([observations, actions], axis=-1)
    return jax.vmap(lambda member: mlp(member, inputs)[..., 0])(params)


def all_values(params: Any, observations: jax.Array) -> jax.Array:
    """Q_i (E, B, K) of all discrete actions."""
    return jax.vmap(lambda member: mlp(member, observations))(params)


def chosen(values: jax.Array, actions: jax.Array) -> jax.Array:
    """(..., B) of (..., B, K)."""
    return values[..., jnp.arange(len(actions)), actions]


def like(observations: jax.Array, actions: jax.Array) -> jax.Array:
    """Observations (B, O), once for each action of (B, ..., A)."""
    between = (1,) * (actions.ndim - 2)
    shape = (*actions.shape[:-1], observations.shape[-1])
    return jnp.broadcast_to(observations.reshape(len(observations), *between, -1), shape)


def normal_log_prob(values: jax.Array, mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Log-density, summed over the last axis."""
    standard = (values - mean) / jnp.exp(log_std)
    return jnp.sum(-0.5 * standard**2 - log_std - 0.5 * np.log(2.0 * np.pi), axis=-1)


class Squashed:
    """tanh of a Gaussian whose mean and log std are the two halves of a network's output."""

    def __init__(self, config: Any, params: Any, observations: jax.Array):
        self.mean, log_std = jnp.split(mlp(params, observations), 2, axis=-1)
        self.log_std = jnp.clip(log_std, config.log_std_min, config.log_std_max)

    def raw(self, key: jax.Array, *count: int) -> jax.Array:
        """Draws (*count, B, A) before the tanh."""
        noise = jax.random.normal(key, (*count, *self.mean.shape))
        return self.mean + jnp.exp(self.log_std) * noise

    def log_prob_of_raw(self, raw: jax.Array) -> jax.Array:
        """Log-density of tanh(raw)."""
        log_cosh = jnp.logaddexp(raw, -raw) - np.log(2.0)  # the slope of tanh is 1 / cosh^2
        return normal_log_prob(raw, self.mean, self.log_std) + 2.0 * log_cosh.sum(axis=-1)

    def sample(self, key: jax.Array, *count: int) -> tuple[jax.Array, jax.Array]:
        """Actions (*count, B, A) and their log-densities."""
        raw = self.raw(key, *count)
        return jnp.tanh(raw), self.log_prob_of_raw(raw)


# Steps.


def adam(loss: Callable[[Any], jax.Array], model: Any, rate: float | jax.Array) -> Any:
    """The model after one step down the gradient of a loss."""
    return adam_along(jax.grad(loss)(model.params), model, rate)


def adam_along(gradients: Any, model: Any, rate: float | jax.Array) -> Any:
    """The model after one step of Adam (Kingma & Ba 2015, algorithm 1)."""
    moments, *rest = model.optimizer_state
    count = moments.count + 1
    mu = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, moments.mu, gradients)
    nu = jax.tree.map(lambda old, new: 0.999 * old + 0.001 * new**2, moments.nu, gradients)

    def move(params: jax.Array, mu: jax.Array, nu: jax.Array) -> jax.Array:
        first, second = mu / (1.0 - 0.9**count), nu / (1.0 - 0.999**count)
        return params - rate * first / (jnp.sqrt(second) + 1e-8)

    params = jax.tree.map(move, model.params, mu, nu)
    moments = moments._replace(count=count, mu=mu, nu=nu)
    return model.replace(params=params, optimizer_state=(moments, *rest))


def averaged(target: Any, online: Any, rate: float) -> Any:
    """The target after a step of its moving average."""
    return jax.tree.map(lambda old, new: (1.0 - rate) * old + rate * new, target, online)


def tracked(model: Any, rate: float) -> Any:
    """The model after a step of its target parameters."""
    return model.replace(target_params=averaged(model.target_params, model.params, rate))


# Comparisons.


def check_update(algorithm: Any, config: Any, batch: Batch, equations: Any, step: int = 4) -> None:
    """One update gives the state and the metrics of `equations`.

    Args:
      algorithm: the module.
      config: with tiny networks, and another step size for each of them.
      batch: of `transitions`.
      equations: (state, batch) -> the state after the update, all metrics, and values (E, B) of
        critics, which must disagree.
      step: updates done before.
    """
    equations = jax.jit(equations)
    for seed in range(50):
        old = some_state(algorithm, config, batch, step, seed)
        expected, expected_metrics, seen = equations(old, batch)
        if all(disagree(values) for values in seen):
            break
    else:
        raise AssertionError("no state was found whose critics disagree")
    new, metrics = jax.jit(algorithm.update)(config, old, batch)
    for name in expected.__dataclass_fields__:
        same(getattr(new, name), getattr(expected, name), name)
    assert set(metrics) == set(expected_metrics)
    for name, value in expected_metrics.items():
        same(metrics[name], value, name)


def same(found: Any, expected: Any, name: str = "") -> None:
    """Two trees of one structure hold the same numbers."""
    assert jax.tree.structure(found) == jax.tree.structure(expected), name
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(getattr(one, "dtype", float), jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5, err_msg=name)


def disagree(values: jax.Array) -> bool:
    """Critics (E, B) cross, and have both signs: min, max, mean and first member all differ."""
    low, high = np.min(values), np.max(values)
    lower = np.mean(np.asarray(values[0] < values[1]))
    return 0.2 <= lower <= 0.8 and low < -0.1 and high > 0.1
