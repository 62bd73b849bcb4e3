"""Control flow that keeps its promise under `vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def cond_if_any(
    predicate: jax.Array, true_fn: Callable[..., Any], false_fn: Callable[..., Any], *operands: Any
) -> Any:
    """`jax.lax.cond` that skips `true_fn` under `vmap` if no predicate of the batch is true.

    `vmap` turns a `cond` into a select that pays for both branches in every row. Here the batch
    pays for `true_fn` only when one of its rows needs it: policies that plan at every eighth step,
    in episodes that run in parallel, cost an eighth to evaluate.

    Args:
      predicate: () bool.
      true_fn: the expensive branch; depends on `operands` only, or on values that are not mapped.
      false_fn: the cheap branch, with results of the same shapes.
      *operands: arguments of both.
    """

    @jax.custom_batching.custom_vmap
    def choose(predicate: jax.Array, operands: Any) -> Any:
        return jax.lax.cond(
            predicate, lambda args: true_fn(*args), lambda args: false_fn(*args), operands
        )

    @choose.def_vmap
    def batched(axis_size: int, in_batched: Any, predicates: jax.Array, operands: Any) -> Any:
        # One axis per leaf: a tree of axes would be a Config with axes as its hyper-parameters.
        structure = jax.tree.structure(operands)
        axes = [0 if is_mapped else None for is_mapped in jax.tree.leaves(in_batched[1])]
        if not in_batched[0]:
            predicates = jnp.broadcast_to(predicates, (axis_size,))

        def rows(function: Callable[..., Any]) -> Callable[..., Any]:
            apply = lambda *leaves: function(*jax.tree.unflatten(structure, leaves))  # noqa: E731
            mapped = jax.vmap(apply, in_axes=axes, axis_size=axis_size)
            return lambda operands: mapped(*jax.tree.leaves(operands))

        def some(predicates: jax.Array, operands: Any) -> Any:
            return jax.tree.map(
                lambda new, old: jax.vmap(jnp.where)(predicates, new, old),
                rows(true_fn)(operands),
                rows(false_fn)(operands),
            )

        result = cond_if_any(
            jnp.any(predicates),
            some,
            lambda predicates, operands: rows(false_fn)(operands),
            predicates,
            operands,
        )
        return result, jax.tree.map(lambda _: True, result)

    return choose(predicate, operands)
