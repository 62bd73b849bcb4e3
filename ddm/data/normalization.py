"""The statistics that travel with a policy: maps between the environment's units and its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct


@struct.dataclass
class Normalization:
    """The affine maps between the environment's units and what an algorithm sees.

    It is a pytree of arrays, so it can be saved with a policy and applied inside jit. A field that
    is None means no map: for byte observations (images), and discrete actions that start at 0.
    """

    observation_mean: jax.Array | None  # (*O,)
    observation_std: jax.Array | None  # (*O,), never zero
    action_center: jax.Array | None  # (A,) middle of the action box; () int32 start if discrete
    action_scale: jax.Array | None  # (A,) half width of the action box
    reward_scale: jax.Array  # () transformed reward = reward_scale * reward + reward_shift
    reward_shift: jax.Array  # ()

    def normalize_observations(self, observations: jax.Array) -> jax.Array:
        """Maps (..., *O) observations of the environment to the units of training."""
        if self.observation_mean is None or self.observation_std is None:
            return observations
        observations = jnp.asarray(observations, jnp.float32)
        mean, std = (_along(x, observations) for x in (self.observation_mean, self.observation_std))
        return (observations - mean) / std

    def denormalize_observations(self, observations: jax.Array) -> jax.Array:
        """The inverse of `normalize_observations`."""
        if self.observation_mean is None or self.observation_std is None:
            return observations
        mean, std = (_along(x, observations) for x in (self.observation_mean, self.observation_std))
        return observations * std + mean

    def normalize_actions(self, actions: jax.Array) -> jax.Array:
        """Maps (..., A) actions in the environment's units to [-1, 1], or to 0 .. n - 1."""
        if self.action_center is None:
            return actions
        if self.action_scale is None:
            return actions - self.action_center
        center, scale = (_along(x, actions) for x in (self.action_center, self.action_scale))
        return (actions - center) / scale

    def denormalize_actions(self, actions: jax.Array) -> jax.Array:
        """Maps (..., A) actions in [-1, 1], or 0 .. n - 1, to the environment's units."""
        if self.action_center is None:
            return actions
        if self.action_scale is None:
            return actions + self.action_center
        center, scale = (_along(x, actions) for x in (self.action_center, self.action_scale))
        return actions * scale + center

    def denormalize_rewards(self, rewards: jax.Array) -> jax.Array:
        """Maps transformed rewards back to the environment's."""
        return (rewards - self.reward_shift) / self.reward_scale


def _along(statistic: jax.Array, values: jax.Array) -> jax.Array:
    """A statistic (*O,) with leading axes of length 1 until it has as many axes as the values."""
    return statistic.reshape((1,) * (np.ndim(values) - statistic.ndim) + statistic.shape)


def identity_normalization(
    observation_shape: tuple[int, ...],
    *,
    byte_observations: bool = False,
    action_center: np.ndarray | None = None,
    action_scale: np.ndarray | None = None,
) -> Normalization:
    """A normalization that does not change observations and rewards."""
    as_float = lambda x: None if x is None else jnp.asarray(x, jnp.float32)  # noqa: E731
    start = None if action_center is None else jnp.asarray(action_center, jnp.int32)
    return Normalization(
        observation_mean=None if byte_observations else jnp.zeros(observation_shape, jnp.float32),
        observation_std=None if byte_observations else jnp.ones(observation_shape, jnp.float32),
        action_center=start if action_scale is None else as_float(action_center),
        action_scale=as_float(action_scale),
        reward_scale=jnp.ones((), jnp.float32),
        reward_shift=jnp.zeros((), jnp.float32),
    )
