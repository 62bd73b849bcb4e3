"""The members of an ensemble of models: their loss, error and predictions.

Functions of one member take its parameters without an axis of members; `jax.vmap` gives the others.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from ddm import networks
from ddm.errors import InputError
from ddm.model_based.parts import terminations
from ddm.model_based.parts.logged import Rows, Scales, standardized
from ddm.types import Batch, Metrics, PRNGKey, chosen

_BOUNDS_WEIGHT = 0.01  # of the distance of the log-variance's bounds (Chua et al. 2018)


class Prediction(struct.PyTreeNode):
    """What each of E members expects of B transitions, in the units of the log."""

    means: jax.Array  # (E, B, 1 + O): the reward, and the next observation
    stds: jax.Array  # (E, B, 1 + O); 0 if the members are regressions
    termination_probs: jax.Array  # (E, B); without meaning if a rule is known


# One member.


def outcome(
    member: networks.Trainable,
    params: Any,
    scales: Scales,
    observations: jax.Array,
    actions: jax.Array,
) -> networks.Outcome:
    """What the parameters of one member say of raw inputs, in standardised targets."""
    return member.apply(
        params,
        (observations - scales.observation_mean[None]) / scales.observation_std[None],
        (actions - scales.action_mean[None]) / scales.action_std[None],
    )


def loss(
    config: Any, member: networks.Trainable, params: Any, scales: Scales, rows: Rows
) -> tuple[jax.Array, Metrics]:
    """L_i of :mod:`ddm.model_based.dynamics`; plus the cross-entropy of learned terminations."""
    found = outcome(member, params, scales, rows.observations, rows.actions)
    squares = (standardized(rows, scales) - found.mean) ** 2
    if config.probabilistic:
        value = jnp.mean(squares * jnp.exp(-found.log_variance) + found.log_variance)
        value = value + _BOUNDS_WEIGHT * _distance_of_bounds(params)
    else:
        value = jnp.mean(squares)
    if config.termination == terminations.LEARNED:
        labels = rows.terminations.astype(jnp.float32)
        value = value + jnp.mean(
            optax.sigmoid_binary_cross_entropy(found.termination_logit, labels)
        )
    decays = zip(_decays(config, params), kernels(params), strict=True)
    value = value + sum(0.5 * decay * jnp.sum(kernel**2) for decay, kernel in decays)
    return value, {"loss": value}


def error(member: networks.Trainable, params: Any, scales: Scales, rows: Rows) -> jax.Array:
    """Mean squared error of one member's mean, in standardised units."""
    found = outcome(member, params, scales, rows.observations, rows.actions)
    return jnp.mean((standardized(rows, scales) - found.mean) ** 2)


def log_likelihood(
    member: networks.Trainable, params: Any, scales: Scales, rows: Rows
) -> jax.Array:
    """Mean log-density of one member per dimension, of standardised targets."""
    found = outcome(member, params, scales, rows.observations, rows.actions)
    squares = (standardized(rows, scales) - found.mean) ** 2 * jnp.exp(-found.log_variance)
    return -0.5 * jnp.mean(squares + found.log_variance + np.log(2.0 * np.pi).astype(np.float32))


def kernels(params: Any) -> list[jax.Array]:
    """The weights of the layers, in the order of their names."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return [leaf for path, leaf in leaves if getattr(path[-1], "key", "") == "kernel"]


def check_decay(config: Any, params: Any) -> None:
    """Refuses decays that do not fit the layers.

    Raises:
      InputError: naming how many layers there are.
    """
    given, layers = len(config.model_weight_decay), len(kernels(params))
    if given not in (1, layers):
        raise InputError(
            f"dynamics: model_weight_decay has {given} numbers, expected {layers}, one for each "
            "layer and the output, or one for all"
        )


def _decays(config: Any, params: Any) -> tuple[float, ...]:
    count = len(kernels(params))
    return tuple(config.model_weight_decay) * (count if len(config.model_weight_decay) == 1 else 1)


def _distance_of_bounds(params: Any) -> jax.Array:
    """Sum over targets of the range that a log-variance can have; 0 for another network."""
    bounds = params["params"]
    if "log_variance_max" not in bounds:
        return jnp.zeros((), jnp.float32)
    return jnp.sum(bounds["log_variance_max"] - bounds["log_variance_min"])


# All members.


def errors(trained: networks.Trainable, scales: Scales, rows: Rows) -> jax.Array:
    """(E,) :func:`error` of each member at its present parameters."""
    return jax.vmap(lambda params: error(trained, params, scales, rows))(trained.params)


def elites(config: Any, holdout_errors: jax.Array) -> jax.Array:
    """(num_elites,) the members with the smallest errors."""
    return jnp.argsort(holdout_errors)[: config.num_elites]


def select(better: jax.Array, new: Any, old: Any) -> Any:
    """`new` for the members (E,) that are better, `old` for the others."""

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(pick, new, old)


def predict(
    config: Any,
    member: networks.Trainable,
    params: Any,
    scales: Scales,
    observations: jax.Array,
    actions: jax.Array,
) -> Prediction:
    """See :func:`ddm.model_based.dynamics.predict`."""
    found = jax.vmap(lambda params: outcome(member, params, scales, observations, actions))(params)
    units = scales.target_std[None, None]
    targets = found.mean * units + scales.target_mean[None, None]
    before = jnp.concatenate([jnp.zeros_like(observations[:, :1]), observations], axis=-1)
    stds = jnp.exp(0.5 * found.log_variance) * units
    return Prediction(
        means=targets + before[None],
        stds=stds if config.probabilistic else jnp.zeros_like(stds),
        termination_probs=jax.nn.sigmoid(found.termination_logit),
    )


def sample(
    config: Any,
    prediction: Prediction,
    elites: jax.Array,
    observations: jax.Array,
    actions: jax.Array,
    key: PRNGKey,
) -> Batch:
    """Transitions, each from one of the elites; see :func:`ddm.model_based.dynamics.transition`."""
    member_key, noise_key, end_key = jax.random.split(key, 3)
    rows = len(observations)
    member = elites[jax.random.randint(member_key, (rows,), 0, len(elites))]
    pick = lambda values: values[member, jnp.arange(rows)]  # noqa: E731
    mean, std, probability = map(
        pick, (prediction.means, prediction.stds, prediction.termination_probs)
    )
    drawn = mean + std * jax.random.normal(noise_key, mean.shape, mean.dtype)
    next_observations = drawn[:, 1:]
    if config.termination == terminations.LEARNED:
        ends = jax.random.bernoulli(end_key, probability)
    else:
        ends = _rule(config)(in_environment_units(config, next_observations))
    return Batch(
        observations=observations,
        actions=actions,
        rewards=drawn[:, 0],
        next_observations=next_observations,
        terminations=ends,
        truncations=jnp.zeros(rows, bool),
    )


def _rule(config: Any) -> terminations.TerminationFn:
    if config.termination == terminations.AUTO:
        raise InputError(
            "dynamics: termination=auto is replaced by what fits the log: call "
            "ddm.prepare(algorithm, config, dataset), or name a rule"
        )
    return chosen(config, "termination")


# Units.


def in_environment_units(config: Any, observations: jax.Array) -> jax.Array:
    """Observations (..., O) of the log as the environment gives them."""
    if not config.observation_std:
        return observations
    shape = (1,) * (observations.ndim - 1) + (-1,)
    std = np.asarray(config.observation_std, np.float32)
    mean = np.asarray(config.observation_mean or np.zeros_like(std), np.float32)
    return observations * std.reshape(shape) + mean.reshape(shape)


def prediction_in_environment_units(
    config: Any, prediction: Prediction
) -> tuple[jax.Array, jax.Array]:
    """Means and standard deviations (E, B, 1 + O); a shift of the log's rewards stays in them."""
    units = _units(config, prediction.means.shape[-1])
    shift = np.zeros_like(units)
    if config.observation_mean:
        shift[..., 1:] = config.observation_mean
    return prediction.means * units + shift, prediction.stds * units


def uncertainty(config: Any, prediction: Prediction, function: Any) -> jax.Array:
    """(B,) of one of :mod:`ddm.model_based.parts.uncertainty`, in the environment's units."""
    units = _units(config, prediction.means.shape[-1])
    return function(prediction.means * units, prediction.stds * units)


def _units(config: Any, size: int) -> np.ndarray:
    """(1, 1, 1 + O) factors from the log's units of a reward and an observation."""
    units = np.ones((1, 1, size), np.float32)
    units[..., 0] = 1.0 / config.reward_unit
    if config.observation_std:
        units[..., 1:] = config.observation_std
    return units
