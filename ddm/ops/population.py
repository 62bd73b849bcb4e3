"""Population codes: one number as a hill of activation over many units.

U units stand for equally spaced numbers from -1 to 1. Targets map numbers (...,) to activations
(..., U), and readouts map them back.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

HILL_1989 = (1.0, 0.89, 0.61, 0.32, 0.10)  # by distance from the correct unit; then 0
GAUSSIAN_1991 = 10.0  # exp(-d^2 / 10), d in units
HILL_REACH = len(HILL_1989) - 1  # units on each side of the highest one that belong to its hill


def position(values: jax.Array, num_units: int) -> jax.Array:
    """Place on the scale, in units from the first one."""
    return 0.5 * (values + 1.0) * (num_units - 1)


def nearest(values: jax.Array, num_units: int) -> jax.Array:
    """Number of the nearest unit, as float32."""
    return jnp.clip(jnp.round(position(values, num_units)), 0, num_units - 1)


def value(positions: jax.Array, num_units: int) -> jax.Array:
    """The numbers at given places on the scale: the inverse of :func:`position`."""
    return 2.0 * positions / (num_units - 1) - 1.0


def _units(places: jax.Array, num_units: int) -> jax.Array:
    """The numbers (..., U) of all units, as float32, for each of the places (..., 1)."""
    units = jnp.arange(num_units, dtype=jnp.float32)
    return jnp.broadcast_to(units, (*places.shape[:-1], num_units))


def hill_target(values: jax.Array, num_units: int) -> jax.Array:
    """The hill of 1989 about the nearest unit, cut off at the ends of the scale."""
    places = nearest(values, num_units)[..., None]
    distances = jnp.abs(_units(places, num_units) - places).astype(jnp.int32)
    heights = jnp.array([*HILL_1989, 0.0], jnp.float32)
    return heights[jnp.minimum(distances, len(HILL_1989))]


def gaussian_target(values: jax.Array, num_units: int) -> jax.Array:
    """The hill of 1991 about the exact place."""
    places = position(values, num_units)[..., None]
    distances = _units(places, num_units) - places
    return jnp.exp(-jnp.square(distances) / GAUSSIAN_1991)


def one_hot_target(values: jax.Array, num_units: int) -> jax.Array:
    """1 at the nearest unit, 0 elsewhere."""
    units = nearest(values, num_units).astype(jnp.int32)
    return jax.nn.one_hot(units, num_units, dtype=jnp.float32)


def highest(activations: jax.Array) -> jax.Array:
    """The number of the unit with the highest activation."""
    peak = jnp.argmax(activations, axis=-1).astype(jnp.float32)
    return value(peak, activations.shape[-1])


def center_of_mass(activations: jax.Array) -> jax.Array:
    """The mean place of the highest unit's hill, weighted by the activations there."""
    peak = jnp.argmax(activations, axis=-1, keepdims=True).astype(jnp.float32)
    units = _units(peak, activations.shape[-1])
    weights = jnp.where(jnp.abs(units - peak) <= HILL_REACH, activations, 0.0)
    mass = jnp.sum(weights, axis=-1) + 1e-12
    return value(jnp.sum(weights * units, axis=-1) / mass, activations.shape[-1])
