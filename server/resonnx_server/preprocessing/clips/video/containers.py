"""Reads the headers of MP4 (ISO 14496-12) and WebM (RFC 8794, RFC 9559) files: the size of the video's frames.

Bounded in time; what it finds is what the decoder's memory is reserved for, and the decoder must find the same or less.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from resonnx_server.preprocessing.clips.animation import UNREADABLE
from resonnx_server.runtime.pictures.avif_header import boxes

NO_VIDEO: Final = "it has no video track"
_MAX_TRACKS: Final = 32
_MAX_ELEMENTS: Final = 4096
# Elements of Matroska, of which WebM is a part.
_SEGMENT, _TRACKS, _TRACK, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_WIDTH, _HEIGHT = 0xB0, 0xBA


class VideoHeader(NamedTuple):
    """The header of a video file.

    Attributes:
        format: "MP4" or "WebM".
        width: Of the largest video track, in pixels.
        height: Of the largest video track, in pixels.
        frames: Frames of this track; 0 if its header does not tell.
    """

    format: str
    width: int
    height: int
    frames: int = 0


def is_mp4(encoded: bytes) -> bool:
    """Return whether a file begins as MP4 or QuickTime files do."""
    return encoded[4:8] == b"ftyp"


def is_webm(encoded: bytes) -> bool:
    """Return whether a file begins as WebM and Matroska files do."""
    return encoded.startswith(b"\x1aE\xdf\xa3")


def read(encoded: bytes) -> VideoHeader | str:
    """Return an MP4 or WebM file's header, or why it cannot be decoded."""
    found = _mp4(encoded) if is_mp4(encoded) else _webm(encoded)
    return found if isinstance(found, str) else max(found, key=lambda track: track.width * track.height)


def _mp4(encoded: bytes) -> list[VideoHeader] | str:
    movies = _inside(encoded, 0, len(encoded), b"moov")
    movie = next(movies, None)
    if movie is None:
        return UNREADABLE
    tracks = []
    for track in islice(_inside(encoded, *movie, b"trak"), _MAX_TRACKS):
        for media in _inside(encoded, *track, b"mdia"):
            # Version and flags, four bytes, and the kind.
            kinds = [encoded[start + 8 : start + 12] for start, _ in _inside(encoded, *media, b"hdlr")]
            if b"vide" in kinds:
                tracks += [each for table in _tables(encoded, media) for each in _entries(encoded, table)]
    return tracks or NO_VIDEO


def _tables(encoded: bytes, media: tuple[int, int]) -> Iterator[tuple[int, int]]:
    for information in _inside(encoded, *media, b"minf"):
        yield from _inside(encoded, *information, b"stbl")


def _entries(encoded: bytes, table: tuple[int, int]) -> Iterator[VideoHeader]:
    count = max((_big(encoded, start + 8, 4) for start, _ in _inside(encoded, *table, b"stsz")), default=0)
    for start, end in _inside(encoded, *table, b"stsd"):
        for _, entry, past in islice(boxes(encoded, start + 8, end), _MAX_TRACKS):
            if past - entry >= 28:
                yield VideoHeader("MP4", _big(encoded, entry + 24, 2), _big(encoded, entry + 26, 2), count)


def _inside(encoded: bytes, start: int, end: int, kind: bytes) -> Iterator[tuple[int, int]]:
    return ((content, past) for found, content, past in boxes(encoded, start, end) if found == kind)


def _webm(encoded: bytes) -> list[VideoHeader] | str:
    segment = next(_elements(encoded, 0, len(encoded), _SEGMENT), None)
    tracks = next(_elements(encoded, *segment, _TRACKS), None) if segment else None
    if tracks is None:
        return UNREADABLE
    found = []
    for track in islice(_elements(encoded, *tracks, _TRACK), _MAX_TRACKS):
        for video in _elements(encoded, *track, _VIDEO):
            sides = [
                next((_big(encoded, start, end - start) for start, end in _elements(encoded, *video, side)), 0)
                for side in (_WIDTH, _HEIGHT)
            ]
            found.append(VideoHeader("WebM", *sides))
    return found or NO_VIDEO


def _elements(encoded: bytes, start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the content of each element of a kind; one of unknown size ends with what it is in."""
    for _ in range(_MAX_ELEMENTS):
        kind, at = _number(encoded, start, end, keep=True)
        size, content = _number(encoded, at, end, keep=False)
        if content <= at or at <= start:
            return
        unknown = size == (1 << 7 * (content - at)) - 1
        past = end if unknown else content + size
        if past > end:
            return
        if kind == wanted:
            yield content, past
        start = past


def _number(encoded: bytes, start: int, end: int, *, keep: bool) -> tuple[int, int]:
    """Return a number of variable length and the position behind it: `start` itself if there is none."""
    first = encoded[start] if start < end else 0
    length = 9 - first.bit_length()
    if not first or start + length > end:
        return 0, start
    value = _big(encoded, start, length)
    return value if keep else value & (1 << 7 * length) - 1, start + length


def _big(encoded: bytes, at: int, size: int) -> int:
    return int.from_bytes(encoded[at : at + min(size, 8)], "big")
