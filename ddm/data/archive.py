"""The arrays in an `.npz` file: all headers are read and checked before any array is read."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ddm.data.memory import check_declared, check_held
from ddm.data.reading import Place
from ddm.errors import InputError

KIND = ".npz of plain arrays"
LONGEST_HEADER = 10_000  # bytes; numpy's own limit, which numpy checks only after reading them all
_LENGTHS = {(1, 0): "<H", (2, 0): "<I"}  # how the versions of numpy's format write that length
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


class Member(NamedTuple):
    """One array of an archive, as its header declares it."""

    stored: str  # its name in the archive, "rewards.npy"
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int  # bytes before its data

    @property
    def nbytes(self) -> int:
        """Bytes of the array in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


class Archive:
    """An open `.npz` file."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, place: Place):
        self._archive = archive
        self._path = path
        self._place = place
        self._stored: dict[str, str] = {}
        for stored in archive.namelist():
            name = stored.removesuffix(".npy")
            if name in self._stored:
                raise InputError(f"{path}: array {name} is there twice")
            self._stored[name] = stored

    @property
    def names(self) -> tuple[str, ...]:
        """Of the arrays, in the archive's order."""
        return tuple(self._stored)

    def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """The arrays of these names; all sizes are checked before the first array is read.

        Raises:
          InputError: an array holds something else than plain numbers or text, or declares another
            size than the file has for it, or all together do not fit the host's memory.
        """
        members = {name: self._member(name) for name in names}
        check_declared(sum(member.nbytes for member in members.values()), str(self._path))
        return {name: self._array(name, member) for name, member in members.items()}

    def _member(self, name: str) -> Member:
        self._place.member = f"array {name}"
        stored = self._stored[name]
        where = f"{self._path}: array {name}"
        with self._archive.open(stored) as file:
            version = np.lib.format.read_magic(file)  # pyright: ignore[reportArgumentType]
            if version not in _READ_HEADER:
                raise InputError(
                    f"{where} has version {version} of numpy's format, expected 1 or 2"
                )
            _check_header_length(file, version, where)
        with self._archive.open(stored) as file:
            np.lib.format.read_magic(file)  # pyright: ignore[reportArgumentType]
            shape, fortran, dtype = _READ_HEADER[version](file)
            member = Member(stored, shape, dtype, fortran, file.tell())
        if dtype.hasobject:
            raise InputError(f"{where} holds Python objects, expected plain numbers or text")
        if any(isinstance(size, bool) or size < 0 for size in shape):
            raise InputError(f"{where} has shape {shape}, expected sizes from 0")
        held = self._archive.getinfo(stored).file_size - member.start
        check_held(member.nbytes, held, where)
        if member.nbytes < held:
            raise InputError(
                f"{where} declares {member.nbytes} bytes and the file holds {held}: it is damaged"
            )
        return member

    def _array(self, name: str, member: Member) -> np.ndarray:
        self._place.member = f"array {name}"
        with self._archive.open(member.stored) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        if array.dtype == bool and array.size and array.view(np.uint8).max() > 1:
            raise InputError(f"{self._path}: array {name} has flags other than 0 and 1")
        return array


def _check_header_length(file: IO[bytes], version: tuple[int, int], where: str) -> None:
    """Refuses a header of gigabytes before numpy reads it."""
    layout = _LENGTHS[version]
    (length,) = struct.unpack(layout, file.read(struct.calcsize(layout)))
    if length > LONGEST_HEADER:
        raise InputError(
            f"{where} has a header of {length} bytes, expected at most {LONGEST_HEADER}: it is "
            "damaged"
        )
