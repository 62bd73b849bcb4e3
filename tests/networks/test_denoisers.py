"""Networks that tell noise from actions: what they may see, and how they are put together."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import networks
from ddm.errors import InputError
from ddm.imitation import diffusion
from ddm.imitation.parts.denoising import DENOISERS
from ddm.networks import denoisers

CONFIG = diffusion.Config(
    hidden_sizes=(16, 16), unet_widths=(8, 16), num_layers=1, width=16, num_heads=2
)
MODULES = {name: diffusion.denoiser_network(CONFIG.replace(denoiser=name), 2) for name in DENOISERS}
LEVELS = jnp.array([0, 7, 3], jnp.int32)


@pytest.fixture(scope="module")
def inputs():
    chunk_key, frame_key = jax.random.split(jax.random.key(0))
    return jax.random.normal(chunk_key, (3, 4, 2)), jax.random.normal(frame_key, (3, 2, 5))


@pytest.fixture(scope="module", params=DENOISERS)
def applied(request, inputs):
    """A denoiser with random parameters: its compiled function and its parameters."""
    module = MODULES[request.param]
    params = jax.jit(module.init)(jax.random.key(1), inputs[0], LEVELS, inputs[1])
    return request.param, jax.jit(module.apply), params


def test_output_has_the_chunks_shape_and_rows_do_not_mix(applied, inputs):
    _, apply, params = applied
    chunks, frames = inputs
    out = apply(params, chunks, LEVELS, frames)
    assert out.shape == chunks.shape
    changed = apply(params, chunks.at[1].add(1.0), LEVELS, frames.at[1].add(1.0))
    np.testing.assert_allclose(changed[::2], out[::2], atol=1e-6)
    assert not np.allclose(changed[1], out[1], atol=1e-3)


def test_every_input_matters(applied, inputs):
    _, apply, params = applied
    chunks, frames = inputs
    out = apply(params, chunks, LEVELS, frames)
    others = (
        apply(params, chunks, LEVELS + 1, frames),
        apply(params, chunks, LEVELS, frames.at[:, 0].add(1.0)),  # the older frame
        apply(params, chunks, LEVELS, frames.at[:, 1].add(1.0)),
        apply(params, chunks.at[:, 0].add(1.0), LEVELS, frames),
    )
    for other in others:
        assert (np.abs(other - out).max(axis=(1, 2)) > 1e-4).all()


def test_encoding_once_is_the_same_and_one_level_serves_all_rows(applied, inputs):
    name, apply, params = applied
    chunks, frames = inputs
    module = MODULES[name]
    features = module.apply(params, frames, method="encode")
    denoise = jax.jit(functools.partial(module.apply, method="denoise"))
    one = denoise(params, chunks, jnp.int32(7), features)
    whole = apply(params, chunks, jnp.full(3, 7, jnp.int32), frames)
    np.testing.assert_allclose(one, whole, atol=1e-5)


def test_a_causal_transformer_does_not_look_ahead(inputs):
    chunks, frames = inputs
    for causal in (True, False):
        config = CONFIG.replace(denoiser="transformer", causal=causal)
        module = diffusion.denoiser_network(config, 2)
        params = jax.jit(module.init)(jax.random.key(1), chunks, LEVELS, frames)
        apply = jax.jit(module.apply)
        out = apply(params, chunks, LEVELS, frames)
        other = apply(params, chunks.at[:, 2].add(1.0), LEVELS, frames)
        moved = np.abs(other - out).max(axis=(0, 2)) > 1e-6
        assert moved.tolist() == [not causal, not causal, True, True]


def test_the_unet_of_the_paper_has_the_size_of_the_authors_code():
    # Push-T from states: 2 actions, 2 frames of 20 numbers, widths 256, 512, 1024. Counted by hand
    # from conditional_unet1d.py; the level's perceptron is 256 -> 1024 -> 256.
    module = networks.UNetDenoiser((256, 512, 1024))
    shapes = jax.eval_shape(
        module.init,
        jax.random.key(0),
        jnp.zeros((1, 16, 2)),
        jnp.zeros(1),
        jnp.zeros((1, 2, 20)),
    )
    condition = 256 + 2 * 20

    def dense(size, width):
        return size * width + width

    def conv_block(size, width):
        return 5 * size * width + width + 2 * width

    def block(size, width):
        skip = dense(size, width) if size != width else 0
        blocks = conv_block(size, width) + conv_block(width, width)
        return blocks + dense(condition, 2 * width) + skip

    expected = dense(256, 1024) + dense(1024, 256)
    for size, width in ((2, 256), (256, 512), (512, 1024)):  # down
        expected += block(size, width) + block(width, width)
    expected += 3 * 256 * 256 + 256 + 3 * 512 * 512 + 512  # halving
    expected += 2 * block(1024, 1024)
    for size, width in ((2048, 512), (1024, 256)):  # up, on both halves of the joined channels
        expected += block(size, width) + block(width, width) + 4 * width * width + width
    expected += conv_block(256, 256) + dense(256, 2)
    found = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert found == expected


def test_film_multiplies_by_the_scale_itself():
    module = denoisers.FiLMBlock(8, 5)
    inputs = jax.random.normal(jax.random.key(0), (2, 4, 8))
    params = module.init(jax.random.key(1), inputs, jnp.zeros((2, 3)))
    # mish(0) = 0 and no bias: scale 0 and bias 0 leave nothing of the first convolution.
    one = module.apply(params, inputs, jnp.zeros((2, 3)))
    params["params"]["ConvBlock_0"] = jax.tree.map(jnp.zeros_like, params["params"]["ConvBlock_0"])
    other = module.apply(params, inputs, jnp.zeros((2, 3)))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_group_norms_are_over_each_rows_own_steps():
    module = denoisers.ConvBlock(16, 5)
    inputs = jax.random.normal(jax.random.key(0), (2, 6, 3))
    params = module.init(jax.random.key(1), inputs)
    both = module.apply(params, inputs)
    np.testing.assert_allclose(module.apply(params, inputs[1]), both[1], atol=1e-5)
    np.testing.assert_allclose(module.apply(params, inputs[None]), both[None], atol=1e-5)


def test_images_are_encoded_frame_by_frame():
    config = CONFIG.replace(encoder="conv")
    module = diffusion.denoiser_network(config, 2)
    images = jax.random.randint(jax.random.key(0), (3, 2, 8, 8, 1), 0, 256).astype(jnp.uint8)
    params = jax.jit(module.init)(jax.random.key(1), jnp.zeros((3, 4, 2)), LEVELS, images)
    encode = jax.jit(lambda images: module.apply(params, images, method="encode"))
    features = encode(images)
    assert features.shape == (3, 2, 32)
    one = encode(images[:, 1:])
    np.testing.assert_allclose(features[:, 1:], one, atol=1e-6)


def test_residual_layers_add_to_their_input(inputs):
    chunks, frames = inputs
    module = diffusion.denoiser_network(CONFIG.replace(residual=True, layer_norm=True), 2)
    params = jax.jit(module.init)(jax.random.key(1), chunks, LEVELS, frames)
    network = params["params"]["network"]
    assert sum(name.startswith("LayerNorm") for name in network) == 2
    # With the branches' last layers at zero only the first and the last layer are left.
    for name in ("Dense_2", "Dense_4"):
        network[name] = jax.tree.map(jnp.zeros_like, network[name])
    flat = [chunks.reshape(3, -1), None, frames.reshape(3, -1)]
    flat[1] = networks.LevelEmbedding(16).apply({"params": network["level"]}, LEVELS)
    hidden = jnp.concatenate(flat, axis=-1) @ network["Dense_0"]["kernel"]
    expected = jax.nn.mish(hidden) @ network["Dense_5"]["kernel"]
    found = jax.jit(module.apply)(params, chunks, LEVELS, frames)
    np.testing.assert_allclose(found.reshape(3, -1), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denoiser": "gru"}, "denoiser=gru is unknown; choose one of mlp, unet, transformer"),
        ({"hidden_sizes": ()}, r"hidden_sizes is \(\), expected at least one layer"),
        ({"residual": True, "hidden_sizes": (8, 16)}, "layers of one size with residual"),
        (
            {"denoiser": "unet", "unet_widths": (8, 16, 32), "chunk_size": 6},
            "chunk_size is 6, expected a multiple of 4",
        ),
        ({"denoiser": "unet", "unet_widths": (8, 12)}, "expected multiples of 8"),
        ({"denoiser": "transformer", "num_heads": 3}, "width is 16, expected a multiple of twice"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=f"diffusion: .*{message}"):
        diffusion.denoiser_network(CONFIG.replace(**changes), 2)
