"""From observations to the vectors that policies work on."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.errors import InputError
from ddm.networks.mlp import Network

ENCODERS = ("none", "conv")


class ObservationEncoder(Network):
    """Observations (..., *O) to vectors (..., F), by kind.

    - "none": vectors as they are.
    - "conv": :class:`ConvEncoder` of images (..., H, W) or (..., H, W, C).
    """

    kind: str = "none"

    @nn.compact
    def __call__(self, observations: jax.Array) -> jax.Array:
        if self.kind == "none":
            return observations
        if self.kind != "conv":
            raise InputError(f"encoder={self.kind} is unknown; choose one of {', '.join(ENCODERS)}")
        return ConvEncoder(name="conv")(observations)


class Encoded(Network):
    """A policy or a value on encoded observations; further arguments are handed on."""

    kind: str
    network: nn.Module

    @nn.compact
    def __call__(self, observations: jax.Array, *args: Any) -> Any:
        encoded = ObservationEncoder(self.kind, name="encoder")(observations)
        return self.network(encoded, *args)


class ConvEncoder(Network):
    """A small convolutional encoder: images (..., H, W[, C]) to vectors (..., width).

    5 x 5 convolutions with stride 2, relu, one dense layer, relu: the shape of NVIDIA's driving
    network (Bojarski et al. 2016), smaller. Bytes stay bytes until here, and become -1 .. 1.
    """

    channels: tuple[int, ...] = (8, 16)
    width: int = 32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        pixels = scale_pixels(images)
        leading = images.shape[:-3]
        pixels = pixels.reshape(math.prod(leading), *images.shape[-3:])
        for index, features in enumerate(self.channels):
            pixels = nn.relu(nn.Conv(features, (5, 5), (2, 2), name=f"conv_{index}")(pixels))
        hidden = pixels.reshape(*leading, -1)
        return nn.relu(nn.Dense(self.width, name="dense")(hidden))


def scale_pixels(images: jax.Array) -> jax.Array:
    """Bytes to -1 .. 1; floats as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1.0
    return images


def check_encoder(kind: str, observation_shape: tuple[int, ...], name: str) -> None:
    """Refuses observations that the encoder is not made for.

    Args:
      kind: the encoder.
      observation_shape: of one observation.
      name: the algorithm, for the message.

    Raises:
      InputError: an unknown kind; vectors for an image encoder, or images for none.
    """
    if kind not in ENCODERS:
        raise InputError(f"{name}: encoder={kind} is unknown; choose one of {', '.join(ENCODERS)}")
    if kind == "conv" and len(observation_shape) != 3:
        raise InputError(
            f"{name}: encoder=conv is for images of shape (height, width, channels), not for "
            f"observations of shape {observation_shape}"
        )
    if kind == "none" and len(observation_shape) != 1:
        raise InputError(
            f"{name}: observations of shape {observation_shape} need an encoder: use encoder=conv "
            "for images"
        )
