"""Multi-layer perceptrons, single and as batched ensembles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Initializer = Callable[..., jax.Array]


# A network stands in its train state, as a value that is compared, hashed and pickled. What it is
# made of has a name in a module: no closures, and `relu` below in place of jax's, which has none.


def fan_in_uniform(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Uniform on +-1/sqrt(fan in): what the reference implementations in torch start from."""
    return nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")(key, shape, dtype)


def orthogonal(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Orthogonal rows or columns times sqrt(2), which keeps the variance through a relu."""
    return nn.initializers.orthogonal(2.0**0.5)(key, shape, dtype)


def relu(inputs: jax.Array) -> jax.Array:
    """max(x, 0)."""
    return nn.relu(inputs)


class Network(nn.Module):
    """A flax module without mutable collections, so that `apply` returns the output alone."""

    if TYPE_CHECKING:

        def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
            """The module's output; flax types it as a union with a tuple."""


class MLP(Network):
    """Hidden layers with an activation, then one linear layer named "output".

    Maps (..., I) to (..., output_size).
    """

    hidden_sizes: tuple[int, ...]
    output_size: int
    activation: Callable[[jax.Array], jax.Array] = relu
    layer_norm: bool = False  # before each activation
    dropout_rate: float = 0.0  # after each activation
    kernel_init: Initializer = fan_in_uniform
    output_init: Initializer = fan_in_uniform
    output_bias_init: Initializer = nn.initializers.zeros
    dense: type[nn.Module] = nn.Dense  # the kind of the layers

    @nn.compact
    def __call__(self, inputs: jax.Array, *, deterministic: bool = True) -> jax.Array:
        hidden = inputs
        for index, size in enumerate(self.hidden_sizes):
            hidden = self.dense(size, kernel_init=self.kernel_init, name=f"hidden_{index}")(hidden)
            if self.layer_norm:
                hidden = nn.LayerNorm(name=f"norm_{index}")(hidden)
            hidden = self.activation(hidden)
            if self.dropout_rate > 0.0:
                hidden = nn.Dropout(self.dropout_rate, deterministic=deterministic)(hidden)
        return self.dense(
            self.output_size,
            kernel_init=self.output_init,
            bias_init=self.output_bias_init,
            name="output",
        )(hidden)


def ensemble(module: type[nn.Module], size: int) -> type[nn.Module]:
    """The module with `size` members as one parameter tree, each with inputs of its own.

    Each parameter, input and output has a leading axis of `size`, so that one batched matrix
    product serves all members. :func:`share` gives all members the same inputs.
    """
    return nn.vmap(
        module,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=0,
        out_axes=0,
        axis_size=size,
    )


def share(inputs: jax.Array, size: int) -> jax.Array:
    """Inputs (..., I) for all members of an :func:`ensemble`: (size, N, I), one row per input.

    One batched product of plain rows is faster than members that read one array of any rank.
    """
    rows = inputs.reshape(-1, inputs.shape[-1])
    return jnp.broadcast_to(rows[None], (size, *rows.shape))


def concatenate_inputs(observations: jax.Array, actions: jax.Array) -> jax.Array:
    """(B, O) and (B, A), or (B, O) and (B, M, A), to critic inputs (B, [M,] O + A)."""
    if actions.ndim == observations.ndim + 1:
        shape = (*actions.shape[:-1], observations.shape[-1])
        observations = jnp.broadcast_to(observations[:, None, :], shape)
    return jnp.concatenate([observations, actions], axis=-1)
