"""Search for actions to which a score gives much: uniform, derivative-free, and up its slope."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ddm import ops
from ddm.types import Configuration, PRNGKey, choice, leaf, static

Score = Callable[[jax.Array], jax.Array]  # actions (B, M, A) -> scores (B, M)


class Config(Configuration):
    """Hyper-parameters of counter-examples and of the search for an action."""

    negatives: str = choice(lambda: NEGATIVES, "uniform")  # how counter-examples are made
    # counter-examples (authors: 256, and 8 for langevin)
    num_negatives: int = static(256, "[1, inf)")
    # widening of the action box on each side, as a share of its width
    box_margin: float = leaf(0.05, "[0, inf)")
    inference: str = choice(lambda: SEARCHES, "dfo")  # search for an action
    # Candidates of the search (authors: 16384 for dfo, 512 for langevin; 1024: diffusion policy)
    num_samples: int = static(1024, "[1, inf)")
    dfo_rounds: int = static(2, "[0, inf)")  # draws and perturbations of dfo (authors)
    dfo_std: float = leaf(0.33, "[0, inf)")  # first perturbation, in half action ranges
    dfo_decay: float = leaf(0.5, "[0, inf)")  # factor on the perturbation after each round
    langevin_steps: int = static(100, "[1, inf)")  # length of a chain
    langevin_step_size: float = leaf(0.1, "[0, inf)")  # of the first step
    langevin_final_step_size: float = leaf(1e-5, "[0, inf)")  # of the last step
    langevin_power: float = leaf(2.0, "[0, inf)")  # of the polynomial between them
    # standard deviation of a chain's noise, per unit of step size
    langevin_noise: float = leaf(1.0, "[0, inf)")
    # largest move in a step, in half ranges of the widened box
    langevin_max_step: float = leaf(0.1, "(0, inf)")


def uniform(config: Config, key: PRNGKey, shape: tuple[int, ...]) -> jax.Array:
    """Actions of this shape from the widened box."""
    return _half_width(config) * jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0)


def derivative_free(config: Config, score: Score, key: PRNGKey, start: jax.Array) -> jax.Array:
    """Rounds of drawing candidates (B, M, A) by their scores and perturbing them."""
    half_width = _half_width(config)

    def one_round(candidates: jax.Array, at: tuple[PRNGKey, jax.Array]) -> tuple[jax.Array, None]:
        draw_key, noise_key = jax.random.split(at[0])
        drawn = draw(draw_key, score(candidates), candidates)
        noise = at[1] * jax.random.normal(noise_key, drawn.shape, drawn.dtype)
        return jnp.clip(drawn + noise, -half_width, half_width), None

    rounds = jnp.arange(config.dfo_rounds, dtype=jnp.float32)
    stds = config.dfo_std * config.dfo_decay**rounds
    keys = jax.random.split(key, config.dfo_rounds)
    candidates, _ = jax.lax.scan(one_round, start, (keys, stds))
    return candidates


def draw(key: PRNGKey, scores: jax.Array, candidates: jax.Array) -> jax.Array:
    """As many candidates (B, M, A), drawn with replacement by softmax of scores (B, M).

    By inversion of the cumulative sum: M uniform numbers per row, not M^2 Gumbel ones.
    """
    cumulative = jnp.cumsum(jax.nn.softmax(scores, axis=-1), axis=-1)
    uniforms = jax.random.uniform(key, scores.shape, scores.dtype) * cumulative[:, -1:]
    rows = jax.vmap(jnp.searchsorted)(cumulative, uniforms)
    rows = jnp.minimum(rows, scores.shape[-1] - 1)
    return jnp.take_along_axis(candidates, rows[..., None], axis=1)


def langevin(config: Config, score: Score, key: PRNGKey, start: jax.Array) -> jax.Array:
    """Moves actions (B, M, A) uphill, with noise."""
    half_width = _half_width(config)
    step_sizes = ops.langevin.polynomial_decay(
        config.langevin_step_size,
        config.langevin_final_step_size,
        config.langevin_steps,
        config.langevin_power,
    )
    return ops.langevin.chain(
        lambda actions: slopes(score, actions),
        key,
        start,
        step_sizes,
        low=-half_width,
        high=half_width,
        noise_scale=config.langevin_noise,
        max_step=config.langevin_max_step * half_width,
    )


def slopes(score: Score, actions: jax.Array) -> jax.Array:
    """df/da (B, M, A): rows do not depend on each other, so that one backward pass gives all."""
    return jax.grad(lambda actions: jnp.sum(score(actions)))(actions)


def _half_width(config: Config) -> jax.Array | float:
    """Of the widened box."""
    return 1.0 + 2.0 * config.box_margin


def _uniform_negatives(
    config: Config, score: Score, key: PRNGKey, shape: tuple[int, ...]
) -> jax.Array:
    del score
    return uniform(config, key, shape)


def _langevin_negatives(
    config: Config, score: Score, key: PRNGKey, shape: tuple[int, ...]
) -> jax.Array:
    start_key, chain_key = jax.random.split(key)
    return langevin(config, score, chain_key, uniform(config, start_key, shape))


NEGATIVES = {"uniform": _uniform_negatives, "langevin": _langevin_negatives}
SEARCHES = {"dfo": derivative_free, "langevin": langevin}
