"""Byte images stay bytes: on the device, in a batch, in files, and under `normalize`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import data
from ddm.errors import InputError
from ddm.types import BatchSpec, Box

HEIGHT, WIDTH, CHANNELS = 5, 4, 3
SHAPE = (HEIGHT, WIDTH, CHANNELS)
PIXELS = HEIGHT * WIDTH * CHANNELS


def images(count, seed=0):
    return np.random.default_rng(seed).integers(256, size=(count, *SHAPE), dtype=np.uint8)


def episodes(lengths=(3, 1, 2)):
    return [
        {
            "observations": images(steps + 1, seed),
            "actions": np.full((steps, 1), 0.1 * seed),
            "rewards": np.ones(steps),
            "terminations": True,
        }
        for seed, steps in enumerate(lengths)
    ]


def dataset():
    return data.from_episodes(episodes())


def test_episodes_are_kept_as_they_are():
    made = dataset()
    expected = np.concatenate([episode["observations"] for episode in episodes()])
    assert isinstance(made.observations, jax.Array)
    assert made.observations.dtype == jnp.uint8
    np.testing.assert_array_equal(made.observations, expected)
    size = HEIGHT * WIDTH * CHANNELS
    assert made.info.observation_space == Box(SHAPE, (0.0,) * size, (255.0,) * size, "uint8")


def test_transitions_are_kept_as_they_are():
    rows = images(4)
    made = data.from_arrays(rows, np.zeros((4, 1)), np.ones(4), [0, 1, 0, 1])
    assert made.observations.dtype == jnp.uint8
    # After a terminal transition the observation is repeated.
    np.testing.assert_array_equal(made.observations, rows[[0, 1, 1, 2, 3, 3]])


def test_a_pixel_takes_one_byte():
    made = dataset()
    assert made.observations.nbytes == (6 + 3) * PIXELS
    # What else there is: action, 3 floats or flags and 2 indices a transition, little an episode.
    assert made.num_bytes < (6 + 3) * PIXELS + 6 * 30 + 3 * 20


def test_batches_are_bytes_of_the_drawn_steps():
    made = dataset()
    spec = BatchSpec(fields=("observations", "next_observations", "actions"))
    batch = jax.jit(data.sample, static_argnums=(2, 3))(made, jax.random.key(0), 32, spec)
    assert batch.observations.shape == (32, *SHAPE)
    assert batch.observations.dtype == batch.next_observations.dtype == jnp.uint8
    pairs = {
        (episode["observations"][t].tobytes(), episode["observations"][t + 1].tobytes())
        for episode in episodes()
        for t in range(len(episode["rewards"]))
    }
    drawn = zip(np.asarray(batch.observations), np.asarray(batch.next_observations), strict=True)
    assert {(one.tobytes(), two.tobytes()) for one, two in drawn} == pairs


def test_windows_are_bytes_too():
    spec = BatchSpec(fields=("observations", "actions", "mask"), window=3, history=1)
    batch = data.sample(dataset(), jax.random.key(0), 16, spec)
    assert batch.observations.shape == (16, 3, *SHAPE)
    assert batch.observations.dtype == jnp.uint8
    first = ~np.asarray(batch.mask)[:, 0]
    assert first.any()
    observations = np.asarray(batch.observations)
    np.testing.assert_array_equal(observations[first, 0], observations[first, 1])


def test_normalize_leaves_images_and_says_what_it_cannot_do():
    made = data.normalize(dataset(), rewards="minus_one")
    np.testing.assert_array_equal(made.observations, dataset().observations)
    np.testing.assert_array_equal(made.rewards, np.zeros(6))
    for mapped in (
        made.normalization.normalize_observations(made.observations),
        made.normalization.denormalize_observations(made.observations),
    ):
        assert mapped.dtype == jnp.uint8
        np.testing.assert_array_equal(mapped, made.observations)
    with pytest.raises(InputError, match=r"'standardize' is for vectors, .* bytes of shape \(5, 4"):
        data.normalize(made, "standardize")


def assert_equal(found, given):
    assert jax.tree.structure(found.normalization) == jax.tree.structure(given.normalization)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(given), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_allclose(one, two, rtol=1e-6)
    assert found.info.observation_space == given.info.observation_space


def test_npz_round_trip(tmp_path):
    given = dataset()
    data.save_npz(given, tmp_path / "images.npz")
    assert_equal(data.load(tmp_path / "images.npz"), given)


def test_plain_arrays_of_images_load_as_bytes(tmp_path):
    arrays = {"actions": np.zeros((4, 1)), "rewards": np.ones(4), "terminations": [0, 0, 0, 1]}
    np.savez(tmp_path / "plain.npz", observations=images(4), **arrays)
    found = data.load(tmp_path / "plain.npz")
    assert found.observations.dtype == jnp.uint8
    np.testing.assert_array_equal(found.observations[:4], images(4))


def test_minari_round_trip(tmp_path, monkeypatch):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DDM_CACHE", str(tmp_path / "cache"))
    given = dataset()
    data.write_minari("test/images-v0", given)
    assert_equal(data.load("test/images-v0"), given)


def test_a_description_knows_the_images_shape_and_size():
    description = data.describe(dataset())
    assert description.observation_shape == SHAPE
    assert description.constant_dimensions == ()
    assert "5x4x3" in str(description)
