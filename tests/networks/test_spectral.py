import jax
import jax.numpy as jnp
import numpy as np

from ddm import networks
from ddm.networks import spectral

NETWORK = networks.Regression((8, 8), 3)
OBSERVATIONS, ACTIONS = jax.random.normal(jax.random.key(0), (2, 64, 2))
# Wide kernels: norms around 10.
PARAMS = jax.tree.map(lambda x: 4.0 * x, NETWORK.init(jax.random.key(1), OBSERVATIONS, ACTIONS))


def test_norms_are_the_largest_singular_values_in_the_order_of_the_layers():
    layers = PARAMS["params"]["perceptron"]
    expected = [
        np.linalg.svd(layers[name]["kernel"])[1][0] for name in ("hidden_0", "hidden_1", "output")
    ]
    np.testing.assert_allclose(spectral.norms(PARAMS), expected, rtol=1e-5)


def test_repeated_power_steps_end_at_the_limit_and_leave_small_kernels_alone():
    vectors = spectral.start_vectors(jax.random.key(2), PARAMS)
    clip = jax.jit(spectral.clip)
    clipped, _ = clip(PARAMS, vectors, 1.5)
    for _ in range(60):
        clipped, vectors = clip(clipped, vectors, 1.5)
    np.testing.assert_allclose(spectral.norms(clipped), 1.5, rtol=1e-3)
    same, _ = clip(PARAMS, vectors, 1e3)
    jax.tree.map(np.testing.assert_array_equal, same, PARAMS)


def test_the_network_stretches_no_distance_by_more_than_the_product():
    clipped = spectral.clip_exactly(PARAMS, 1.5)
    np.testing.assert_allclose(spectral.norms(clipped), 1.5, rtol=1e-5)
    outputs = NETWORK.apply(clipped, OBSERVATIONS, ACTIONS)
    inputs = jnp.concatenate([OBSERVATIONS, ACTIONS], axis=-1)
    stretches = np.linalg.norm(outputs[:, None] - outputs[None], axis=-1) / (
        np.linalg.norm(inputs[:, None] - inputs[None], axis=-1) + np.eye(64)
    )
    assert 0.1 < stretches.max() <= 1.5**3


def test_the_local_slope_of_a_linear_map_is_its_norm():
    matrix = jax.random.normal(jax.random.key(3), (3, 4))
    slope = spectral.local_slope(lambda x: matrix @ x, jnp.ones(4))
    np.testing.assert_allclose(slope, np.linalg.svd(matrix)[1][0], rtol=1e-5)


def test_moments_restore_what_they_standardize_and_know_constants():
    values = jnp.array([[1.0, 5.0], [3.0, 5.0]])
    moments = networks.Moments.of(values)
    np.testing.assert_allclose(moments.standardize(values), [[-1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(moments.restore(jnp.full((1, 2), 9.0)), [[11.0, 5.0]])
