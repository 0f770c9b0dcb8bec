"""Reads the chunks of a WebP file: the canvas and the frames' durations, without decoding a pixel."""

from typing import Final

from resonnx_server.preprocessing.clips.animation import CUT_OFF, NO_FRAMES, OUTSIDE, UNREADABLE, Animation
from resonnx_server.runtime.pictures.headers import header
from resonnx_server.runtime.pictures.webp import chunks

_MOVING: Final = 2
_FIRST_CHUNK: Final = 12
_PICTURES: Final = (b"VP8 ", b"VP8L")
# Header of a frame: offset, size, duration, flags.
_FRAME_HEAD: Final = 16
# Chunks that are no frames: colour profile, EXIF, XMP, and others that are ignored.
_OTHERS: Final = 64
_MAX_EXIF_BYTES: Final = 1 << 20


def read(encoded: bytes, most_frames: int) -> Animation | str:
    """Return what a WebP file's headers announce, or why it cannot be decoded; a still picture is one frame.

    Args:
        encoded: The file.
        most_frames: Reading stops at the first frame beyond.
    """
    head = header(encoded)
    if head.problem:
        return head.problem
    end = 8 + _little(encoded[4:8])
    if end > len(encoded):
        return CUT_OFF
    durations: list[int] = []
    exif = b""
    past = _FIRST_CHUNK
    is_moving = encoded[12:16] == b"VP8X" and encoded[20] & _MOVING
    for kind, start, past in chunks(encoded, _FIRST_CHUNK, end, most_frames + 1 + _OTHERS):
        if kind == b"EXIF" and past - start <= _MAX_EXIF_BYTES:
            exif = encoded[start:past]
        if kind in _PICTURES and not is_moving:
            durations.append(0)
        if kind != b"ANMF" or not is_moving:
            continue
        if past - start < _FRAME_HEAD:
            return UNREADABLE
        left, top, across, down, duration_ms = (_little(encoded[start + i : start + i + 3]) for i in (0, 3, 6, 9, 12))
        if 2 * left + across + 1 > head.width or 2 * top + down + 1 > head.height:
            return OUTSIDE.format(len(durations))
        durations.append(duration_ms)
        if len(durations) > most_frames:
            break
    else:
        # A chunk that reaches beyond the file ends the loop as well; fewer than 8 bytes are no chunk.
        if past + past % 2 + 8 <= end:
            return CUT_OFF
    return Animation("WebP", head.width, head.height, tuple(durations), exif) if durations else NO_FRAMES


def _little(content: bytes) -> int:
    return int.from_bytes(content, "little")
