"""HDF5 files from others: members are found link by link, and sizes are checked before reading.

An HDF5 file may say that a part of it lies in another file: by an external link, by external
storage, or as a virtual dataset. By such a part a file could make us read any file that the user
may read. So these parts are refused unless they are allowed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ddm.data.memory import check_held
from ddm.data.reading import Place, reading
from ddm.errors import InputError

if TYPE_CHECKING:
    import h5py

LONGEST_CHAIN = 16  # soft links one after the other: more of them count as a loop
DEEPEST = 16  # groups inside each other, of a dict observation
ASK = "load with external_links if you trust it"


@contextlib.contextmanager
def open_hdf5(path: Path, kind: str, external_links: bool) -> Iterator[Members]:
    """The members of a file.

    Args:
      path: the file.
      kind: the expected kind of file, for error messages.
      external_links: whether members may lie in other files.

    Raises:
      InputError: in place of any error of HDF5's.
    """
    import h5py

    # The default cache of 521 chunks per dataset costs more to set up than an episode to read.
    with reading(path, kind) as place, h5py.File(path, "r", rdcc_nslots=1) as file:
        yield Members(file, path, place, external_links)


def check_links(path: Path, external_links: bool) -> None:
    """Refuses a file with a part in another file, which another library would read on opening it.

    Raises:
      InputError: names the member; or the file cannot be read.
    """
    with open_hdf5(path, "HDF5 file", external_links) as members:
        for name in members.names():
            members.size(name)


class Stored(NamedTuple):
    """An open dataset; each property is read once, because that costs as much as opening."""

    id: Any  # h5py's
    shape: tuple[int, ...]
    dtype: np.dtype


class Members:
    """Groups and datasets of an open file, through h5py's low-level calls.

    With five or more datasets per episode, most of the reading time is opening: about a tenth of a
    millisecond each this way, and twice that with `file[name][()]`.
    """

    def __init__(self, file: h5py.File, path: Path, place: Place, external_links: bool):
        from h5py import h5d, h5g, h5l, h5o, h5s, h5t  # pyright: ignore

        self.path = path
        self._place = place
        self._external_links = external_links
        self._length = path.stat().st_size
        self._h5d, self._h5g, self._h5l, self._h5o = h5d, h5g, h5l, h5o
        self._all, self._create_type = h5s.ALL, h5t.py_create
        self._types: dict[np.dtype, Any] = {}
        self._groups: dict[str, Any] = {"": h5g.open(file.id, b"/")}
        self._last: tuple[str, Any] = ("", None)

    # --- Finding ---

    def names(self, group: str = "") -> list[str]:
        """The members of a group by name; the file itself is the group without a name."""
        found = self._object(group)
        return [name.decode() for name in found]

    def has(self, name: str) -> bool:
        """Whether there is such a member; it may be unreadable."""
        group, _, last = name.rpartition("/")
        return last in self.names(group)

    def is_group(self, name: str) -> bool:
        """Whether a member holds others.

        Raises:
          InputError: there is none, or it lies in another file.
        """
        return isinstance(self._object(name), self._h5g.GroupID)

    def _object(self, name: str, kind: Any = None) -> Any:
        """An open group or dataset; groups stay open until another of the same depth is used.

        Args:
          name: from the root, without a slash at its beginning.
          kind: h5py's module for the expected kind of member; its calls are several times as fast.
        """
        if name in self._groups:
            return self._groups[name]
        self._place.member = name
        found = self._follow(name, 0, kind or self._h5o)
        if isinstance(found, self._h5g.GroupID):
            depth = name.count("/")
            kept = {n: group for n, group in self._groups.items() if n.count("/") < depth}
            self._groups = {"": self._groups[""], **kept, name: found}
        return found

    def _follow(self, name: str, links: int, kind: Any) -> Any:
        """Opens the target of a name, after so many soft links."""
        if name == "":
            return self._groups[""]
        group, _, last = name.rpartition("/")
        parent = self._parent(group, links)
        if not isinstance(parent, self._h5g.GroupID):
            raise InputError(f"{self.path}: {group} is no group, expected {last} in it")
        key = last.encode()
        try:
            link = parent.links.get_info(key).type
        except (KeyError, RuntimeError):
            raise InputError(f"{self.path}: {name} is missing") from None
        if link == self._h5l.TYPE_SOFT:
            return self._follow_soft(name, parent.links.get_val(key).decode(), links, kind)
        if link != self._h5l.TYPE_HARD and not self._external_links:
            raise InputError(
                f"{self.path}: {name} is a link to another file, which is not followed; {ASK}"
            )
        try:
            return kind.open(parent, key)
        except (TypeError, ValueError, KeyError):  # a group in place of a dataset, or the reverse
            return self._h5o.open(parent, key)

    def _parent(self, name: str, links: int) -> Any:
        if links == 0:
            return self._object(name, self._h5g)
        return self._follow(name, links, self._h5g)

    def _follow_soft(self, name: str, target: str, links: int, kind: Any) -> Any:
        if links >= LONGEST_CHAIN:
            raise InputError(f"{self.path}: {name} is a link that leads back to itself")
        group = name.rpartition("/")[0]
        absolute = target if target.startswith("/") else f"{group}/{target}"
        try:
            return self._follow(_normal(absolute), links + 1, kind)
        except InputError as error:
            if "is missing" not in str(error):
                raise
            raise InputError(
                f"{self.path}: {name} is a link to {target}, which is missing"
            ) from None

    # --- Datasets ---

    def dataset(self, name: str) -> Stored:
        """An open dataset, whose content lies in this file.

        Raises:
          InputError: there is no dataset of this name, or its content lies in another file.
        """
        if name == self._last[0]:
            return self._last[1]
        found = self._object(name, self._h5d)
        if not isinstance(found, self._h5d.DatasetID):
            raise InputError(f"{self.path}: {name} is no dataset, expected an array")
        space = found.get_space()
        if not self._external_links and not _lies_inside(found, space):
            raise InputError(
                f"{self.path}: {name} has its content in another file, which is not read; {ASK}"
            )
        stored = Stored(found, tuple(space.shape or ()), found.dtype)
        self._last = (name, stored)
        return stored

    def _declared(self, name: str) -> int:
        """Bytes of a dataset in memory; without compression a file cannot hold less."""
        stored = self.dataset(name)
        size = math.prod(stored.shape) * stored.dtype.itemsize
        plist = stored.id.get_create_plist()
        inside = plist.get_layout() in (self._h5d.CONTIGUOUS, self._h5d.CHUNKED)
        if inside and plist.get_nfilters() == 0 and _lies_inside(stored.id, stored.id.get_space()):
            check_held(size, self._length, f"{self.path}: {name}")
        return size

    def size(self, name: str, depth: int = 0) -> int:
        """Bytes in memory of a dataset, or of all datasets in a group."""
        if depth > DEEPEST:
            raise InputError(
                f"{self.path}: {name} has more than {DEEPEST} groups inside each other"
            )
        if self.is_group(name):
            return sum(self.size(f"{name}/{key}", depth + 1) for key in self.names(name))
        return self._declared(name)

    def read(self, name: str) -> Any:
        """An array, or the arrays of a group by name: a dict observation."""
        if self.is_group(name):
            return {key: self.read(f"{name}/{key}") for key in self.names(name)}
        import h5py

        self._place.member = name
        array = h5py.Dataset(self.dataset(name).id)[()]
        if isinstance(array, h5py.Empty):
            raise InputError(f"{self.path}: {name} is empty")
        return array

    def read_into(self, name: str, out: np.ndarray) -> None:
        """Reads a dataset into `out`, converted to its dtype if this changes no number.

        Raises:
          InputError: another shape, or a dtype whose numbers would change.
        """
        dataset, shape, stored = self.dataset(name)
        self._place.member = name
        if shape != out.shape and shape != (*out.shape, 1):
            raise InputError(f"{self.path}: {name} has shape {shape}, expected {out.shape}")
        if not _converts(stored, out.dtype):
            raise InputError(f"{self.path}: {name} has dtype {stored}, expected {out.dtype}")
        if stored.kind == "f" and out.dtype.kind == "i":
            numbers = np.empty(out.shape, np.float64)
            dataset.read(self._all, self._all, numbers, self._type(numbers.dtype))
            if not np.array_equal(numbers, np.rint(numbers)) or np.any(np.abs(numbers) > 2**53):
                raise InputError(f"{self.path}: {name} has dtype {stored}, expected whole numbers")
            out[...] = numbers
            return
        dataset.read(self._all, self._all, out, self._type(out.dtype))
        if out.dtype == bool and out.size and out.view(np.uint8).max() > 1:
            raise InputError(f"{self.path}: {name} has flags other than 0 and 1")

    def _type(self, dtype: np.dtype) -> Any:
        if dtype not in self._types:
            self._types[dtype] = self._create_type(dtype)
        return self._types[dtype]


def _lies_inside(dataset: Any, space: Any) -> bool:
    """Whether a dataset has its content in its own file."""
    if dataset.get_offset() is not None:
        return True  # in one piece
    try:
        dataset.get_num_chunks(space)
    except RuntimeError:  # not in chunks: external, virtual, or so small that it has no place
        from h5py import h5d  # pyright: ignore

        plist = dataset.get_create_plist()
        return plist.get_layout() != h5d.VIRTUAL and plist.get_external_count() == 0
    return True


def _normal(name: str) -> str:
    """A path without empty parts and dots."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _converts(stored: np.dtype, wanted: np.dtype) -> bool:
    """Whether every number of a stored dtype keeps its value, or as many digits as possible."""
    if stored.kind not in "biuf":
        return False
    if wanted.kind == "i":
        return True  # floats are checked later; integers beyond 64 bits are outside every space
    if wanted.kind == "u":
        return np.can_cast(stored, wanted, "safe")
    return np.can_cast(stored, wanted, "same_kind")
