"""Sampling by removing noise: diffusion and flow matching, on arrays and given functions.

Both connect noise eps ~ N(0, I) with data x by variables that become less and less noisy:

    diffusion (Ho et al. 2020):  x_k = sqrt(abar_k) x + sqrt(1 - abar_k) eps,   k = K - 1 .. 0
    flow (Lipman et al. 2023; Liu et al. 2023):  x_t = t x + (1 - t) eps,       t = 0 .. 1

A network is trained to tell noise from data in them; samplers go through them step by step.
Arrays are (B, ...) with any event axes; there is one noise level for all rows, (), or one per row,
(B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ddm.errors import InputError
from ddm.types import PRNGKey

# Diffusion: noise levels.


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
    alpha_bar = _along(schedule.alpha_bars[steps], clean)
    return jnp.sqrt(alpha_bar) * clean + jnp.sqrt(1.0 - alpha_bar) * noise


def score_from_noise(noise: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    """The score grad log p_k(x_k) of the noisy variable, from its expected noise E[eps | x_k]."""
    return -noise / jnp.sqrt(1.0 - _along(alpha_bar, noise))


class Prediction(NamedTuple):
    """What a network predicts: its target, and how data and noise follow from a prediction.

    `alpha_bar` is () or (B,), all else (B, ...).
    """

    target: Callable[..., jax.Array]  # (clean, noise, alpha_bar)
    clean: Callable[..., jax.Array]  # (prediction, noisy, alpha_bar)
    noise: Callable[..., jax.Array]  # (prediction, noisy, alpha_bar)


def _shares(alpha_bar: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
    alpha_bar = _along(alpha_bar, like)
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


# Diffusion: samplers.


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


# Flow matching.


def interpolate(noise: jax.Array, clean: jax.Array, times: jax.Array) -> jax.Array:
    """The straight path t x + (1 - t) eps, at times () or (B,) in [0, 1]."""
    chex.assert_equal_shape([noise, clean])
    times = _along(times, clean)
    return times * clean + (1.0 - times) * noise


def target_velocity(noise: jax.Array, clean: jax.Array) -> jax.Array:
    """The path's velocity x - eps; the flow's velocity is its mean given place and time."""
    return clean - noise


def score_from_velocity(velocity: jax.Array, noisy: jax.Array, times: jax.Array) -> jax.Array:
    """The score grad log p_t(x_t) = (t v - x_t) / (1 - t) = -E[eps | x_t] / (1 - t), t below 1."""
    times = _along(times, noisy)
    return (times * velocity - noisy) / (1.0 - times)


def _towards_noise(key: PRNGKey, shape: tuple[int, ...]) -> jax.Array:
    # Beta(1.5, 1) has the distribution function u^1.5.
    return 0.999 * (1.0 - jax.random.uniform(key, shape, jnp.float32) ** (1.0 / 1.5))


# Where training looks, by (key, shape). "beta" is 0.999 (1 - u) with u ~ Beta(1.5, 1), denser near
# noise (pi0: Black et al. 2024); "logit_normal" is denser in the middle (Esser et al. 2024).
TIMES: dict[str, Callable[[PRNGKey, tuple[int, ...]], jax.Array]] = {
    "uniform": lambda key, shape: jax.random.uniform(key, shape, jnp.float32),
    "beta": _towards_noise,
    "logit_normal": lambda key, shape: jax.nn.sigmoid(jax.random.normal(key, shape, jnp.float32)),
}

Derivative = Callable[[Any, jax.Array], Any]  # (state, time ()) -> its rate of change, a like tree


def _euler(derivative: Derivative, state: Any, time: jax.Array, size: float) -> Any:
    return _move(state, derivative(state, time), size)


def _midpoint(derivative: Derivative, state: Any, time: jax.Array, size: float) -> Any:
    middle = _move(state, derivative(state, time), 0.5 * size)
    return _move(state, derivative(middle, time + 0.5 * size), size)


def _move(state: Any, rate: Any, size: float) -> Any:
    return jax.tree.map(lambda value, slope: value + size * slope, state, rate)


SOLVERS: dict[str, Callable[[Derivative, Any, jax.Array, float], Any]] = {
    "euler": _euler,  # error of first order; one evaluation per step
    "midpoint": _midpoint,  # of second order; two evaluations per step
}


def integrate(
    derivative: Derivative,
    start: Any,
    num_steps: int,
    solver: str = "euler",
    *,
    begin: float = 0.0,
    end: float = 1.0,
) -> Any:
    """The state at time `end` of an ordinary differential equation, in equal steps.

    From noise at 0 to data at 1 it samples a flow. A single Euler step returns eps + v(eps, 0) =
    E[x], the mean of the data: modes need more than one step.

    Args:
      derivative: the rate of change of a tree of arrays.
      start: the state at time `begin`.
      num_steps: of equal size, (end - begin) / num_steps.
      solver: a name of :data:`SOLVERS`.
      begin: first time.
      end: last time; before `begin` it runs backwards.
    """
    size = (end - begin) / num_steps
    times = begin + size * jnp.arange(num_steps, dtype=jnp.float32)

    def step(state: Any, time: jax.Array) -> tuple[Any, None]:
        return SOLVERS[solver](derivative, state, time, size), None

    return jax.lax.scan(step, start, times)[0]


Divergence = Callable[
    [Callable[[jax.Array], jax.Array], jax.Array], tuple[jax.Array, jax.Array]
]  # (field, points (B, ...)) -> the field there, and its divergence (B,)


def exact_divergence(
    field: Callable[[jax.Array], jax.Array], points: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Values (B, ...) and divergences (B,) of a field that treats each row by itself.

    One directional derivative for each of the D numbers of a row, all rows at once: for small D.
    """
    values, slope = jax.linearize(field, points)
    size = math.prod(points.shape[1:])
    basis = jnp.eye(size, dtype=points.dtype).reshape(size, 1, *points.shape[1:])
    directions = jnp.broadcast_to(basis, (size, *points.shape))
    diagonal = directions * jax.vmap(slope)(directions)
    return values, jnp.sum(diagonal, axis=(0, *range(2, diagonal.ndim)))


def hutchinson_divergence(probes: jax.Array) -> Divergence:
    """An unbiased estimate of the divergence: the mean over probes z of z^T J z.

    Args:
      probes: (M, B, ...) random signs; the same along the whole path (Grathwohl et al. 2019).
    """

    def divergence(
        field: Callable[[jax.Array], jax.Array], points: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        values, slope = jax.linearize(field, points)
        products = probes * jax.vmap(slope)(probes)
        return values, jnp.mean(jnp.sum(products, axis=tuple(range(2, products.ndim))), axis=0)

    return divergence


def log_density(
    velocity: Callable[[jax.Array, jax.Array], jax.Array],
    points: jax.Array,
    num_steps: int,
    solver: str = "midpoint",
    divergence: Divergence = exact_divergence,
) -> jax.Array:
    """Log-density (B,) of points (B, ...) under a flow from N(0, I) at time 0 to time 1.

    By the instantaneous change of variables (Chen et al. 2018, theorem 1), along the path that
    leads backwards from each point to its noise x_0: log N(x_0) - integral of div v dt.

    Args:
      velocity: (x (B, ...), t ()) -> (B, ...), each row by itself.
      points: where.
      num_steps: of the backward integration; the error falls with their square ("midpoint").
      solver: a name of :data:`SOLVERS`.
      divergence: exact, or :func:`hutchinson_divergence`.
    """

    def rates(state: tuple[jax.Array, jax.Array], time: jax.Array) -> tuple[jax.Array, jax.Array]:
        return divergence(lambda places: velocity(places, time), state[0])

    start = (points, jnp.zeros(points.shape[0], points.dtype))
    noise, log_volume = integrate(rates, start, num_steps, solver, begin=1.0, end=0.0)
    normal = -0.5 * (jnp.square(noise) + jnp.log(2.0 * jnp.pi))
    return jnp.sum(normal, axis=tuple(range(1, points.ndim))) + log_volume


def _along(values: jax.Array, like: jax.Array) -> jax.Array:
    """() or (B,) with trailing axes of length 1 until it has as many axes as `like` (B, ...)."""
    values = jnp.asarray(values)
    return (
        values.reshape(values.shape + (1,) * (like.ndim - values.ndim)) if values.ndim else values
    )
