"""SAC-N: SAC with many critics, whose minimum is pessimistic (An et al. 2021, arXiv 2110.01548).

    y = r + gamma (1 - termination) (min_{i <= N} Qbar_i(s', a') - alpha log pi(a' | s'))

Outside the data the critics disagree, and the minimum of N of them lies about as many of their
standard deviations below their mean as the smallest of N normal numbers does: 1.5 for N = 10, 2.7
for N = 200. Nothing else differs from SAC: the update is :func:`ddm.off_policy.sac.step`.

The authors' numbers of critics: 10 on halfcheetah, 20 on walker2d, 500 on hopper-medium and 200 on
the other hopper sets, 100 on Adroit. With so many critics, most of the cost is theirs;
:mod:`ddm.lower_bound.edac` needs fewer.

From the authors' code: all losses see the parameters before the step, here the critics step first,
as in SAC; the hidden biases start at 0.1 and the last layers close to 0, here as for all modules.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from ddm.off_policy import sac
from ddm.off_policy.sac import State, act, batch_spec, diagnose
from ddm.types import Batch, Metrics, PRNGKey, check_batch, check_continuous_example, static

__all__ = ["Config", "State", "act", "batch_spec", "diagnose", "init", "update"]


class Config(sac.Config):
    """Hyper-parameters; defaults are the authors' for halfcheetah."""

    num_critics: int = static(10, "[2, inf)")  # N
    hidden_sizes: tuple[int, ...] = static((256, 256, 256), "[1, inf)")  # relu layers


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """Fresh networks for the shapes in `batch`.

    Raises:
      InputError: integer actions, or images.
    """
    check_continuous_example(config, batch, batch_spec(config), "sac_n")
    return sac.init(config, key, batch)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of critics, policy, temperature and targets.

    Metrics: SAC's, and ``q_spread``, the standard deviation of the members' values of the logged
    actions, mean over the batch.
    """
    check_batch(batch, batch_spec(config), "sac_n")
    return sac.step(config, state, batch, report_spread)


def report_spread(params: Any, values: jax.Array) -> tuple[jax.Array, Metrics]:
    """No term of the critic loss, but how far the members' values (N, B) lie apart."""
    del params
    return jnp.zeros((), values.dtype), {"q_spread": jnp.mean(jnp.std(values, axis=0))}
