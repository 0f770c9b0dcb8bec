"""Reads arrays from an .npz file of which nothing is known: its headers are held to bounds before anything is inflated.

numpy.load takes memory for whatever a header announces, and reads headers as Python literals.
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

# What numpy.save writes of an array of numbers: `{'descr': '<f4', 'fortran_order': False, 'shape': (8, 10), }`.
_HEADER: Final = re.compile(
    r"\{'descr': '([^']{1,8})', 'fortran_order': (True|False), 'shape': \(((?:\d{1,10}, ?)*\d{0,10})\), \} *\n"
)
_MAGIC: Final = b"\x93NUMPY\x01\x00"
# Far more than a header of this kind has, and what stands before it.
_MOST_HEADER: Final = 1024
_BEFORE_HEADER: Final = len(_MAGIC) + 2
_KIND: Final = ".npy"
_DAMAGE: Final = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, RuntimeError)


class BadArchive(ValueError):
    """Not such a file, or one that announces what is not expected. The message is the end of a sentence."""


@dataclass(frozen=True)
class Expected:
    """What an array must be.

    Attributes:
        dtype: Exactly.
        shape: None stands for any size.
    """

    dtype: npt.DTypeLike
    shape: tuple[int | None, ...]

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of `shape` is one."""
        return len(shape) == len(self.shape) and all(
            wanted in (None, size) for size, wanted in zip(shape, self.shape, strict=True)
        )

    def __str__(self) -> str:
        return f"[{', '.join('N' if size is None else str(size) for size in self.shape)}]"


def read_npz(content: bytes, expected: Callable[[str], Expected | None], most_bytes: int) -> dict[str, Array]:
    """Return the arrays of an .npz file by name.

    Args:
        content: The file.
        expected: What an array of a name must be; None if there must be none.
        most_bytes: What its arrays may take together, unpacked, with their headers.

    Raises:
        BadArchive: The file is damaged, or is not what is expected, in what it announces or holds.
    """
    if len(content) > most_bytes:
        raise BadArchive(f"has {len(content)} bytes; at most {most_bytes}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            _check_members(members, most_bytes)
            return {name: _read(archive, member, expected(name)) for member in members for name in [_name(member)]}
    except BadArchive:
        raise
    except _DAMAGE:
        raise BadArchive("is damaged, or no .npz file") from None


def _check_members(members: list[zipfile.ZipInfo], most_bytes: int) -> None:
    if len({member.filename for member in members}) < len(members):
        raise BadArchive("holds two arrays of one name")
    unpacked = sum(member.file_size for member in members)
    if unpacked > most_bytes:
        raise BadArchive(f"unpacks to {unpacked} bytes; at most {most_bytes}")
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadArchive(f"holds {_name(member)[:32]!r} compressed in a way that is not read")


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(_KIND)


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, expected: Expected | None) -> Array:
    name = _name(member)
    if expected is None or not member.filename.endswith(_KIND):
        raise BadArchive(f"holds {member.filename[:32]!r}, which is not expected")
    # As numpy.save spells it on the machines that write such files.
    wanted = np.dtype(expected.dtype).newbyteorder("<").str
    with archive.open(member) as file:
        kind, shape, is_fortran, header_bytes = _read_header(file, name)
        if kind != wanted:
            raise BadArchive(f"holds {name!r} of type {kind}; expected {wanted}")
        if not expected.allows(shape):
            raise BadArchive(f"holds {name!r} of shape {list(shape)}; expected {expected}")
        count = math.prod(shape)
        if header_bytes + count * np.dtype(wanted).itemsize != member.file_size:
            raise BadArchive(f"holds {name!r} of {member.file_size} bytes, whose header says shape {list(shape)}")
        flat = np.empty(count, wanted)
        if file.readinto(flat.view(np.uint8)) != flat.nbytes:  # type: ignore[attr-defined]
            raise BadArchive(f"holds {name!r}, which breaks off")
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _read_header(file: IO[bytes], name: str) -> tuple[str, tuple[int, ...], bool, int]:
    """Return type, shape, whether the first axis is the fastest, and the header's own length in bytes."""
    start = file.read(_BEFORE_HEADER)
    length = int.from_bytes(start[len(_MAGIC) :], "little")
    if not start.startswith(_MAGIC) or len(start) < _BEFORE_HEADER or length > _MOST_HEADER:
        raise BadArchive(f"holds {name!r}, which is no array")
    header = _HEADER.fullmatch(file.read(length).decode("latin-1"))
    if header is None:
        raise BadArchive(f"holds {name!r}, which is no array of numbers")
    kind, order, sizes = header.groups()
    shape = tuple(int(size) for size in sizes.replace(" ", "").split(",") if size)
    return kind, shape, order == "True", _BEFORE_HEADER + length
