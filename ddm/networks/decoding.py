"""Sequences of tokens from an autoregressive policy: drawn, likeliest, and from fewer bins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ddm.ops.control import cond_if_any

Apply = Callable[..., Any]  # (*inputs, method=...): a policy at its parameters


def draw_tokens(
    policy: Apply,
    frames: jax.Array,
    num_tokens: int,
    key: jax.Array,
    choose: Callable[[jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Tokens (..., D) int32 for frames (..., T, *O), one after the other.

    Args:
      policy: an `AutoregressivePolicy` at its parameters.
      frames: what the tokens are conditioned on.
      num_tokens: D.
      key: split once for each token.
      choose: (logits (..., K), key) -> token (...,): a draw, or the most likely one.
    """

    def step(state: Any, inputs: Any) -> Any:
        (carry, token), (index, key) = state, inputs
        logits, carry = policy(carry, token, index, method="step")
        token = choose(logits, key).astype(jnp.int32)
        return (carry, token), token

    places = jnp.arange(num_tokens, dtype=jnp.int32), jax.random.split(key, num_tokens)
    _, tokens = jax.lax.scan(step, policy(frames, method="start"), places)
    return jnp.moveaxis(tokens, 0, -1)


def beam_search(
    policy: Apply, frames: jax.Array, num_tokens: int, width: int
) -> tuple[jax.Array, jax.Array]:
    """The most likely sequences for frames (T, *O) that a beam of W finds.

    Taking the most likely token at each place, which is a beam of 1, may miss the most likely
    sequence; a beam of K^(D-1) does not. `policy` is as in :func:`draw_tokens`.

    Returns:
      Tokens (W, D) and their log-probabilities (W,), the best first.
    """
    carry, token = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (width, *leaf.shape)), policy(frames, method="start")
    )

    def step(state: Any, index: jax.Array) -> Any:
        carry, token, tokens, scores = state
        logits, carry = policy(carry, token, index, method="step")
        totals = scores[:, None] + jax.nn.log_softmax(logits)
        scores, best = jax.lax.top_k(totals.reshape(-1), width)
        parents, token = jnp.divmod(best, logits.shape[-1])
        carry, tokens = jax.tree.map(lambda leaf: leaf[parents], (carry, tokens))
        return (carry, token, tokens.at[:, index].set(token), scores), None

    first = jnp.arange(width) == 0
    alone = jnp.where(first, jnp.float32(0.0), -jnp.inf)  # all beams start alike: one counts
    state = (carry, token, jnp.zeros((width, num_tokens), jnp.int32), alone)
    (_, _, tokens, scores), _ = jax.lax.scan(step, state, jnp.arange(num_tokens, dtype=jnp.int32))
    return tokens, scores


def nucleus(logits: jax.Array, top_p: jax.Array | float) -> jax.Array:
    """Logits (..., K) of the likeliest bins, which together have `top_p`; -inf elsewhere.

    Top-p sampling (Holtzman et al. 2020): removes the many bins that are unlikely one by one. 1
    keeps all bins and skips the sorting; 0 keeps the likeliest bin.
    """
    return cond_if_any(
        jnp.asarray(top_p) < 1.0, _likeliest, lambda logits, _: logits, logits, top_p
    )


def _likeliest(logits: jax.Array, top_p: jax.Array | float) -> jax.Array:
    falling = jnp.sort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(falling)
    likelier = jnp.cumsum(probabilities, axis=-1) - probabilities
    last = jnp.min(jnp.where(likelier < top_p, falling, falling[..., :1]), axis=-1, keepdims=True)
    return jnp.where(logits >= last, logits, -jnp.inf)
