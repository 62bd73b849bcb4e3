"""Smooth models of functions whose slopes are known: a line, a step, noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.imitation import ccil
from ddm.imitation.parts import lipschitz, slopes
from ddm.networks import spectral
from ddm.types import Batch

KEY = jax.random.key(0)
JUMP = 0.0  # where `steep` jumps


def steep(observations):
    """A change that jumps by 2 at 0, with a slope of 0.2 elsewhere."""
    return 0.2 * observations + np.where(observations > JUMP, 1.0, -1.0)


def log_of(function, rows=128):
    observations = np.linspace(-1.0, 1.0, rows)[:, None]
    return Batch(
        observations=jnp.asarray(observations, jnp.float32),
        actions=jnp.zeros((rows, 1), jnp.float32),
        next_observations=jnp.asarray(observations + function(observations), jnp.float32),
    )


def config_of(variant, **changes):
    given = {
        "lipschitz": variant,
        "model_hidden_sizes": (32, 32),
        "model_batch_size": 64,
        "steps_per_epoch": 200,
        "model_learning_rate": 3e-3,
        "slope_limit": 2.0,
        "slope_weight": 1.0,
    }
    return ccil.Config(**given | changes)


@functools.cache
def trained(variant, function=steep, epochs=3, **changes):
    config, batch = config_of(variant, **changes), log_of(function)
    state = lipschitz.init(config, KEY, batch)
    update = jax.jit(lipschitz.update)
    for _ in range(epochs):
        state, metrics = update(config, state, batch)
    return config, state, metrics


def steepest(state):
    """The largest slope of the network on its inputs, in standardised units."""
    batch = log_of(steep, 2001)
    inputs = lipschitz.join(state.units, batch.observations, batch.actions)
    outputs = state.model.network.apply(state.model.params, inputs[:, :1], inputs[:, 1:])
    return float(jnp.max(jnp.abs(jnp.diff(outputs[:, 0])) / jnp.diff(inputs[:, 0])))


def test_without_a_limit_it_follows_a_jump_and_with_a_limit_it_does_not():
    assert steepest(trained("none")[1]) > 15.0
    for variant in ("jacobian", "sampling"):
        _, state, metrics = trained(variant)
        assert steepest(state) < 4.0, variant
        assert metrics["error"] < 0.3, variant  # of the variance: away from the jump it is right


def test_layers_of_the_spectral_variant_are_within_their_limit_and_so_is_the_network():
    _, state, metrics = trained("spectral", slope_limit=1.3)
    norms = np.array(spectral.norms(state.model.params))
    assert len(norms) == 3
    assert norms.max() <= 1.3 * (1.0 + 1e-5)
    assert norms.max() > 1.29  # the limit is felt
    assert steepest(state) <= 1.3**3
    assert metrics["error"] < 0.3


def test_sampled_slopes_are_those_of_a_line():
    config = config_of("sampling", num_perturbations=40)
    matrix = jnp.array([[3.0, 0.0]])  # rows of inputs (B, 2) -> (B, 1)
    inputs = jnp.zeros((64, 2))
    f = lambda x: x @ matrix.T  # noqa: E731
    found = slopes.sampled_slopes(config, f, inputs, f(inputs), KEY)
    assert found.shape == (40, 64)
    # |3 x_1| / |x| for a random direction: 3 |cos|, whose mean is 6 / pi.
    assert found.max() <= 3.0 + 1e-4
    assert float(found.mean()) == pytest.approx(6.0 / np.pi, rel=0.05)


def test_penalties_by_hand():
    inputs = jnp.zeros((8, 2))
    f = lambda x: 3.0 * x  # noqa: E731 slope 3 in every direction
    targets = jnp.full((8, 2), 0.5)  # squared error 0.25
    config = config_of("sampling", slope_limit=2.0, slope_weight=0.1)
    for name in ("jacobian", "sampling"):
        loss, metrics = slopes.VARIANTS[name].loss(config, f, None, inputs, targets, KEY)
        assert float(loss) == pytest.approx(0.25 + 0.1 * (3.0 - 2.0), rel=1e-3)
        assert float(metrics["slope"]) == pytest.approx(3.0, rel=1e-3)
    config = config.replace(slack_weight=0.3)
    closed = lambda x: jnp.full((8, 1), -1.0)  # noqa: E731
    opened, allowed = 1.0 / (1.0 + np.e), np.log1p(np.exp(-1.0))
    loss, _ = slopes.slack(config, f, closed, inputs, targets, KEY)
    assert float(loss) == pytest.approx(opened * 0.25 * np.sqrt(2) - 0.3 * opened, rel=1e-4)
    loss, _ = slopes.soft_sampling_slack(config, f, closed, inputs, targets, KEY)
    penalty = (3.0 - 2.0 - allowed) + 0.3 * (1.0 - np.exp(-allowed))
    assert float(loss) == pytest.approx(0.25 + 0.1 * penalty, rel=1e-3)


def test_a_gate_gives_up_what_cannot_be_learned():
    """Targets of one half of the inputs are noise: there the gate closes, elsewhere it opens."""
    noise = np.random.default_rng(0).normal(size=(128, 1))

    def half(observations):
        return np.where(observations > 0.0, noise, 0.1 * observations)

    _, state, _ = trained("slack", half, epochs=1, model_hidden_sizes=(8,), slack_weight=0.5)
    batch = log_of(half)
    inputs = lipschitz.join(state.units, batch.observations, batch.actions)
    gate = jax.nn.sigmoid(state.gate(inputs[:, :1], inputs[:, 1:]))[:, 0]
    assert gate[:54].mean() > 0.8
    assert gate[74:].mean() < 0.6


def test_slack_is_given_where_the_function_jumps():
    _, state, metrics = trained("sampling_slack", slack_weight=0.02, slope_weight=0.1)
    batch = log_of(steep, 201)
    inputs = lipschitz.join(state.units, batch.observations, batch.actions)
    slack = np.asarray(jax.nn.softplus(state.gate(inputs[:, :1], inputs[:, 1:])))[:, 0]
    near, far = np.abs(batch.observations[:, 0]) < 0.03, np.abs(batch.observations[:, 0]) > 0.4
    assert slack[near].mean() > 10.0 * slack[far].mean()
    assert metrics["error"] < trained("sampling")[2]["error"]


def test_predictions_are_in_the_units_of_the_log_and_constants_stay_constant():
    def line(observations):
        return 100.0 + 5.0 * observations

    _, state, metrics = trained("none", line)
    batch = log_of(line)
    found = lipschitz.predict(state, batch.observations, batch.actions)
    np.testing.assert_allclose(found, batch.next_observations - batch.observations, atol=0.3)
    assert metrics["error"] < 1e-2
    _, state, _ = trained("none", lambda observations: 0.0 * observations + 7.0, epochs=1)
    found = lipschitz.predict(state, batch.observations + 3.0, batch.actions + 1.0)
    np.testing.assert_allclose(found, 7.0, rtol=1e-5)


def test_an_epoch_is_as_long_as_the_log():
    class Log:
        rewards = np.zeros(300)

    config = lipschitz.prepare(ccil.Config(model_batch_size=128), Log)
    assert config.steps_per_epoch == 2
    assert lipschitz.prepare(config.replace(steps_per_epoch=9), Log).steps_per_epoch == 9
