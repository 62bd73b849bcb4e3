"""Plain arrays, in `.npz` files and elsewhere, and what no dataset can be made of."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from damages.kinds import REFUSED, Damage


def plain(**changes: Any) -> dict[str, Any]:
    """Arrays of five transitions; a change to None leaves an array out."""
    rng = np.random.default_rng(1)
    arrays = {
        "observations": rng.normal(size=(5, 2)),
        "actions": rng.uniform(-0.9, 0.9, (5, 1)),
        "rewards": rng.normal(size=5),
        "terminals": np.array([0, 0, 1, 0, 0], bool),
        "timeouts": np.array([0, 0, 0, 0, 1], bool),
    } | changes
    return {name: array for name, array in arrays.items() if array is not None}


def write_plain(folder: Path) -> Path:
    """An `.npz` file of plain arrays."""
    np.savez(folder / "plain.npz", **plain())
    return folder / "plain.npz"


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def with_npy(
    declare: dict[str, Any], *, compress: bool = False, member: str = "rewards"
) -> Callable:
    """An archive in which one array's header says something else than its data are."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        arrays = arrays_of(path)
        kind = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", kind) as archive:
            for name, array in arrays.items():
                buffer = io.BytesIO()
                if name == member:
                    header = np.lib.format.header_data_from_array_1_0(array) | declare
                    np.lib.format.write_array_header_1_0(buffer, header)
                    buffer.write(array.tobytes())
                else:
                    np.lib.format.write_array(buffer, array)
                archive.writestr(f"{name}.npy", buffer.getvalue())

    return apply


def long_header(path: Path, rng: np.random.Generator) -> None:
    """A header that says that it is 4 GB long."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("action_low.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100)


def bomb(path: Path, rng: np.random.Generator) -> None:
    """64 MB of zeros that say they are 4 GB."""
    buffer = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (2**29,)}
    np.lib.format.write_array_header_1_0(buffer, header)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("action_low.npy", buffer.getvalue() + bytes(2**26))


def twice(path: Path, rng: np.random.Generator) -> None:
    """An archive with two arrays of one name."""
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("rewards.npy", archive.read("rewards.npy"))


def npz_damages() -> Iterator[Damage]:
    """Of the container, whatever is in it."""
    for shape in ((5 * 10**9,), (-1,), (4,), (0,), (2**62, 4), (1, 5, 1)):
        for compress in (False, True):
            what = f"rewards declared {shape}, {'deflated' if compress else 'stored'}"
            yield Damage(what, REFUSED, with_npy({"shape": shape}, compress=compress))
    for descr in ("|O", "<c8", "<U2", "<M8[s]", "|V8", "<f2", [("a", "<f4"), ("b", "<f4")]):
        yield Damage(f"rewards declared {descr}", REFUSED, with_npy({"descr": descr}))
    yield Damage("an array twice", REFUSED, twice)


def plain_npz_damages() -> Iterator[Damage]:
    """Of an `.npz` file of plain arrays."""
    yield from npz_damages()
    yield Damage("a header of 4 GB", REFUSED, long_header)
    yield Damage("a zip bomb", REFUSED, bomb)
    for what, changes in plain_changes().items():
        yield Damage(what, REFUSED, _rewrite_npz(changes))


def _rewrite_npz(changes: dict[str, Any]) -> Callable:
    def apply(path: Path, rng: np.random.Generator) -> None:
        np.savez(path, **plain(**changes))

    return apply


def plain_changes() -> dict[str, dict[str, Any]]:
    """Arrays that no dataset can be made of, whatever the file is."""
    return {
        "complex observations": {"observations": np.ones((5, 2)) * 1j},
        "complex bounds": {"action_low": np.array(-1 + 1j), "action_high": np.array(1 + 1j)},
        "complex flags": {"terminals": np.array([0, 0, 1, 0, 1j])},
        "text": {"rewards": np.array(list("abcde"))},
        "actions above 2^31": {"actions": np.array([0, 1, 2**31, 1, 0])},
        "actions above 2^31 as floats": {
            "actions": np.array([0, 1, 2.0**31 + 2, 1, 0])[:, None], "num_actions": 2**32,
        },
        "2^33 actions": {"actions": np.array([0, 1, 2, 1, 0]), "num_actions": 2**33},
        "unsigned actions": {"actions": np.array([0, 1, 2**63, 1, 0], np.uint64), "num_actions": 9},
        "low above high": {"action_low": np.array([1.0]), "action_high": np.array([-1.0])},
        "low equal to high": {"action_low": np.array([1.0]), "action_high": np.array([1.0])},
        "NaN bounds": {"action_low": np.array([np.nan]), "action_high": np.array([1.0])},
        "equal references": {"reference_scores": np.array([3.0, 3.0])},
        "NaN references": {"reference_scores": np.array([np.nan, 3.0])},
        "infinite references": {"reference_scores": np.array([0.0, np.inf])},
        "complex references": {"reference_scores": np.array([0, 3j])},
        "no rows": {name: array[:0] for name, array in plain().items()},
        "a row less": {"rewards": np.zeros(4)},
        "NaN": {"observations": np.full((5, 2), np.nan)},
        "infinite states": {"observations": np.zeros((5, 1)), "num_states": np.inf},
        "10^12 states": {"observations": np.zeros((5, 1)), "num_states": 10**12},
        "one number": {"observations": np.array(1.0)},
        "an environment that is a number": {"environment_id": np.array(3)},
    }  # fmt: skip
