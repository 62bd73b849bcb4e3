"""Monte-Carlo values of policies whose values are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm import envs, evaluation

KEY = jax.random.key(0)


def test_standing_still_earns_a_geometric_series():
    environment = envs.PointMass(num_dimensions=2)
    # The time limit of 3 steps is passed over.
    params = environment.default_params.replace(max_steps=3)
    observations = jnp.array([[0.5, 0.5], [0.5, -0.5]])
    values = jax.jit(
        lambda observations: evaluation.monte_carlo_values(
            environment, params, jax.vmap(environment.state_at)(observations), observations,
            lambda observation, key: jnp.zeros(2), KEY, discount=0.9, horizon=40,
        )
    )(observations)  # fmt: skip
    np.testing.assert_allclose(values, [0.0, -(1 - 0.9**40) / 0.1], rtol=1e-5)


def test_nothing_is_earned_after_a_termination():
    environment = envs.make("PointMaze-UMaze-v0")
    params = environment.default_params
    observation, state = environment.reset(KEY, params)
    near = dataclasses.replace(state, position=state.goal, velocity=jnp.zeros(2))
    states = jax.tree.map(lambda *rows: jnp.stack(rows), near, state)
    values = evaluation.monte_carlo_values(
        environment, params, states, jnp.stack([observation] * 2),
        lambda observation, key: jnp.zeros(2), KEY, discount=0.5, horizon=5,
    )  # fmt: skip
    # At the goal the first step earns 1 and terminates; the start is far away.
    np.testing.assert_array_equal(values, [1.0, 0.0])


def test_noise_averages_out():
    environment = envs.PointMass(num_dimensions=1)
    observations = jnp.full((4000, 1), 0.5)

    def left_or_right(observation, key):
        return jnp.where(jax.random.bernoulli(key, 0.25, (1,)), 1.0, -0.5)

    values = evaluation.monte_carlo_values(
        environment, environment.default_params, jax.vmap(environment.state_at)(observations),
        observations, left_or_right, KEY, discount=1.0, horizon=1,
    )  # fmt: skip
    # One step of 0.1 with probability 0.25, else of 0.05.
    assert float(values.mean()) == pytest.approx(-0.0625, abs=2e-3)
    assert len(np.unique(np.round(values, 5))) == 2
