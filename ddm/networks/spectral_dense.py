"""Dense layers whose largest singular value is 1: a network of them has bounded slopes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.networks.mlp import Network, fan_in_uniform

_ITERATIONS = 16  # the estimate of a singular value is exact to about a percent


class SpectralDense(Network):
    """A dense layer whose kernel is divided by its largest singular value (Miyato et al. 2018).

    The authors keep a singular vector from step to step and improve it by one iteration. Here it is
    found anew in each call, so that the network has nothing but parameters.
    """

    features: int
    kernel_init: Any = fan_in_uniform
    bias_init: Any = nn.initializers.zeros

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        shape = (inputs.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, shape[1:], jnp.float32)
        outputs = inputs @ (kernel / largest_singular_value(kernel))
        return outputs + bias.reshape((1,) * (outputs.ndim - 1) + bias.shape)


def largest_singular_value(kernel: jax.Array, iterations: int = _ITERATIONS) -> jax.Array:
    """Of a matrix (I, J), by power iteration; scalar, at least 1e-6, differentiable.

    The singular vectors are held fixed in the gradient, which is then u v^T (their eq. 10).
    """
    fixed = jax.lax.stop_gradient(kernel)

    def improve(_: int, right: jax.Array) -> jax.Array:
        return _unit(fixed.T @ _unit(fixed @ right))

    # Any start that is not orthogonal to the vector that is looked for.
    start = _unit(jnp.cos(jnp.arange(kernel.shape[1], dtype=kernel.dtype)))
    right = jax.lax.fori_loop(0, iterations, improve, start)
    left = _unit(fixed @ right)
    return jnp.maximum(left @ kernel @ right, 1e-6)


def _unit(vector: jax.Array) -> jax.Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)
