"""One optimiser step against plain gradient descent."""

import jax.numpy as jnp
import numpy as np
import optax

from ddm import networks


def test_minimize_takes_one_step_and_reports_the_loss_before_it():
    model = networks.trainable(None, jnp.array([1.0, -2.0]), optax.sgd)

    def loss_fn(params):
        loss = jnp.sum(params**2)
        return loss, {"loss": loss}

    model, metrics = networks.minimize(loss_fn, model, 0.1)
    np.testing.assert_allclose(model.params, [0.8, -1.6], rtol=1e-6)
    assert metrics["loss"] == 5.0


def test_the_optimiser_state_moves_along():
    model = networks.trainable(None, jnp.zeros(1))
    for expected_count in (1, 2):
        model = networks.descend(jnp.ones(1), model, 0.1)
        assert model.optimizer_state[0].count == expected_count
    np.testing.assert_allclose(model.params, [-0.2], rtol=1e-4)
