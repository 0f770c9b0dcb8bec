"""Reads the boxes of an AVIF file: the picture's size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_MAX_BOXES: Final = 1024
_UNREADABLE: Final = "its header is damaged or incomplete"


@dataclass(frozen=True)
class AvifPicture:
    """The largest of what a file holds: its picture, its cells, its alpha."""

    width: int
    height: int
    held_bytes: int


def is_avif(encoded: bytes) -> bool:
    """Whether it is a still or moving AVIF file."""
    return encoded[4:8] == b"ftyp" and encoded[8:12] in (b"avif", b"avis")


def read(encoded: bytes) -> AvifPicture | str:
    """Return what an AVIF file says of its picture, or why it cannot be decoded."""
    if encoded[8:12] == b"avis":
        return "moving AVIF files are not taken"
    sizes = []
    for start, end in _inside(encoded, (b"meta", b"iprp", b"ipco", b"ispe")):
        if end - start >= 12:
            sizes.append(tuple(int.from_bytes(encoded[at : at + 4], "big") for at in (start + 4, start + 8)))
    if not sizes:
        return _UNREADABLE
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return AvifPicture(width, height, 0)


def _inside(
    encoded: bytes, path: tuple[bytes, ...], start: int = 0, end: int | None = None
) -> Iterator[tuple[int, int]]:
    """Yield where the content of each box of a path of kinds lies."""
    for kind, content, past in _boxes(encoded, start, len(encoded) if end is None else end):
        if kind != path[0]:
            continue
        if len(path) == 1:
            yield content, past
        else:
            # Version and flags stand first in a meta box.
            yield from _inside(encoded, path[1:], content + 4 * (kind == b"meta"), past)


def _boxes(encoded: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    for _ in range(_MAX_BOXES):
        if end - start < 8:
            return
        size, kind, content = (
            int.from_bytes(encoded[start : start + 4], "big"),
            encoded[start + 4 : start + 8],
            start + 8,
        )
        if size == 1:
            size, content = int.from_bytes(encoded[content : content + 8], "big"), content + 8
        past = end if size == 0 else start + size
        if not content <= past <= end:
            return
        yield kind, content, past
        start = past
