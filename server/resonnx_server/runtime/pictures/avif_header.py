"""Reads the boxes of an AVIF file (ISO 14496-12, 23008-12): the picture's size, and whether all its parts fit it."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from resonnx_server.runtime.pictures.av1 import frame_sizes

_MAX_BOXES: Final = 1024
# Items: grid cells, alpha, thumbnails. Extents: parts of the file that make up an item, mostly one each.
_MAX_ITEMS: Final = 256
_MAX_EXTENTS: Final = 1024
_MAX_BRANDS_END: Final = 256
# Pillow turns EXIF entries into Python objects.
_MAX_EXIF_BYTES: Final = 1 << 20
_UNREADABLE: Final = "its header is damaged or incomplete"
# Decoder memory of a part before it is copied into the picture.
_BYTES_A_PIXEL: Final = 6


def is_avif(encoded: bytes) -> bool:
    """Return whether it is a still or moving AVIF file, by its main brand or, for HEIF, its compatible brands."""
    if encoded[4:8] != b"ftyp":
        return False
    main, end = encoded[8:12], min(int.from_bytes(encoded[:4], "big"), _MAX_BRANDS_END)
    others = (encoded[at : at + 4] for at in range(16, end, 4))
    return main in (b"avif", b"avis") or (main == b"mif1" and b"avif" in others)


def read(encoded: bytes) -> tuple[int, int, int] | str:
    """Return width and height of the largest image in the file, and the decoder's memory for all parts in bytes.

    If it cannot be decoded, return the reason.
    Decoders use the size in the AV1 streams and scale what differs: each stream must have a size from the header.
    """
    if encoded[8:12] == b"avis":
        return "moving AVIF files are not accepted"
    announced = {
        _pair(encoded, at + 4) for at, end in _inside(encoded, b"meta", b"iprp", b"ipco", b"ispe") if end - at >= 12
    }
    streams = _streams(encoded)
    if not announced or not streams:
        return _UNREADABLE
    parts: list[tuple[int, int]] = []
    for stream in streams:
        sizes = frame_sizes(stream)
        if sizes is None or not set(sizes) <= announced:
            return "the size in its header differs from its pictures' sizes"
        parts += sizes
    width, height = max(announced, key=lambda size: size[0] * size[1])
    return width, height, _BYTES_A_PIXEL * sum(across * down for across, down in parts)


def _streams(encoded: bytes) -> list[bytes | memoryview]:
    """Return the AV1 streams of all items; empty if some cannot be found.

    Extents may overlap or repeat: together they must not be larger than the file.
    """
    pictures, notes = set(_items(encoded, b"av01")), set(_items(encoded, b"Exif"))
    own_data, locations = _only(encoded, b"idat"), _only(encoded, b"iloc")
    if locations is None:
        return []
    streams: list[bytes | memoryview] = []
    content, left = memoryview(encoded), len(encoded)
    for item, method, extents in _Locations(content[slice(*locations)]).items():
        if item in notes and sum(size for _, size in extents) > _MAX_EXIF_BYTES:
            return []
        if item not in pictures:
            continue
        if method > 1 or (method == 1 and own_data is None):
            return []
        base = own_data[0] if method == 1 and own_data else 0
        parts = [content[base + at : base + at + size] for at, size in extents]
        left -= sum(map(len, parts))
        if left < 0:
            return []
        streams.append(parts[0] if len(parts) == 1 else b"".join(parts))
    return streams if len(streams) == len(pictures) else []


def _items(encoded: bytes, wanted: bytes) -> Iterator[int]:
    """Yield the ids of the items of a kind."""
    start, end = _only(encoded, b"iinf") or (0, 0)
    # The entry count has two bytes in version 0, ids have two bytes up to version 2; an index and the kind follow.
    first = start + (6 if encoded[start : start + 1] == b"\0" else 8)
    for kind, at, past in boxes(encoded, first, end):
        size = 2 if encoded[at : at + 1] < b"\3" else 4
        if kind == b"infe" and past - at >= size + 10 and encoded[at + size + 6 : at + size + 10] == wanted:
            yield int.from_bytes(encoded[at + 4 : at + 4 + size], "big")


class _Locations:
    """Reads an item location box."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._position = 0

    def items(self) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
        """Yield each item's id, its construction method, and offset and size of its extents."""
        version = self._number(4) >> 24
        sizes = self._number(2)
        of_offset, of_length, of_base, of_index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        count = self._number(4 if version == 2 else 2)
        left = _MAX_EXTENTS
        for _ in range(min(count, _MAX_ITEMS)):
            item = self._number(4 if version == 2 else 2)
            method = self._number(2) & 15 if version else 0
            self._number(2)
            base = self._number(of_base)
            extents = []
            for _ in range(self._number(2)):
                if (left := left - 1) < 0:
                    return
                if version:
                    self._number(of_index)
                offset = self._number(of_offset)
                extents.append((base + offset, self._number(of_length)))
            yield item, method, extents

    def _number(self, size: int) -> int:
        self._position += size
        return int.from_bytes(self._content[self._position - size : self._position], "big")


def _pair(encoded: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(encoded[at : at + 4], "big"), int.from_bytes(encoded[at + 4 : at + 8], "big")


def _only(encoded: bytes, kind: bytes) -> tuple[int, int] | None:
    """Return start and end of the content of the meta box's only box of a kind; None unless there is exactly one."""
    found = [*islice(_inside(encoded, b"meta", kind), 2)]
    return found[0] if len(found) == 1 else None


def _inside(encoded: bytes, *path: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield start and end of the content of each box at a path of kinds, within the first boxes on the way."""
    for kind, content, past in boxes(encoded, start, len(encoded) if end is None else end):
        if kind != path[0]:
            continue
        if len(path) == 1:
            yield content, past
        else:
            # A meta box starts with version and flags. The standard allows only one.
            yield from _inside(encoded, *path[1:], start=content + 4 * (kind == b"meta"), end=past)
            return


def boxes(encoded: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box, and the start and end of its content."""
    for _ in range(_MAX_BOXES):
        if end - start < 8:
            return
        size = int.from_bytes(encoded[start : start + 4], "big")
        kind, content = encoded[start + 4 : start + 8], start + 8
        if size == 1:
            size, content = int.from_bytes(encoded[content : content + 8], "big"), content + 8
        past = end if size == 0 else start + size
        if not content <= past <= end:
            return
        yield kind, content, past
        start = past
