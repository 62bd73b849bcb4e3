"""The losses of a smooth model: how slopes are bounded, see :mod:`ddm.imitation.parts.lipschitz`.

f maps standardised inputs (B, I) to standardised changes (B, O), the gate maps them to (B, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ddm.networks import spectral
from ddm.types import Metrics, PRNGKey


class Variant(NamedTuple):
    """One way to bound slopes."""

    # (config, f, gate, inputs (B, I), targets (B, O), key) -> loss, metrics
    loss: Callable[..., tuple[jax.Array, Metrics]]
    gated: bool = False  # there is a second network, with one number for each sample
    clipped: bool = False  # layers are shrunk after each step


def unregularized(
    config: Any, f: Callable, gate: Any, inputs: jax.Array, targets: jax.Array, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """The mean squared error."""
    del config, gate, key
    return jnp.mean((f(inputs) - targets) ** 2), {}


def soft_jacobian(
    config: Any, f: Callable, gate: Any, inputs: jax.Array, targets: jax.Array, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """A penalty on the largest singular value of the Jacobian. Metric: ``slope``, its mean."""
    error, _ = unregularized(config, f, gate, inputs, targets, key)
    slopes = jax.vmap(lambda x: spectral.local_slope(lambda x: f(x[None])[0], x))(inputs)
    penalty = jnp.mean(jax.nn.relu(slopes - config.slope_limit))
    return error + config.slope_weight * penalty, {"slope": jnp.mean(slopes)}


def soft_sampling(
    config: Any, f: Callable, gate: Any, inputs: jax.Array, targets: jax.Array, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """A penalty on slopes towards random neighbours. Metric: ``slope``, their mean."""
    del gate
    outputs = f(inputs)
    slopes = sampled_slopes(config, f, inputs, outputs, key)
    penalty = jnp.mean(jax.nn.relu(slopes - config.slope_limit))
    error = jnp.mean((outputs - targets) ** 2)
    return error + config.slope_weight * penalty, {"slope": jnp.mean(slopes)}


def sampled_slopes(
    config: Any, f: Callable, inputs: jax.Array, outputs: jax.Array, key: PRNGKey
) -> jax.Array:
    """(P, B) difference quotients towards P random neighbours of each of the inputs (B, I)."""
    shape = (config.num_perturbations, *inputs.shape)
    noise = config.perturbation * jax.random.normal(key, shape, inputs.dtype)
    neighbors = f((inputs[None] + noise).reshape(-1, shape[-1])).reshape(*shape[:2], -1)
    return _length(neighbors - outputs[None]) / _length(noise)


def _length(vectors: jax.Array) -> jax.Array:
    """Norms (...,) of (..., N), with a finite derivative at 0."""
    return jnp.sqrt(jnp.sum(jnp.square(vectors), axis=-1) + 1e-20)


def slack(
    config: Any, f: Callable, gate: Any, inputs: jax.Array, targets: jax.Array, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """A gate may give samples up. Metric: ``gate``, its mean: 1 where all samples count."""
    del key
    opened = jax.nn.sigmoid(gate(inputs)[..., 0])
    lengths = _length(opened[:, None] * (f(inputs) - targets) ** 2)
    loss = jnp.mean(lengths) - config.slack_weight * jnp.mean(opened)
    return loss, {"gate": jnp.mean(opened)}


def soft_sampling_slack(
    config: Any, f: Callable, gate: Any, inputs: jax.Array, targets: jax.Array, key: PRNGKey
) -> tuple[jax.Array, Metrics]:
    """Single samples may be steep. Metrics: ``slope``, ``slack``: means."""
    outputs = f(inputs)
    slopes = sampled_slopes(config, f, inputs, outputs, key)
    allowed = jax.nn.softplus(gate(inputs)[..., 0])
    excess = jnp.mean(jax.nn.relu(slopes - config.slope_limit - allowed[None]))
    number = jnp.mean(1.0 - jnp.exp(-allowed))
    penalty = config.slope_weight * (excess + config.slack_weight * number)
    error = jnp.mean((outputs - targets) ** 2)
    return error + penalty, {"slope": jnp.mean(slopes), "slack": jnp.mean(allowed)}


VARIANTS: dict[str, Variant] = {
    "none": Variant(unregularized),
    "spectral": Variant(unregularized, clipped=True),
    "jacobian": Variant(soft_jacobian),
    "sampling": Variant(soft_sampling),
    "slack": Variant(slack, gated=True),
    "sampling_slack": Variant(soft_sampling_slack, gated=True),
}
