"""Samplers of diffusion: from pure noise to data, level by level (Ho et al. 2020).

Arrays are (B, ...) with any event axes. The noise levels, and what a network predicts, are in
:mod:`ddm.ops.diffusion`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ddm.errors import InputError
from ddm.ops.diffusion import PREDICTIONS, Prediction, Schedule
from ddm.types import PRNGKey


class Level(NamedTuple):
    """One step of a sampler; as a table, all of them in order along a leading axis."""

    step: jax.Array  # () int32 noise level of the variable that is denoised
    alpha_bar: jax.Array  # () there
    previous_alpha_bar: jax.Array  # () at the less noisy level that the step leads to; 1: no noise


def levels(schedule: Schedule, timesteps: Sequence[int] | None = None) -> Level:
    """The table of a sampler that visits `timesteps`, in descending order; None: all levels."""
    last = schedule.alpha_bars.shape[0] - 1
    steps = np.arange(last, -1, -1) if timesteps is None else np.asarray(timesteps)
    alpha_bars = schedule.alpha_bars[steps]
    none = jnp.ones(1, alpha_bars.dtype)
    return Level(jnp.asarray(steps, jnp.int32), alpha_bars, jnp.append(alpha_bars[1:], none))


def _leading(num_train: int, num_sample: int) -> np.ndarray:
    return np.arange(num_sample)[::-1] * (num_train // num_sample)


def _trailing(num_train: int, num_sample: int) -> np.ndarray:
    return np.round(num_train - np.arange(num_sample) * num_train / num_sample).astype(int) - 1


SPACINGS = {"trailing": _trailing, "leading": _leading}


def ddim_timesteps(num_train: int, num_sample: int, spacing: str = "trailing") -> tuple[int, ...]:
    """S of the K noise levels, evenly spaced, in descending order.

    "trailing" begins at K - 1, whose variables are nearly the pure noise that samplers begin with:
    K - 1, K - 1 - K / S, ... (Lin et al. 2024). "leading", the default of diffusers, ends at 0 and
    begins at (S - 1) K / S, whose variables still hold some of the data.

    Raises:
      InputError: an unknown spacing, or a number of steps outside 1 .. K.
    """
    if spacing not in SPACINGS:
        raise InputError(f"spacing={spacing} is unknown; choose one of {', '.join(SPACINGS)}")
    if not 1 <= num_sample <= num_train:
        raise InputError(
            f"a sampler of {num_sample} steps was asked for, expected 1 to {num_train}, the number "
            "of noise levels"
        )
    return tuple(SPACINGS[spacing](num_train, num_sample).tolist())


def ddpm_step(level: Level, noisy: jax.Array, clean: jax.Array, noise: jax.Array) -> jax.Array:
    """A draw from q(x_previous | x_k, x = clean), eq. 6 and 7 of Ho et al. 2020.

    Its variance is the smaller of the two that they consider ("fixed_small"), 0 in the last step,
    which returns `clean`.

    Args:
      level: one row of the table.
      noisy: (B, ...) at this level.
      clean: (B, ...) the estimate of the data.
      noise: (B, ...) standard normal.
    """
    alpha = level.alpha_bar / level.previous_alpha_bar
    beta, variance = 1.0 - alpha, ddpm_variance(level)
    left = 1.0 - level.alpha_bar
    return (
        jnp.sqrt(level.previous_alpha_bar) * beta / left * clean
        + jnp.sqrt(alpha) * (1.0 - level.previous_alpha_bar) / left * noisy
        + jnp.sqrt(variance) * noise
    )


def ddpm_variance(level: Level) -> jax.Array:
    """Variance of q(x_previous | x_k, x), and so of the noise that a step adds."""
    beta = 1.0 - level.alpha_bar / level.previous_alpha_bar
    return beta * (1.0 - level.previous_alpha_bar) / (1.0 - level.alpha_bar)


def ddim_step(
    level: Level,
    clean: jax.Array,
    epsilon: jax.Array,
    noise: jax.Array,
    eta: jax.Array | float = 0.0,
) -> jax.Array:
    """A step of DDIM, eq. 12 of Song et al. 2021.

    Args:
      level: one row of the table.
      clean: (B, ...) the estimate of the data, clipped or not.
      epsilon: (B, ...) the estimate of the noise, not changed by the clipping (as in diffusers).
      noise: (B, ...) standard normal.
      eta: 0 adds no noise; 1 adds as much as DDPM, and equals DDPM if nothing is clipped.
    """
    variance = jnp.square(eta) * ddpm_variance(level)
    # Rounding may take the last step's 1 - 1 - 0 below zero.
    rest = jnp.maximum(1.0 - level.previous_alpha_bar - variance, 0.0)
    return (
        jnp.sqrt(level.previous_alpha_bar) * clean
        + jnp.sqrt(rest) * epsilon
        + jnp.sqrt(variance) * noise
    )


Predict = Callable[[jax.Array, jax.Array], jax.Array]  # (x_k (B, ...), k () int32) -> (B, ...)


def sample_ddpm(
    predict: Predict,
    schedule: Schedule,
    key: PRNGKey,
    shape: tuple[int, ...],
    *,
    timesteps: Sequence[int] | None = None,
    prediction: str = "epsilon",
    clip: bool = True,
) -> jax.Array:
    """Samples (B, ...) by ancestral sampling: each step draws from the posterior.

    Args:
      predict: the network's prediction for a noisy variable.
      schedule: the noise levels.
      key: of the start and of every step's noise.
      shape: of the result.
      timesteps: levels to visit, descending; None: all of them (the method of the paper).
      prediction: a name of :data:`PREDICTIONS`, what `predict` returns.
      clip: keep each estimate of the data in [-1, 1]. At the first steps it is a difference
        divided by sqrt(abar), which may be below 1e-3, and samples would explode without it.
    """

    def advance(
        level: Level, noisy: jax.Array, clean: jax.Array, epsilon: jax.Array, noise: jax.Array
    ) -> jax.Array:
        del epsilon
        return ddpm_step(level, noisy, clean, noise)

    table = levels(schedule, timesteps)
    return _denoise(predict, table, key, shape, PREDICTIONS[prediction], clip, advance)


def sample_ddim(
    predict: Predict,
    schedule: Schedule,
    key: PRNGKey,
    shape: tuple[int, ...],
    *,
    timesteps: Sequence[int] | None = None,
    eta: jax.Array | float = 0.0,
    prediction: str = "epsilon",
    clip: bool = True,
) -> jax.Array:
    """Samples (B, ...) by DDIM on `timesteps`; at eta 0 a function of the start's noise alone.

    The other arguments are those of :func:`sample_ddpm`.
    """

    def advance(
        level: Level, noisy: jax.Array, clean: jax.Array, epsilon: jax.Array, noise: jax.Array
    ) -> jax.Array:
        del noisy
        return ddim_step(level, clean, epsilon, noise, eta)

    table = levels(schedule, timesteps)
    return _denoise(predict, table, key, shape, PREDICTIONS[prediction], clip, advance)


def _denoise(
    predict: Predict,
    table: Level,
    key: PRNGKey,
    shape: tuple[int, ...],
    prediction: Prediction,
    clip: bool,
    advance: Callable[..., jax.Array],
) -> jax.Array:
    def step(noisy: jax.Array, row: tuple[Level, PRNGKey]) -> tuple[jax.Array, None]:
        level, step_key = row
        output = predict(noisy, level.step)
        clean = prediction.clean(output, noisy, level.alpha_bar)
        epsilon = prediction.noise(output, noisy, level.alpha_bar)
        clean = jnp.clip(clean, -1.0, 1.0) if clip else clean
        noise = jax.random.normal(step_key, shape, jnp.float32)
        return advance(level, noisy, clean, epsilon, noise), None

    start_key, steps_key = jax.random.split(key)
    keys = jax.random.split(steps_key, table.step.shape[0])
    start = jax.random.normal(start_key, shape, jnp.float32)
    return jax.lax.scan(step, start, (table, keys))[0]
