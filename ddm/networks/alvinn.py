"""The network of ALVINN (Pomerleau 1989): one hidden layer of logistic units, small at first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.networks.mlp import Network

INPUT_WEIGHTS, OUTPUT_WEIGHTS = 0.05, 0.1  # first weights are uniform within plus and minus


class Perceptron(Network):
    """Layers of logistic units with small first weights, and outputs without an activation.

    Maps (..., I) to (..., num_outputs).
    """

    hidden_sizes: tuple[int, ...]
    num_outputs: int

    @nn.compact
    def __call__(self, inputs: jax.Array, output_bias: jax.Array | float = 0.0) -> jax.Array:
        """The outputs; `output_bias` is the first value of their biases, which `init` reads."""

        def bias_init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            del key
            return jnp.full(shape, output_bias, dtype)

        hidden = inputs
        for index, size in enumerate(self.hidden_sizes):
            layer = nn.Dense(size, kernel_init=_symmetric(INPUT_WEIGHTS), name=f"hidden_{index}")
            hidden = nn.sigmoid(layer(hidden))
        return nn.Dense(
            self.num_outputs,
            kernel_init=_symmetric(OUTPUT_WEIGHTS),
            bias_init=bias_init,
            name="output",
        )(hidden)


def _symmetric(scale: float) -> Callable[..., jax.Array]:
    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -scale, scale)

    return draw
