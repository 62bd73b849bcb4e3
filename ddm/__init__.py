"""Data-driven decision making in JAX: policies learned from logged data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddm.catalogue import algorithms as algorithms
    from ddm.experience import Collector as Collector
    from ddm.experience import CollectSpec as CollectSpec
    from ddm.training import Learner as Learner
    from ddm.training import fit as fit
    from ddm.training import fit_online as fit_online
    from ddm.training import prepare as prepare

__version__ = "0.1.0"

# Imported at first use, so that `import ddm` stays light.
_PUBLIC = {
    "CollectSpec": "ddm.experience",
    "Collector": "ddm.experience",
    "Learner": "ddm.training",
    "algorithms": "ddm.catalogue",
    "fit": "ddm.training",
    "fit_online": "ddm.training",
    "prepare": "ddm.training",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'ddm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
