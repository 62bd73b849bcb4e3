"""The average whose window grows with training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddm.ops import averaging


def test_decay_of_the_published_warm_up():
    # 1 - (1 + n)^-0.75 at n = step - 1.
    for updates, decay in ((10, 0.8344), (100, 0.9686), (10_000, 0.9990)):
        found = averaging.warmup_decay(updates + 1, 0.75, 0.9999)
        assert found == pytest.approx(decay, abs=5e-5)


def test_the_first_two_updates_are_not_averaged_and_the_ceiling_binds():
    decays = [float(averaging.warmup_decay(step, 0.75, 0.5)) for step in (0, 1, 2, 3, 1000)]
    assert decays == pytest.approx([0.0, 0.0, 1 - 2**-0.75, 0.5, 0.5])


def test_the_average_of_a_ramp_by_hand():
    # Power 1: the decay is n / (n + 1), so that every value from the second on weighs alike.
    old = {"weights": jnp.array([9.0])}
    for step in range(6):
        old = averaging.average(old, {"weights": jnp.array([float(step)])}, step, 1.0, 1.0)
    np.testing.assert_allclose(old["weights"], [np.mean([1, 2, 3, 4, 5])], rtol=1e-6)


def test_the_step_may_be_traced_and_vmapped():
    decays = jax.jit(jax.vmap(averaging.warmup_decay, (0, None, None)))(
        jnp.array([0, 11], jnp.int32), 0.75, 0.9999
    )
    np.testing.assert_allclose(decays, [0.0, 0.8344], atol=5e-5)
