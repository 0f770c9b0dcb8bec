"""Reads arrays from an untrusted .npz file: headers are checked before anything is unpacked.

numpy.load would allocate the size in a header and evaluate headers as Python literals.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Final

import numpy as np
import numpy.typing as npt

from resonnx_server.runtime.session import Array

# numpy.save's header of an array of numbers: `{'descr': '<f4', 'fortran_order': False, 'shape': (8, 10), }`.
_HEADER: Final = re.compile(
    r"\{'descr': '([^']{1,12})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,10}, ?)*\d{0,10})\), \} *\n"
)
_MAGIC: Final = b"\x93NUMPY\x01\x00"
# Limit for a header, far above numpy's; and the bytes before it.
_MOST_HEADER: Final = 1024
_BEFORE_HEADER: Final = len(_MAGIC) + 2
_KIND: Final = ".npy"
# Begins each entry of a zip file's directory.
_ENTRY: Final = b"PK\x01\x02"
_MOST_ENTRIES: Final = 10_000
_DAMAGE: Final = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError)


class BadArchive(ValueError):
    """A file that is damaged or unexpected. The message is a predicate: "is damaged"."""


@dataclass(frozen=True)
class Expected:
    """Type and shape that an array must have.

    Attributes:
        dtype: Bytes and text without a length, "S" and "U", may be of any.
        shape: None allows any size.
        others: Other types that it may have.
    """

    dtype: npt.DTypeLike
    shape: tuple[int | None, ...]
    others: tuple[npt.DTypeLike, ...] = ()

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Return whether `shape` fits."""
        return len(shape) == len(self.shape) and all(
            wanted in (None, size) for size, wanted in zip(shape, self.shape, strict=True)
        )

    def dtype_of(self, kind: str) -> npt.DTypeLike | None:
        """Return the type that a header spells `kind`, as numpy.save does on little-endian machines; None if wrong."""
        for each in (self.dtype, *self.others):
            wanted = np.dtype(each).newbyteorder("<")
            unsized = wanted.itemsize == 0 and re.fullmatch(rf"{re.escape(wanted.str[:2])}[1-9]\d{{0,7}}", kind)
            if kind == wanted.str or unsized:
                return np.dtype(kind)
        return None

    @property
    def types(self) -> str:
        """The types, as headers spell them."""
        return " or ".join(np.dtype(each).newbyteorder("<").str for each in (self.dtype, *self.others))

    def __str__(self) -> str:
        return f"[{', '.join('N' if size is None else str(size) for size in self.shape)}]"


def read_npz(
    content: bytes,
    expected: Callable[[str], Expected | None],
    most_bytes: int,
    *,
    ignores: Callable[[str], bool] = lambda name: False,
) -> dict[str, Array]:
    """Return the arrays of an .npz file by name.

    Args:
        content: The file.
        expected: Returns type and shape of an array by its name; None if it must not be there.
        most_bytes: Limit for all arrays together, unpacked, with their headers.
        ignores: Returns whether an array is left out, by its name; it is not unpacked.

    Raises:
        BadArchive: The file is damaged, too large, or holds unexpected arrays.
    """
    if len(content) > most_bytes:
        raise BadArchive(f"has {len(content)} bytes; at most {most_bytes}")
    # zipfile takes 700 bytes of memory for each entry of the directory.
    if content.count(_ENTRY) > _MOST_ENTRIES:
        raise BadArchive(f"holds more than {_MOST_ENTRIES} arrays")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [member for member in archive.infolist() if not ignores(_name(member))]
            _check_members(members, most_bytes)
            return {name: _read(archive, member, expected(name)) for member in members for name in [_name(member)]}
    except BadArchive:
        raise
    except _DAMAGE:
        raise BadArchive("is damaged, or not an .npz file") from None


def _check_members(members: list[zipfile.ZipInfo], most_bytes: int) -> None:
    if len({member.filename for member in members}) < len(members):
        raise BadArchive("holds two arrays of one name")
    unpacked = sum(member.file_size for member in members)
    if unpacked > most_bytes:
        raise BadArchive(f"unpacks to {unpacked} bytes; at most {most_bytes}")
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadArchive(f"holds {_name(member)[:32]!r} with an unsupported compression")


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(_KIND)


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, expected: Expected | None) -> Array:
    name = _name(member)
    if expected is None or not member.filename.endswith(_KIND):
        raise BadArchive(f"holds {member.filename[:32]!r}, which is not expected")
    with archive.open(member) as file:
        kind, shape, is_fortran, header_bytes = _read_header(file, name)
        dtype = expected.dtype_of(kind)
        if dtype is None:
            raise BadArchive(f"holds {name!r} of type {kind}; expected {expected.types}")
        if not expected.allows(shape):
            raise BadArchive(f"holds {name!r} of shape {list(shape)}; expected {expected}")
        count = math.prod(shape)
        if header_bytes + count * np.dtype(dtype).itemsize != member.file_size:
            raise BadArchive(f"holds {name!r} of {member.file_size} bytes, whose header says shape {list(shape)}")
        flat = np.empty(count, dtype)
        if file.readinto(flat.view(np.uint8)) != flat.nbytes:  # type: ignore[attr-defined]
            raise BadArchive(f"holds {name!r}, which is truncated")
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _read_header(file: IO[bytes], name: str) -> tuple[str, tuple[int, ...], bool, int]:
    """Return type, shape, whether the order is Fortran's, and the header's length in bytes."""
    start = file.read(_BEFORE_HEADER)
    length = int.from_bytes(start[len(_MAGIC) :], "little")
    if not start.startswith(_MAGIC) or len(start) < _BEFORE_HEADER or length > _MOST_HEADER:
        raise BadArchive(f"holds {name!r}, which is not an array")
    header = _HEADER.fullmatch(file.read(length).decode("latin-1"))
    if header is None:
        raise BadArchive(f"holds {name!r}, which is not an array of numbers")
    kind, order, sizes = header.groups()
    shape = tuple(int(size) for size in sizes.replace(" ", "").split(",") if size)
    return kind, shape, order == "True", _BEFORE_HEADER + length
