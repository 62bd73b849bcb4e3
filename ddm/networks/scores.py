"""One number for each of K discrete actions: logits of a policy, or action values.

Observations are vectors (..., O), or the last N tokens of a text as numbers (..., N), oldest first:
1 .. num_tokens - 1, and 0 before the text begins. Tokens are embedded.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ddm.networks.history import Recurrent
from ddm.networks.mlp import MLP, Initializer, Network, fan_in_uniform


class ActionScores(Network):
    """A perceptron on the vector, or on the embeddings side by side (Bengio et al. 2003).

    Maps (..., O) to (..., K). With `num_tokens` 0 the observation is a vector, and the parameters
    are those of a `CategoricalPolicy`.
    """

    hidden_sizes: tuple[int, ...]
    num_actions: int
    num_tokens: int = 0
    embedding_size: int = 32
    dropout_rate: float = 0.0  # after each activation
    output_init: Initializer = fan_in_uniform  # of the last layer's kernel

    @nn.compact
    def __call__(self, observations: jax.Array, *, deterministic: bool = True) -> jax.Array:
        inputs = observations
        if self.num_tokens > 0:
            embedded = embed(self.num_tokens, self.embedding_size)(token_numbers(self, inputs))
            inputs = embedded.reshape(*embedded.shape[:-2], -1)
        mlp = MLP(
            self.hidden_sizes,
            self.num_actions,
            dropout_rate=self.dropout_rate,
            output_init=self.output_init,
            name="mlp",
        )
        return mlp(inputs, deterministic=deterministic)


class RecurrentActionScores(Network):
    """A GRU over the tokens, as wide as the first hidden layer; the other layers follow its output.

    Maps token numbers (..., N) to (..., K). Dropout follows the GRU, and each activation.
    """

    hidden_sizes: tuple[int, ...]
    num_actions: int
    num_tokens: int
    embedding_size: int = 32
    dropout_rate: float = 0.0
    output_init: Initializer = fan_in_uniform  # of the last layer's kernel

    @nn.compact
    def __call__(self, observations: jax.Array, *, deterministic: bool = True) -> jax.Array:
        tokens = token_numbers(self, observations)
        embedded = embed(self.num_tokens, self.embedding_size)(tokens)
        width, *others = self.hidden_sizes
        trunk = Recurrent(nn.GRUCell, width, name="trunk")
        features = trunk(embedded, tokens > 0)[..., -1, :]
        if self.dropout_rate > 0.0:
            features = nn.Dropout(self.dropout_rate, deterministic=deterministic)(features)
        mlp = MLP(
            tuple(others),
            self.num_actions,
            dropout_rate=self.dropout_rate,
            output_init=self.output_init,
            name="mlp",
        )
        return mlp(features, deterministic=deterministic)


def without_output(params: Any) -> Any:
    """Copies of the parameters of a network of this module, with those of its last layer 0."""
    copied = jax.tree.map(jnp.copy, params)
    mlp = copied["params"]["mlp"]
    mlp["output"] = jax.tree.map(jnp.zeros_like, mlp["output"])
    return copied


def embed(num_tokens: int, size: int) -> nn.Embed:
    """The table of embeddings, with unit variance, like other inputs of a perceptron."""
    return nn.Embed(num_tokens, size, embedding_init=nn.initializers.normal(1.0), name="embedding")


def token_numbers(
    network: ActionScores | RecurrentActionScores, observations: jax.Array
) -> jax.Array:
    """Observations as int32 token numbers; values out of range are clipped."""
    return jnp.clip(observations, 0, network.num_tokens - 1).astype(jnp.int32)
