"""The algorithms of the library, found by walking its packages: none is listed anywhere."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import ddm

# Packages without algorithms. All others are families, and each module of a family that has an
# `update` is an algorithm; what the algorithms of a family share lies in its package `parts`.
_HOUSE = ("data", "envs", "evaluation", "networks", "ops", "runner")


def algorithms() -> dict[str, Any]:
    """All algorithms by their names, such as "iql", sorted by family.

    Raises:
      ImportError: a module of a family is broken.
      ValueError: two algorithms have one name.
    """
    found: dict[str, Any] = {}
    for family in pkgutil.iter_modules(ddm.__path__):
        if not family.ispkg or family.name in _HOUSE:
            continue
        package = importlib.import_module(f"ddm.{family.name}")
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            if not hasattr(module, "update"):
                continue
            if info.name in found:
                raise ValueError(f"{module.__name__} and {found[info.name].__name__}: one name")
            found[info.name] = module
    return found
