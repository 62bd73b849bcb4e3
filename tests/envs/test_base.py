"""Where the time limit ends an episode."""

import jax.numpy as jnp
import numpy as np

from ddm.envs import base


def test_the_time_limit_truncates_the_last_step_unless_that_terminates():
    params = base.EnvParams(max_steps=3)
    times = jnp.array([1, 2, 3, 3])
    terminated = jnp.array([False, True, False, True])
    found = base.is_truncated(times, terminated, params)
    np.testing.assert_array_equal(found, [False, False, True, False])
