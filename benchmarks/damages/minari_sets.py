"""Minari datasets: the HDF5 file and the metadata beside it."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from damages.hdf5 import hdf5_damages
from damages.kinds import ANY, REFUSED, WEIRD, Damage
from damages.saved import put
from ddm import data

EPISODES = (3, 1, 2)  # steps of each


def episodes() -> list[dict[str, Any]]:
    """The first is terminated, the others are cut."""
    rng = np.random.default_rng(2)
    return [
        {
            "observations": rng.normal(size=(steps + 1, 2)).astype(np.float32),
            "actions": rng.uniform(-1.9, 1.9, (steps, 1)).astype(np.float32),
            "rewards": rng.normal(size=steps),
            "terminations": np.arange(steps) == 2,
            "truncations": (np.arange(steps) == steps - 1) & (steps < 3),
        }
        for steps in EPISODES
    ]


def write_minari(folder: Path) -> Path:
    """A Minari dataset of three episodes."""
    with _datasets_in(folder):
        bounds = ([-2.0], [2.0])
        options = {"action_space": bounds, "environment_id": "E-v0"}
        return data.write_minari("test/tiny-v0", episodes(), **options)


def write_columnar(data_format: str) -> Callable[[Path], Path]:
    """The same, as "arrow" or "parquet", by minari itself."""

    def write(folder: Path) -> Path:
        import gymnasium
        import minari
        from minari.data_collector import EpisodeBuffer

        with _datasets_in(folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            minari.create_dataset_from_buffers(
                "test/tiny-v0",
                [EpisodeBuffer(**episode) for episode in episodes()],
                observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (2,)),
                action_space=gymnasium.spaces.Box(-2, 2, (1,)),
                data_format=data_format,
            )
        return folder / "test" / "tiny-v0"

    return write


@contextlib.contextmanager
def _datasets_in(folder: Path) -> Iterator[None]:
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    try:
        yield
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
        if before is not None:
            os.environ["MINARI_DATASETS_PATH"] = before


def columnar_file(folder: Path) -> Path:
    """The largest file of the first episode, which has its arrays."""
    return max((folder / "data" / "0").rglob("*.*"), key=lambda path: path.stat().st_size)


def main_file(folder: Path) -> Path:
    """Its HDF5 file."""
    return folder / "data" / "main_data.hdf5"


def metadata_file(folder: Path) -> Path:
    """Its metadata."""
    return folder / "data" / "metadata.json"


def edit_metadata(change: Callable[[dict[str, Any]], Any]) -> Callable:
    """A change to the metadata."""

    def apply(folder: Path, rng: np.random.Generator) -> None:
        record = json.loads(metadata_file(folder).read_text())
        changed = change(record)
        metadata_file(folder).write_text(json.dumps(record if changed is None else changed))

    return apply


def edit_space(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable:
    """A change to a space in the metadata."""

    def apply(record: dict[str, Any]) -> None:
        tree = json.loads(record[name])
        changed = change(tree)
        record[name] = json.dumps(tree if changed is None else changed)

    return edit_metadata(apply)


def minari_damages() -> Iterator[Damage]:
    """Of a Minari dataset."""
    for damage in hdf5_damages("episode_0/rewards", (3,)):
        yield damage._replace(
            apply=lambda folder, rng, act=damage.apply: act(main_file(folder), rng)
        )
    for field in ("total_episodes", "total_steps", "observation_space", "action_space"):
        for value in WEIRD:
            yield Damage(f"{field} = {value!r}", REFUSED, edit_metadata(put(field, value=value)))
        drop = edit_metadata(lambda record, field=field: record.pop(field) and None)
        yield Damage(f"{field} left out", ANY if "space" in field else REFUSED, drop)
    for field in ("env_spec", "dataset_id", "data_format", "ref_min_score", "has_rewards"):
        for value in ([1], {"a": 1}, float("nan")):
            yield Damage(f"{field} = {value!r}", REFUSED, edit_metadata(put(field, value=value)))
    for field, values in {"total_steps": (5, 7, 10**15), "total_episodes": (2, 4, 10**15)}.items():
        for value in values:
            yield Damage(f"{field} = {value}", REFUSED, edit_metadata(put(field, value=value)))
    for value in (1.0, 3.0):
        scores = {"ref_min_score": value, "ref_max_score": value}
        yield Damage(
            f"scores both {value}", REFUSED, edit_metadata(lambda r, s=scores: r.update(s))
        )
    for key, values in {
        "low": (
            [float("inf"), float("nan")],
            [float("nan")],
            "text",
            [[1.0], 2],
            {},
            [0.0, 0.0, 0.0],
        ),
        "high": ([float("-inf"), float("nan")], None, [1j.imag, 2.0, 3.0]),
        "shape": ([-1], [10**12], [2.5], 7, "text", [0], [True, 1, 1, 5]),
        "dtype": ("object", "complex64", "nonsense", 7, None, "V8,V8"),
        "type": ("Graph", 7, None, "Dict", "Discrete", "MultiDiscrete", "MultiBinary", "Tuple"),
    }.items():
        for value in values:
            for name in ("observation_space", "action_space"):
                yield Damage(
                    f"{name} {key} = {value!r}", REFUSED, edit_space(name, put(key, value=value))
                )
    nested: Any = {"type": "Discrete", "n": 2}
    for _ in range(200):
        nested = {"type": "Dict", "subspaces": {"a": nested}}
    yield Damage("nested space", REFUSED, edit_space("observation_space", lambda _: nested))
    for value in (2**31, 2**40, 10**400, 0, -1):
        tree = {"type": "Discrete", "n": value, "start": 0}
        yield Damage(f"{value} actions", REFUSED, edit_space("action_space", lambda _, t=tree: t))
    for value in ([], 1, "text", None, [{}]):
        yield Damage(f"metadata = {value!r}", REFUSED, edit_metadata(lambda _, v=value: v or [v]))
