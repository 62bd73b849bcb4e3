"""Imagined episodes: a policy acts in a learned model, from states of the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddm.types import Batch, Metrics, PRNGKey

# (observations (B, O), key) -> actions (B, A)
PolicyFn = Callable[[jax.Array, PRNGKey], jax.Array]
# (observations, actions, key) -> transitions (B, ...), and numbers (B,) to report by their names
StepFn = Callable[[jax.Array, jax.Array, PRNGKey], tuple[Batch, Mapping[str, jax.Array]]]


class Imagined(NamedTuple):
    """Transitions of B episodes of up to H steps, one step of all episodes after the other."""

    rows: Batch  # (H * B, ...)
    mask: jax.Array  # (H * B,) bool; False after an episode's end: such a row means nothing
    metrics: Metrics


def roll_out(
    step: StepFn, policy: PolicyFn, observations: jax.Array, key: PRNGKey, horizon: int
) -> Imagined:
    """Lets a policy act for `horizon` steps, or until the model says that the episode ends.

    An episode also ends before a prediction that is not finite; that transition is left out.

    Metrics: ``rollout_length``, mean steps of an episode; ``imagined_reward``, mean over steps;
    ``imagined_termination``, share of the steps that end an episode; ``not_finite``, episodes that
    were cut at a prediction that is not finite; the means of what `step` reports.

    Args:
      step: of the model.
      policy: acts.
      observations: (B, O) where the episodes begin.
      key: used once.
      horizon: H, at least 1.
    """

    def advance(carry: tuple[jax.Array, jax.Array], key: PRNGKey):
        observations, alive = carry
        action_key, step_key = jax.random.split(key)
        rows, reported = step(observations, policy(observations, action_key), step_key)
        finite = jnp.isfinite(rows.rewards)
        finite &= jnp.all(jnp.isfinite(rows.next_observations), axis=-1)
        valid = alive & finite
        following = jnp.where(valid[:, None], rows.next_observations, observations)
        cut = jnp.sum(alive & ~finite, dtype=jnp.float32)
        return (following, valid & ~rows.terminations), (rows, valid, reported, cut)

    start = observations, jnp.ones(len(observations), bool)
    _, (rows, valid, reported, cut) = jax.lax.scan(advance, start, jax.random.split(key, horizon))
    total = jnp.maximum(jnp.sum(valid, dtype=jnp.float32), 1.0)
    mean = lambda values: jnp.sum(jnp.where(valid, values, 0.0)) / total  # noqa: E731
    metrics = {
        "rollout_length": jnp.sum(valid, dtype=jnp.float32) / len(observations),
        "imagined_reward": mean(rows.rewards),
        "imagined_termination": mean(rows.terminations.astype(jnp.float32)),
        "not_finite": jnp.sum(cut),
        **{name: mean(values) for name, values in reported.items()},
    }
    flat = lambda values: values.reshape(-1, *values.shape[2:])  # noqa: E731
    return Imagined(jax.tree.map(flat, rows), flat(valid), metrics)


def windows(imagined: Imagined, horizon: int) -> Batch:
    """Whole episodes as windows (B, H, ...) with a mask, for methods that learn on-policy.

    Rows after an episode's end are 0: they may hold predictions that are not finite, and a sum over
    a window takes 0 times their values.
    """

    def window(values: jax.Array) -> jax.Array:
        kept = imagined.mask.reshape(-1, *(1,) * (values.ndim - 1))
        rows = jnp.where(kept, values, jnp.zeros_like(values))
        return jnp.moveaxis(rows.reshape(horizon, -1, *values.shape[1:]), 0, 1)

    return jax.tree.map(window, imagined.rows).replace(mask=window(imagined.mask))


def open_loop(
    step: Callable[[jax.Array, jax.Array], jax.Array], observations: jax.Array, actions: Any
) -> jax.Array:
    """(H, B, O) what follows when logged actions are played in a model.

    Args:
      step: observations (B, O) and actions (B, A) -> next observations (B, O).
      observations: (B, O) where the windows begin.
      actions: (H, B, A).
    """

    def advance(observations: jax.Array, actions: jax.Array):
        following = step(observations, actions)
        return following, following

    return jax.lax.scan(advance, observations, actions)[1]
