"""Dual variables: the weight of a constraint, which training steers, inside its bounds.

The variable rises while its constraint is violated and falls while the constraint holds with a
margin. If the constraint can never be met, or never be violated, the variable would rise or fall
for ever. If it were bounded only where it is *used*, the parameter would move far outside its
bounds and need as many steps to come back. So the parameter itself is projected after every step,
and turns as soon as its gradient does.

Mostly the parameter is the logarithm of the variable, and the bounds are logarithms too.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddm.networks.trainable import Trainable, descend


def dual_step(
    gradient: jax.Array,
    dual: Trainable,
    learning_rate: jax.Array | float,
    low: jax.Array | float,
    high: jax.Array | float,
) -> Trainable:
    """One step down the gradient, then back into the bounds.

    Args:
      gradient: () of the loss that the variable minimises.
      dual: the variable; its parameter is ().
      learning_rate: the optimiser's step size.
      low: smallest parameter.
      high: largest parameter.
    """
    moved = descend(gradient, dual, learning_rate)
    return moved.replace(params=jnp.clip(moved.params, low, high))


def dual_at_bound(
    name: str,
    value: float,
    low: float,
    high: float,
    *,
    below: str,
    above: str,
    margins: tuple[float, float] | None = None,
) -> list[str]:
    """A sentence if a dual variable stands at an end of its range, for `diagnose`.

    Args:
      name: of the variable, as metrics and configuration call it.
      value: its mean over an interval.
      low: the floor, in the unit of `value`.
      high: the ceiling.
      below: what it means and what to do, at the floor.
      above: the same, at the ceiling.
      margins: how near counts as at the floor and at the ceiling; None: a hundredth of each, for
        bounds above 0.
    """
    near_low, near_high = margins or (0.01 * low, 0.01 * high)
    if value >= high - near_high:
        return [f"{name} stands at its upper bound of {high:g} ({name}={value:.4g}): {above}"]
    if value <= low + near_low:
        return [f"{name} stands at its lower bound of {low:g} ({name}={value:.4g}): {below}"]
    return []


def log_dual(value: Any, floor: Any, ceiling: Any) -> jax.Array:
    """The parameter that a dual variable starts from: its logarithm, inside its bounds."""
    low, high = log_bounds(floor, ceiling)
    start = jnp.log(jnp.maximum(jnp.asarray(value, jnp.float32), floor))
    return jnp.clip(start, low, high)


def log_bounds(floor: Any, ceiling: Any) -> tuple[jax.Array, jax.Array]:
    """Bounds of a parameter that is the logarithm of its variable."""
    return jnp.log(floor), jnp.log(ceiling)
