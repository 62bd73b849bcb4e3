"""HDF5 files from outside: members are found link by link, and sizes are known before reading.

An HDF5 file may say that a part of it lies in another file: by an external link, by external
storage, or as a virtual dataset. Followed, such a part would read any file of this machine that
its user may read; they are refused unless they are asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddm.data.memory import check_held
from ddm.data.reading import Place, reading
from ddm.errors import InputError

if TYPE_CHECKING:
    import h5py

LONGEST_CHAIN = 16  # soft links one after the other: more of them are a loop
DEEPEST = 16  # groups inside each other, of a dict observation
ASK = "load with external_links if you trust it"


@contextlib.contextmanager
def open_hdf5(path: Path, kind: str, external_links: bool) -> Iterator[Members]:
    """The members of a file.

    Args:
      path: the file.
      kind: what it was expected to be, for error messages.
      external_links: whether members may lie in other files.

    Raises:
      InputError: in place of any error of HDF5's.
    """
    import h5py

    # The default cache of 521 chunks per dataset costs more to set up than an episode to read.
    with reading(path, kind) as place, h5py.File(path, "r", rdcc_nslots=1) as file:
        yield Members(file, path, place, external_links)


def check_links(path: Path, external_links: bool) -> None:
    """Refuses a file with a part in another one, which a library that opens it would follow.

    Raises:
      InputError: names the member; or the file cannot be read.
    """
    with open_hdf5(path, "HDF5 file", external_links) as members:
        for name in members.names():
            members.size(name)


class Members:
    """Groups and datasets of an open file, through h5py's low-level calls.

    With five or more datasets in an episode, opening is what a read takes: about a tenth of a
    millisecond each this way, and twice that through `file[name][()]`.
    """

    def __init__(self, file: h5py.File, path: Path, place: Place, external_links: bool):
        from h5py import h5d, h5g, h5l, h5o, h5s, h5t  # pyright: ignore

        self.path = path
        self._place = place
        self._external_links = external_links
        self._root = file.id
        self._length = path.stat().st_size
        self._h5 = {"d": h5d, "g": h5g, "l": h5l, "o": h5o, "s": h5s, "t": h5t}
        self._groups: dict[str, Any] = {}
        self._last: tuple[str, Any] = ("", None)

    # --- Finding ---

    def names(self, group: str = "") -> list[str]:
        """What a group holds, by name; the file itself is the group without a name."""
        found = self._object(group)
        return [name.decode() for name in found]

    def has(self, name: str) -> bool:
        """Whether there is such a member, which need not be readable."""
        group, _, last = name.rpartition("/")
        return last in self.names(group)

    def is_group(self, name: str) -> bool:
        """Whether a member holds others.

        Raises:
          InputError: there is none, or it lies in another file.
        """
        return isinstance(self._object(name), self._h5["g"].GroupID)

    def _object(self, name: str) -> Any:
        """An open group or dataset; groups stay open until another one of their depth is used."""
        if name == "":
            return self._h5["g"].open(self._root, b"/")
        if name in self._groups:
            return self._groups[name]
        self._place.member = name
        found = self._follow(name, 0)
        if isinstance(found, self._h5["g"].GroupID):
            depth = name.count("/")
            self._groups = {n: g for n, g in self._groups.items() if n.count("/") < depth}
            self._groups[name] = found
        return found

    def _follow(self, name: str, links: int) -> Any:
        group, _, last = name.rpartition("/")
        parent = self._object(group) if links == 0 else self._follow_group(group, links)
        if not isinstance(parent, self._h5["g"].GroupID):
            raise InputError(f"{self.path}: {group} is no group, expected {last} in it")
        key = last.encode()
        try:
            kind = parent.links.get_info(key).type
        except (KeyError, RuntimeError):
            raise InputError(f"{self.path}: {name} is missing") from None
        layer = self._h5["l"]
        if kind == layer.TYPE_HARD:
            return self._h5["o"].open(parent, key)
        if kind == layer.TYPE_SOFT:
            if links >= LONGEST_CHAIN:
                raise InputError(f"{self.path}: {name} is a link that leads back to itself")
            target = parent.links.get_val(key).decode()
            absolute = target if target.startswith("/") else f"{group}/{target}"
            try:
                return self._follow(_normal(absolute), links + 1)
            except InputError as error:
                if "is missing" in str(error):
                    raise InputError(
                        f"{self.path}: {name} is a link to {target}, which is missing"
                    ) from None
                raise
        if not self._external_links:
            raise InputError(
                f"{self.path}: {name} is a link to another file, which is not followed; {ASK}"
            )
        return self._h5["o"].open(parent, key)

    def _follow_group(self, name: str, links: int) -> Any:
        return self._h5["g"].open(self._root, b"/") if name == "" else self._follow(name, links)

    # --- Datasets ---

    def dataset(self, name: str) -> Any:
        """An open dataset, whose content lies in this file.

        Raises:
          InputError: there is none of this name, or its content lies elsewhere.
        """
        if name == self._last[0]:
            return self._last[1]
        found = self._object(name)
        if not isinstance(found, self._h5["d"].DatasetID):
            raise InputError(f"{self.path}: {name} is no dataset, expected an array")
        plist = found.get_create_plist()
        layer = self._h5["d"]
        outside = plist.get_layout() == layer.VIRTUAL or (
            plist.get_layout() == layer.CONTIGUOUS and plist.get_external_count() > 0
        )
        if outside and not self._external_links:
            raise InputError(
                f"{self.path}: {name} has its content in another file, which is not read; {ASK}"
            )
        if not outside and plist.get_nfilters() == 0:
            # Without compression the file cannot hold less than what the shape says.
            check_held(_size(found), self._length, f"{self.path}: {name}")
        self._last = (name, found)
        return found

    def size(self, name: str, depth: int = 0) -> int:
        """Bytes of a dataset, or of all in a group, as they will be in memory."""
        if depth > DEEPEST:
            raise InputError(
                f"{self.path}: {name} has more than {DEEPEST} groups inside each other"
            )
        if self.is_group(name):
            return sum(self.size(f"{name}/{key}", depth + 1) for key in self.names(name))
        return _size(self.dataset(name))

    def read(self, name: str) -> Any:
        """An array, or the arrays of a group by name: a dict observation."""
        if self.is_group(name):
            return {key: self.read(f"{name}/{key}") for key in self.names(name)}
        import h5py

        self._place.member = name
        array = h5py.Dataset(self.dataset(name))[()]
        if isinstance(array, h5py.Empty):
            raise InputError(f"{self.path}: {name} is empty")
        return array

    def read_into(self, name: str, out: np.ndarray) -> None:
        """Reads a dataset into `out`, converted to its dtype where no number changes by that.

        Raises:
          InputError: another shape, or a dtype whose numbers would be cut.
        """
        dataset = self.dataset(name)
        self._place.member = name
        shape = dataset.shape
        if shape != out.shape and shape != (*out.shape, 1):
            raise InputError(f"{self.path}: {name} has shape {shape}, expected {out.shape}")
        stored = dataset.dtype
        if not _converts(stored, out.dtype):
            raise InputError(f"{self.path}: {name} has dtype {stored}, expected {out.dtype}")
        layer = self._h5
        if stored.kind == "f" and out.dtype.kind == "i":
            numbers = np.empty(out.shape, np.float64)
            dataset.read(layer["s"].ALL, layer["s"].ALL, numbers, self._type(numbers.dtype))
            if not np.array_equal(numbers, np.rint(numbers)) or np.any(np.abs(numbers) > 2**53):
                raise InputError(f"{self.path}: {name} has dtype {stored}, expected whole numbers")
            out[...] = numbers
            return
        dataset.read(layer["s"].ALL, layer["s"].ALL, out, self._type(out.dtype))
        if out.dtype == bool and out.size and out.view(np.uint8).max() > 1:
            raise InputError(f"{self.path}: {name} has flags other than 0 and 1")

    def _type(self, dtype: np.dtype) -> Any:
        found = self._h5.setdefault("types", {})
        if dtype not in found:
            found[dtype] = self._h5["t"].py_create(dtype)
        return found[dtype]


def _size(dataset: Any) -> int:
    size = 1
    for length in dataset.shape or ():
        size *= length
    return size * dataset.dtype.itemsize


def _normal(name: str) -> str:
    """A path without empty parts and dots."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _converts(stored: np.dtype, wanted: np.dtype) -> bool:
    """Whether every number of a stored dtype keeps its value, or its digits as far as they go."""
    if stored.kind not in "biuf":
        return False
    if wanted.kind == "i":
        return True  # floats are looked at; integers beyond 64 bits end outside every space
    if wanted.kind == "u":
        return np.can_cast(stored, wanted, "safe")
    return np.can_cast(stored, wanted, "same_kind")
