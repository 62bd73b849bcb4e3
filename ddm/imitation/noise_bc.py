"""NoiseBC: behaviour cloning of observations with noise (as in Ke et al. 2024).

    L(theta) = - E_D E_x [log pi(a | s + x)],   x ~ N(0, noise^2 I) in the units of the log

The simplest answer to states beside the demonstrations, and a baseline of methods that use the
dynamics: it repeats the demonstrated action there, and so neither moves away nor comes back. It is
`bc` on other batches, and its policy is one of `bc`.

From the authors' code: the noise has mean 0 and is on all rows. Theirs is uniform in [0, 1e-4) and
on half of the rows.
"""

from __future__ import annotations

import jax

from ddm.imitation import bc
from ddm.imitation.bc import State, act, batch_spec, log_prob
from ddm.networks.heads import policy_network
from ddm.types import Batch, Metrics, PRNGKey, check_batch, check_vectors, leaf

__all__ = [
    "Config", "State", "act", "batch_spec", "init", "log_prob", "policy_network", "update",
]  # fmt: skip


class Config(bc.Config):
    """Hyper-parameters of behaviour cloning and of the noise."""

    noise: float = leaf(0.1, "[0, inf)")  # standard deviation, in the units of the log


def init(config: Config, key: PRNGKey, batch: Batch) -> State:
    """A fresh policy of `bc`.

    Raises:
      InputError: images, a head for the other kind of actions, or features that do not fit it.
    """
    check_batch(batch, batch_spec(config), "noise_bc")
    check_vectors(config, batch, "noise_bc")
    return bc.init(config, key, batch)


def update(config: Config, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step of `bc` with new noise. Metrics: those of `bc`, at the noisy observations."""
    check_batch(batch, batch_spec(config), "noise_bc")
    key, noise_key = jax.random.split(state.key)
    noise = jax.random.normal(noise_key, batch.observations.shape, batch.observations.dtype)
    noisy = batch.replace(observations=batch.observations + config.noise * noise)
    return bc.update(config, state.replace(key=key), noisy)
