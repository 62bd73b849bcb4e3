"""Image encoders against flax's convolution, bytes and shapes by hand, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ddm import networks
from ddm.errors import InputError
from ddm.networks.encoders import PatchConv


@pytest.mark.parametrize("shape", [(2, 9, 12, 3), (1, 38, 32, 1), (3, 3, 2, 2)])
def test_patches_give_what_a_convolution_gives(shape):
    images = jax.random.normal(jax.random.key(0), shape)
    reference = nn.Conv(4, (5, 5), (2, 2))
    params = reference.init(jax.random.key(1), images)
    own = PatchConv(4)
    expected = jnp.asarray(reference.apply(params, images))
    np.testing.assert_allclose(own.apply(params, images), expected, atol=1e-5)
    own_params = own.init(jax.random.key(1), images)
    assert jax.tree.map(jnp.shape, own_params) == jax.tree.map(jnp.shape, params)
    deviation = float(jnp.std(jnp.asarray(own_params["params"]["kernel"])))
    assert deviation == pytest.approx((25 * shape[-1]) ** -0.5, rel=0.25)


def test_a_patch_by_hand():
    # One 3 x 3 image of ones under a kernel of ones with its middle on pixels 0 and 2 of each
    # axis: every patch covers the whole image but the padding.
    params = {"params": {"kernel": jnp.ones((5, 5, 1, 1)), "bias": jnp.full(1, 0.5)}}
    result = PatchConv(1).apply(params, jnp.ones((1, 3, 3, 1)))
    np.testing.assert_allclose(result[0, :, :, 0], np.full((2, 2), 9.5))
    result = PatchConv(1, size=3).apply(
        {"params": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}}, jnp.ones((1, 3, 3, 1))
    )
    np.testing.assert_allclose(result[0, :, :, 0], np.full((2, 2), 4.0))  # only corners


def test_bytes_become_minus_one_to_one_and_floats_stay():
    pixels = jnp.array([0, 51, 255], jnp.uint8)
    np.testing.assert_allclose(networks.scale_pixels(pixels), [-1.0, -0.6, 1.0], atol=1e-6)
    assert networks.scale_pixels(pixels).dtype == jnp.float32
    floats = jnp.array([-3.0, 300.0])
    np.testing.assert_array_equal(networks.scale_pixels(floats), floats)


def test_any_leading_axes():
    encoder = networks.ObservationEncoder("conv")
    images = jax.random.randint(jax.random.key(0), (2, 3, 8, 8, 1), 0, 256).astype(jnp.uint8)
    params = encoder.init(jax.random.key(1), images[0])
    together = encoder.apply(params, images)
    assert together.shape == (2, 3, 32)
    np.testing.assert_allclose(together[1, 2], encoder.apply(params, images[1, 2]), atol=1e-5)
    scaled = encoder.apply(params, networks.scale_pixels(images))
    np.testing.assert_allclose(scaled, together, atol=1e-5)
    assert float(jnp.std(together, axis=(0, 1)).max()) > 0.01  # images are told apart


def test_no_encoder_is_the_identity():
    vectors = jnp.arange(6.0).reshape(2, 3)
    encoder = networks.ObservationEncoder("none")
    assert encoder.init(jax.random.key(0), vectors) == {}
    np.testing.assert_array_equal(encoder.apply({}, vectors), vectors)


def test_an_encoded_policy_is_the_policy_on_encoded_observations():
    policy = networks.DeterministicPolicy((4,), 2)
    whole = networks.Encoded("conv", policy)
    images = jax.random.randint(jax.random.key(0), (5, 8, 8, 1), 0, 256).astype(jnp.uint8)
    params = whole.init(jax.random.key(1), images)["params"]
    encoded = networks.ObservationEncoder("conv").apply({"params": params["encoder"]}, images)
    expected = policy.apply({"params": params["network"]}, encoded)
    np.testing.assert_allclose(whole.apply({"params": params}, images), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("resnet", (8, 8, 1), r"bc: encoder=resnet is unknown; choose one of none, conv"),
        ("conv", (4,), r"bc: encoder=conv is for images .* observations of shape \(4,\)"),
        ("conv", (3, 16, 16), r"bc: .*\(3, 16, 16\) look like images with the channels first"),
        ("conv", (4, 84, 84), "expected \\(height, width, channels\\): move the first axis"),
        ("none", (8, 8, 1), r"bc: observations of shape \(8, 8, 1\) need an encoder"),
    ],
)
def test_observations_that_do_not_fit_are_refused_by_name(kind, shape, message):
    with pytest.raises(InputError, match=message):
        networks.check_encoder(kind, shape, "bc")
    for shape in ((8, 8, 1), (3, 16, 3), (84, 84, 12), (2, 16, 16)):
        networks.check_encoder("conv", shape, "bc")
    networks.check_encoder("none", (4,), "bc")
