"""Multi-layer perceptrons, single and as batched ensembles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Initializer = Callable[..., jax.Array]


def fan_in_uniform() -> Initializer:
    """Uniform on +-1/sqrt(fan in): what the reference implementations in torch start from."""
    return nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def orthogonal(scale: float = 2.0**0.5) -> Initializer:
    """Orthogonal rows or columns times `scale`; the default keeps the variance through a relu."""
    return nn.initializers.orthogonal(scale)


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
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    layer_norm: bool = False  # before each activation
    dropout_rate: float = 0.0  # after each activation
    kernel_init: Initializer = fan_in_uniform()
    output_init: Initializer = fan_in_uniform()

    @nn.compact
    def __call__(self, inputs: jax.Array, *, deterministic: bool = True) -> jax.Array:
        hidden = inputs
        for index, size in enumerate(self.hidden_sizes):
            hidden = nn.Dense(size, kernel_init=self.kernel_init, name=f"hidden_{index}")(hidden)
            if self.layer_norm:
                hidden = nn.LayerNorm(name=f"norm_{index}")(hidden)
            hidden = self.activation(hidden)
            if self.dropout_rate > 0.0:
                hidden = nn.Dropout(self.dropout_rate, deterministic=deterministic)(hidden)
        return nn.Dense(self.output_size, kernel_init=self.output_init, name="output")(hidden)


def output_size(params: Any) -> int:
    """Width of the last layer of an :class:`MLP`, read from its parameters.

    `act` sees one observation and no action, so the parameters are the only place that knows it.
    """
    [width] = {
        leaf.shape[-1]
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if is_output(path)
    }
    return width


def is_output(path: Any) -> bool:
    """Whether a parameter's path in its tree ends in the layer named exactly "output".

    A layer named "output_features" does not count.
    """
    return len(path) > 1 and getattr(path[-2], "key", None) == "output"


def ensemble(module: type[nn.Module], size: int) -> type[nn.Module]:
    """The module with `size` members as one parameter tree.

    Members share their inputs; each parameter and each output gains a leading axis of `size`,
    so that one batched matrix product serves all members.
    """
    return nn.vmap(
        module,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=None,  # pyright: ignore[reportArgumentType]
        out_axes=0,
        axis_size=size,
    )


def concatenate_inputs(observations: jax.Array, actions: jax.Array) -> jax.Array:
    """(B, O) and (B, A), or (B, O) and (B, M, A), to critic inputs (B, [M,] O + A)."""
    if actions.ndim == observations.ndim + 1:
        shape = (*actions.shape[:-1], observations.shape[-1])
        observations = jnp.broadcast_to(observations[:, None, :], shape)
    return jnp.concatenate([observations, actions], axis=-1)
