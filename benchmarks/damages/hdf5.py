"""HDF5 files, of D4RL and robomimic: links, storage, shapes and types."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from damages.kinds import REFUSED, Damage
from damages.plain import plain, plain_changes


def write_d4rl(folder: Path) -> Path:
    """A file with D4RL's fields."""
    with h5py.File(folder / "log.hdf5", "w") as file:
        for name, array in plain().items():
            file[name] = array
    return folder / "log.hdf5"


def write_robomimic(folder: Path) -> Path:
    """A file with the groups of robomimic."""
    with h5py.File(folder / "demo.hdf5", "w") as file:
        group = file.create_group("data/demo_0")
        group["actions"], group["obs/object"] = np.zeros((3, 1)), np.zeros((3, 2))
    return folder / "demo.hdf5"


def edit_hdf5(change: Callable[[Any, Path], None], target: str = "rewards") -> Callable:
    """A change to an HDF5 file, from which `target` is taken out before."""

    def apply(path: Path, rng: np.random.Generator) -> None:
        with h5py.File(path, "r+") as file:
            if target in file:
                del file[target]
            change(file, path)

    return apply


def _other_file(path: Path) -> Path:
    other = path.with_name("secret.h5")
    with h5py.File(other, "w") as file:
        file["rewards"] = np.arange(5.0)
        file["group/rewards"] = np.arange(5.0)
    path.with_name("secret.raw").write_bytes(bytes(40))
    return other


def hdf5_damages(target: str, shape: tuple[int, ...]) -> Iterator[Damage]:
    """Of one dataset of a file, whatever else is in it."""

    def external(file: Any, path: Path) -> None:
        file[target] = h5py.ExternalLink(str(_other_file(path)), "rewards")

    def through_a_link(file: Any, path: Path) -> None:
        file["infos/elsewhere"] = h5py.ExternalLink(str(_other_file(path)), "group")
        file[target] = h5py.SoftLink("/infos/elsewhere/rewards")

    def storage(file: Any, path: Path) -> None:
        _other_file(path)
        raw = str(path.with_name("secret.raw"))
        file.create_dataset(target, shape, "f8", external=[(raw, 0, h5py.h5f.UNLIMITED)])

    def virtual(file: Any, path: Path) -> None:
        layout = h5py.VirtualLayout(shape, "f8")
        layout[...] = h5py.VirtualSource(str(_other_file(path)), "rewards", shape=(5,))[: shape[0]]
        file.create_virtual_dataset(target, layout)

    def loop(file: Any, path: Path) -> None:
        file[target] = h5py.SoftLink("/infos/round")
        file["infos/round"] = h5py.SoftLink("/" + target)

    def put(value: Any, **options: Any) -> Callable[[Any, Path], None]:
        return lambda file, path: file.create_dataset(target, data=value, **options) and None

    pair = np.zeros(shape, [("a", "f4"), ("b", "f4")])
    for what, change in {
        "external link": external,
        "link to an external group": through_a_link,
        "external storage": storage,
        "virtual dataset": virtual,
        "links in a circle": loop,
        "link to itself": lambda file, _: file.__setitem__(target, h5py.SoftLink("/" + target)),
        "dangling link": lambda file, _: file.__setitem__(target, h5py.SoftLink("/nothing")),
        "a group": lambda file, _: file.create_group(target),
        "a type": lambda file, _: file.__setitem__(target, np.dtype("f8")),
        "empty": lambda file, _: file.__setitem__(target, h5py.Empty("f8")),
        "one number": put(1.0),
        "5e9 numbers": lambda file, _: file.create_dataset(target, (5 * 10**9,), "f8"),
        "5e9 numbers, deflated": lambda file, _: file.create_dataset(
            target, (5 * 10**9,), "f8", chunks=(10**6,), compression="gzip"
        ),
        "complex": put(np.ones(shape) * 1j),
        "pairs": put(pair),
        "texts": put(np.full(shape, "a", object), dtype=h5py.string_dtype()),
        "NaN": put(np.full(shape, np.nan)),
        "no rows": put(np.zeros((0, *shape[1:]))),
        "other rows": put(np.zeros((shape[0] + 1, *shape[1:]))),
    }.items():
        yield Damage(f"{target}: {what}", REFUSED, edit_hdf5(change, target))


def d4rl_damages() -> Iterator[Damage]:
    """Of a D4RL file."""
    yield from hdf5_damages("rewards", (5,))
    for what, changes in plain_changes().items():
        yield Damage(what, REFUSED, _rewrite_hdf5(changes))
    inside = lambda file, _: file.__setitem__("observations/self", file["observations"])  # noqa: E731
    yield Damage(
        "a group in itself",
        REFUSED,
        edit_hdf5(lambda f, p: (f.create_group("observations"), inside(f, p))[1], "observations"),
    )


def _rewrite_hdf5(changes: dict[str, Any]) -> Callable:
    def apply(path: Path, rng: np.random.Generator) -> None:
        with h5py.File(path, "w") as file:
            for name, array in plain(**changes).items():
                text = np.asarray(array).dtype.kind == "U"
                file[name] = [str(x) for x in array] if text else array

    return apply
