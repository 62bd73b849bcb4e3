"""EDAC: SAC-N whose critics are kept from agreeing outside the data (An et al. 2021, eq. 5).

    L_Q = sum_i (Q_i(s, a) - y)^2 + eta mean_s ES(s, a)
    ES(s, a) = 1 / (N - 1) sum_i sum_{j != i} <g_i, g_j>,   g_i = grad_a Q_i / |grad_a Q_i|

at logged actions. The less the slopes point the same way, the more the values of actions beside the
data differ, and the lower is their minimum: fewer critics give the same pessimism. ES is N where
all slopes are one, and at least -N / (N - 1). Its gradient goes through the slopes, and so twice
through the critics.

The authors' N and eta: 10 and 1 on halfcheetah and walker2d (5 on their medium-expert sets), 50 and
1 on hopper; on Adroit's pen 20 and 10 (1000 on its human set), on its other tasks 50 and 200.

From the authors' code: as for :mod:`ddm.lower_bound.sac_n`. They add 1e-10 to a slope's length;
here 1e-12 is added to its square, so that the gradient is finite where a slope is 0.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddm import networks
from ddm.lower_bound import sac_n
from ddm.off_policy import sac
from ddm.off_policy.sac import State, act, batch_spec, diagnose
from ddm.types import Batch, Metrics, PRNGKey, check_batch, check_continuous_example, leaf

__all__ = ["Config", "State", "act", "batch_spec", "diagnose", "init", "update"]


class Config(sac_n.Config):
    """Hyper-parameters; defaults are the authors' for halfcheetah and walker2d."""

    diversity_weight: float = leaf(1.0, "[0, inf)")  # eta; 0: SAC-N


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous_example(config, batch, batch_spec(config), "edac")
    return sac.init(config, key, batch)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of critics, policy, temperature and targets.

    Metrics: SAC-N's, and ``similarity``, the mean of ES.
    """
    check_batch(batch, batch_spec(config), "edac")

    def diversity(params: Any, values: jax.Array) -> tuple[jax.Array, Metrics]:
        slopes = networks.action_slopes(state.critic, params, batch.observations, batch.actions)
        similarity = jnp.mean(similarities(slopes))
        _, metrics = sac_n.report_spread(params, values)
        return config.diversity_weight * similarity, {**metrics, "similarity": similarity}

    return sac.step(config, state, batch, diversity)


def similarities(slopes: jax.Array) -> jax.Array:
    """ES (B,) of slopes (N, B, A).

    The sum over pairs is the squared length of the sum of the directions, less that of each.
    """
    lengths = jnp.sqrt(jnp.sum(jnp.square(slopes), axis=-1, keepdims=True) + 1e-12)
    directions = slopes / lengths
    all_pairs = jnp.sum(jnp.square(jnp.sum(directions, axis=0)), axis=-1)
    own = jnp.sum(jnp.square(directions), axis=(0, -1))
    return (all_pairs - own) / (slopes.shape[0] - 1)
