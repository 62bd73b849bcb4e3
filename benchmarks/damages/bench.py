"""All formats, and what becomes of a damaged file of one."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from damages.hdf5 import d4rl_damages, write_d4rl, write_robomimic
from damages.kinds import ANY, CHANCE, REFUSED, SAME, Damage
from damages.minari_sets import (
    columnar_file,
    main_file,
    metadata_file,
    minari_damages,
    write_columnar,
    write_minari,
)
from damages.plain import npz_damages, plain_npz_damages, write_plain
from damages.saved import saved_damages, write_saved
from damages.tables import csv_damages, path_damages, write_csv
from ddm import data
from ddm.errors import InputError, MissingDependencyError


class Format(NamedTuple):
    """A format, with a whole file of it and what may happen to it."""

    name: str
    write: Callable[[Path], Path]  # into a folder -> what to load
    damages: tuple[Damage, ...]  # each once
    file: Callable[[Path], Path] = lambda path: path  # whose bytes are damaged by chance
    checked: bool = False  # whether the format has checksums


class Outcome(NamedTuple):
    """What became of a damaged file."""

    format: str
    what: str
    verdict: str  # "good", "traceback", "loaded"
    detail: str


def formats() -> tuple[Format, ...]:
    """All formats that this machine can write."""
    paths = tuple(path_damages())
    known = (
        Format("saved npz", write_saved, (*saved_damages(), *npz_damages(), *paths), checked=True),
        Format("plain npz", write_plain, (*plain_npz_damages(), *paths), checked=True),
        Format("D4RL", write_d4rl, (*d4rl_damages(), *paths)),
        Format("robomimic", write_robomimic, paths),
        Format("Minari", write_minari, (*minari_damages(), *paths), main_file),
        Format("Minari metadata", write_minari, (), metadata_file),
        Format("CSV", write_csv, (*csv_damages(), *paths)),
    )
    if importlib.util.find_spec("pyarrow") is None:
        return known
    columnar = tuple(
        Format(f"Minari {kind}", write_columnar(kind), (), columnar_file)
        for kind in ("arrow", "parquet")
    )
    return known + columnar


def same(first: data.Dataset, second: data.Dataset) -> bool:
    """Whether an algorithm would see the same."""
    a, b = jax.tree.leaves(first), jax.tree.leaves(second)
    if len(a) != len(b) or first.info.action_space != second.info.action_space:
        return False
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


class Bench:
    """Whole files of one format, and loads of damaged copies."""

    def __init__(self, form: Format, folder: Path):
        self._form = form
        self._folder = folder
        self._whole = folder / "whole"
        self._whole.mkdir(parents=True)
        self._path = form.write(self._whole).relative_to(self._whole)
        try:
            self._content = data.load(self._whole / self._path)
        except InputError:
            self._content = None  # robomimic, which is refused with a sentence

    def chance(self, kind: str, rng: np.random.Generator) -> Outcome:
        """What becomes of a file that is damaged by chance."""
        expected = SAME if self._form.checked else ANY
        act = CHANCE[kind]
        damage = Damage(kind, expected, lambda path, rng: act(self._form.file(path), rng))
        return self.try_out(damage, rng)

    def try_out(self, damage: Damage, rng: np.random.Generator) -> Outcome:
        """What becomes of a damaged copy."""
        copy = self._folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._whole, copy)
        path = copy / self._path
        path = damage.apply(path, rng) or path
        outcome = Outcome(self._form.name, damage.what, "good", "")
        try:
            loaded = data.load(path)
        except InputError as error:
            # A set may be called by its id, too.
            named = any(name in str(error) for name in (path.name[:40], self._path.name, "tiny-v0"))
            if not named or "allow_pickle" in str(error):
                return outcome._replace(verdict="traceback", detail=f"not named: {error}")
            return outcome._replace(detail=str(error))
        except MissingDependencyError as error:
            return outcome._replace(detail=str(error))
        except Exception as error:
            return outcome._replace(verdict="traceback", detail=f"{type(error).__name__}: {error}")
        if damage.expected == REFUSED or (
            damage.expected == SAME and (self._content is None or not same(loaded, self._content))
        ):
            return outcome._replace(verdict="loaded", detail="loaded although it is damaged")
        return outcome
