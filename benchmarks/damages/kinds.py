"""What a damage is, and those that happen by chance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

REFUSED, SAME, ANY = "refused", "refused or the same", "refused or anything"

WEIRD: tuple[Any, ...] = (
    None, True, -1, 2, 1.5, float("nan"), float("inf"), 2**70, "text", "", [], [1], [1, "a"], {},
    {"type": "Box"}, {"type": []}, [[[[]]]],
)  # fmt: skip


class Damage(NamedTuple):
    """One way to damage a file."""

    what: str
    expected: str
    apply: Callable[[Path, np.random.Generator], Path | None]  # -> what to load, if not the file


def cut(path: Path, rng: np.random.Generator) -> None:
    """The first part of a file: a copy that was interrupted, a full disk."""
    content = path.read_bytes()
    path.write_bytes(content[: rng.integers(len(content))])


def flip(path: Path, rng: np.random.Generator) -> None:
    """Some bytes are others."""
    content = bytearray(path.read_bytes())
    for place in rng.integers(len(content), size=rng.integers(1, 9)):
        content[place] ^= int(rng.integers(1, 256))
    path.write_bytes(bytes(content))


def blank(path: Path, rng: np.random.Generator) -> None:
    """A block of zeros, as a crashed file system leaves it."""
    content = bytearray(path.read_bytes())
    start, length = rng.integers(len(content)), rng.integers(1, 513)
    content[start : start + length] = bytes(len(content[start : start + length]))
    path.write_bytes(bytes(content))


def shift(path: Path, rng: np.random.Generator) -> None:
    """Some bytes are missing, or there twice: a line end that was converted."""
    content = path.read_bytes()
    start, length = rng.integers(len(content)), rng.integers(1, 17)
    middle = content[start : start + length] * int(rng.choice([0, 2]))
    path.write_bytes(content[:start] + middle + content[start + length :])


CHANCE = {"cut": cut, "flip": flip, "blank": blank, "shift": shift}
