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
CHANNELS = (1, 3, 4)  # of one grey, colour or transparent image


class ObservationEncoder(Network):
    """Observations (..., *O) to vectors (..., F), by kind.

    - "none": vectors as they are.
    - "conv": :class:`ConvEncoder` of images (..., H, W, C).
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
    def __call__(self, observations: jax.Array, *args: Any, **options: Any) -> Any:
        encoded = ObservationEncoder(self.kind, name="encoder")(observations)
        return self.network(encoded, *args, **options)


def encoded(kind: str, network: nn.Module) -> nn.Module:
    """The network on encoded observations; itself, if they are vectors."""
    return network if kind == "none" else Encoded(kind, network)


class ConvEncoder(Network):
    """A small convolutional encoder: images (..., H, W, C) to vectors (..., width).

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
            pixels = nn.relu(PatchConv(features, name=f"conv_{index}")(pixels))
        hidden = pixels.reshape(*leading, -1)
        return nn.relu(nn.Dense(self.width, name="dense")(hidden))


class PatchConv(Network):
    """A convolution of images (B, H, W, C) as one matrix product of their patches.

    Parameters, padding ("SAME") and result are those of `nn.Conv`. Inside a scan on a CPU a
    training step takes a fifth of the time (XLA's fast convolutions do not run in loops there).
    With vmapped parameters it becomes a batched product.
    """

    features: int
    size: int = 5  # rows and columns of a patch
    stride: int = 2

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = (self.size, self.size, images.shape[-1], self.features)
        kernel = self.param("kernel", nn.linear.default_kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        rows, columns = (-(-length // self.stride) for length in images.shape[1:3])
        padding = [self._padding(length) for length in images.shape[1:3]]
        images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
        last_row, last_column = self.stride * (rows - 1) + 1, self.stride * (columns - 1) + 1
        patches = [
            images[:, i : i + last_row : self.stride, j : j + last_column : self.stride]
            for i in range(self.size)
            for j in range(self.size)
        ]
        products = jnp.concatenate(patches, axis=-1) @ kernel.reshape(-1, self.features)
        return products + jnp.broadcast_to(bias, products.shape)

    def _padding(self, length: int) -> tuple[int, int]:
        """What "SAME" adds before and after an axis."""
        places = -(-length // self.stride)
        total = max((places - 1) * self.stride + self.size - length, 0)
        return total // 2, total - total // 2


def scale_pixels(images: jax.Array) -> jax.Array:
    """Bytes to -1 .. 1; floats as they are."""
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 127.5 - 1.0
    return images


def standardize_images(image: jax.Array) -> jax.Array:
    """Images (..., H, W), each with mean 0 and standard deviation 1; flat ones become 0."""
    centered = image - jnp.mean(image, axis=(-2, -1), keepdims=True)
    deviation = jnp.sqrt(jnp.mean(jnp.square(centered), axis=(-2, -1), keepdims=True))
    return centered / jnp.maximum(deviation, 1.0 / 255.0)


def check_encoder(kind: str, observation_shape: tuple[int, ...], name: str) -> None:
    """Refuses observations that the encoder is not made for.

    Args:
      kind: the encoder.
      observation_shape: of one observation.
      name: the algorithm, for the message.

    Raises:
      InputError: an unknown kind; vectors for an image encoder, or images for none; images whose
        first axis is that of the channels.
    """
    if kind not in ENCODERS:
        raise InputError(f"{name}: encoder={kind} is unknown; choose one of {', '.join(ENCODERS)}")
    if kind == "conv" and len(observation_shape) != 3:
        raise InputError(
            f"{name}: encoder=conv is for images of shape (height, width, channels), not for "
            f"observations of shape {observation_shape}"
        )
    if (
        kind == "conv"
        and observation_shape[-1] not in CHANNELS
        and observation_shape[0] in CHANNELS
    ):
        raise InputError(
            f"{name}: observations of shape {observation_shape} look like images with the channels "
            "first, expected (height, width, channels): move the first axis to the end"
        )
    if kind == "none" and len(observation_shape) != 1:
        raise InputError(
            f"{name}: observations of shape {observation_shape} need an encoder: use encoder=conv "
            "for images"
        )
