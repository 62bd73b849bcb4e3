"""Noise levels of diffusion, and what a network predicts there (Ho et al. 2020).

    x_k = sqrt(abar_k) x + sqrt(1 - abar_k) eps,   eps ~ N(0, I),   k = K - 1 .. 0

A network is trained to tell the noise eps from the data x in x_k. The samplers that remove the
noise step by step are in :mod:`ddm.ops.denoising`; :mod:`ddm.ops.flows` connects noise and data by
straight paths. Arrays are (B, ...) with any event axes; there is one noise level for all rows, (),
or one per row, (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.errors import InputError


class Schedule(struct.PyTreeNode):
    """How much noise each of K levels holds; level 0 holds the least."""

    betas: jax.Array  # (K,) variance that level k adds to level k - 1
    alphas: jax.Array  # (K,) 1 - beta
    alpha_bars: jax.Array  # (K,) product of the alphas up to k: the data's share of the variance


def squared_cosine(num_steps: int, max_beta: float = 0.999) -> Schedule:
    """The schedule of Nichol & Dhariwal 2021, eq. 17, which leaves nearly no signal at level K - 1.

    abar(u) = cos^2(((u + 0.008) / 1.008) pi / 2) and beta_k = 1 - abar((k + 1) / K) / abar(k / K),
    at most `max_beta` ("squaredcos_cap_v2" in diffusers).

    Raises:
      InputError: fewer than one step.
    """
    if num_steps < 1:
        raise InputError(f"a noise schedule has {num_steps} steps, expected at least 1")
    edges = np.arange(num_steps + 1) / num_steps
    signal = np.cos((edges + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1.0 - signal[1:] / signal[:-1], max_beta)
    arrays = betas, 1.0 - betas, np.cumprod(1.0 - betas)
    return Schedule(*(jnp.asarray(array, jnp.float32) for array in arrays))


def add_noise(
    schedule: Schedule, clean: jax.Array, noise: jax.Array, steps: jax.Array
) -> jax.Array:
    """The noisy variable (B, ...) at levels `steps` of data and noise of the same shape."""
    chex.assert_equal_shape([clean, noise])
    alpha_bar = along(schedule.alpha_bars[steps], clean)
    return jnp.sqrt(alpha_bar) * clean + jnp.sqrt(1.0 - alpha_bar) * noise


def score_from_noise(noise: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    """The score grad log p_k(x_k) of the noisy variable, from its expected noise E[eps | x_k]."""
    return -noise / jnp.sqrt(1.0 - along(alpha_bar, noise))


class Prediction(NamedTuple):
    """What a network predicts: its target, and how data and noise follow from a prediction.

    `alpha_bar` is () or (B,), all else (B, ...).
    """

    target: Callable[..., jax.Array]  # (clean, noise, alpha_bar)
    clean: Callable[..., jax.Array]  # (prediction, noisy, alpha_bar)
    noise: Callable[..., jax.Array]  # (prediction, noisy, alpha_bar)


def _shares(alpha_bar: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
    alpha_bar = along(alpha_bar, like)
    return jnp.sqrt(alpha_bar), jnp.sqrt(1.0 - alpha_bar)


def _other_clean(noise: jax.Array, noisy: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    signal, spread = _shares(alpha_bar, noisy)
    return (noisy - spread * noise) / signal


def _other_noise(clean: jax.Array, noisy: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    signal, spread = _shares(alpha_bar, noisy)
    return (noisy - signal * clean) / spread


def _turned_target(clean: jax.Array, noise: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    signal, spread = _shares(alpha_bar, clean)
    return signal * noise - spread * clean


def _turned_clean(prediction: jax.Array, noisy: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    signal, spread = _shares(alpha_bar, noisy)
    return signal * noisy - spread * prediction


def _turned_noise(prediction: jax.Array, noisy: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    signal, spread = _shares(alpha_bar, noisy)
    return signal * prediction + spread * noisy


# "v" is sqrt(abar) eps - sqrt(1 - abar) x (Salimans & Ho 2022): of unit scale at every level.
PREDICTIONS: dict[str, Prediction] = {
    "epsilon": Prediction(
        lambda clean, noise, alpha_bar: noise,
        _other_clean,
        lambda prediction, noisy, alpha_bar: prediction,
    ),
    "sample": Prediction(
        lambda clean, noise, alpha_bar: clean,
        lambda prediction, noisy, alpha_bar: prediction,
        _other_noise,
    ),
    "v": Prediction(_turned_target, _turned_clean, _turned_noise),
}


def masked_squared_error(
    predictions: jax.Array, targets: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """Mean of the squared errors (B, T, A) over the places (B, T) where `mask` is True."""
    chex.assert_equal_shape([predictions, targets])
    errors = jnp.mean(jnp.square(predictions - targets), axis=-1)
    if mask is None:
        return jnp.mean(errors)
    chex.assert_equal_shape([errors, mask])
    weights = mask.astype(errors.dtype)
    return jnp.sum(errors * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def along(values: jax.Array, like: jax.Array) -> jax.Array:
    """() or (B,) with trailing axes of length 1 until it has as many axes as `like` (B, ...)."""
    values = jnp.asarray(values)
    return (
        values.reshape(values.shape + (1,) * (like.ndim - values.ndim)) if values.ndim else values
    )
