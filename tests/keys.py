"""Whether a program draws twice from one PRNG key: traced, not run, in a second or two.

JAX's own checker follows keys through splits, scans and branches: drawing from a key and
splitting it use it up. `fold_in` does not, so that numbers which are folded in twice are not seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax


def check(function: Callable[..., Any], *arguments: Any) -> None:
    """Traces a function of arrays and keys.

    Raises:
      jax.errors.KeyReuseError: a key is used twice inside, or an unused copy of a used one is.
    """
    # The checker does not look inside a custom_vmap, and takes every key that goes in for used.
    with without_custom_vmap(), jax.debug_key_reuse(True):
        jax.jit(lambda *arguments: function(*arguments)).trace(*arguments)


def without_custom_vmap() -> contextlib.AbstractContextManager[Any]:
    """Traces functions that `custom_vmap` would wrap as they are, inside the context."""
    return mock.patch("jax.custom_batching.custom_vmap", _Plain)


class _Plain:
    """A function as `custom_vmap` would wrap it, without the wrapping."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def def_vmap(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        return rule
