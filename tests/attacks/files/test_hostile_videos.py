"""Damaged and hostile MP4 and WebM files: each ends with an error of its own or is read."""

import random
import struct
import time
from collections.abc import AsyncIterator, Callable

import pytest
from resonnx_server.errors import BadClip
from resonnx_server.preprocessing.clips.decode import ClipDecoder
from resonnx_server.preprocessing.clips.sampling import Sampling
from resonnx_server.preprocessing.decode import Decoder

from ...server.preprocessing.clips.clip_files import OPTIONS, moving
from ...server.preprocessing.clips.video_files import video
from .test_hostile_clips import DAMAGES, cut, outcome_of

SIZE = (96, 80)
FILES = {format: video(moving(8, SIZE), format) for format in ("mp4", "webm")}
MP4, WEBM = FILES.values()


@pytest.fixture
async def clips() -> AsyncIterator[ClipDecoder]:
    decoder = Decoder(1)
    yield ClipDecoder(decoder)
    assert await decoder.close(10)


@pytest.mark.parametrize("count", [4, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
async def test_damaged_videos_end_with_an_error_or_are_read(count: int, clips: ClipDecoder) -> None:
    rng = random.Random(count)
    outcomes: dict[str, int] = {}
    for i in range(count):
        name, damage = list(FILES)[i % 2], DAMAGES[i // 2 % len(DAMAGES)]
        began_s = time.monotonic()
        outcome = await outcome_of(clips, damage(FILES[name], rng))
        # Twice the limit: packets are read, then frames.
        assert time.monotonic() - began_s < 21
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if damage is cut and name == "mp4":
            # The table of frames is at the end.
            assert outcome == "BAD_CLIP", i
    assert outcomes.keys() <= {"read", "BAD_CLIP", "CLIP_TOO_COSTLY"}, outcomes
    assert outcomes["BAD_CLIP"] >= count / 4, outcomes
    assert await outcome_of(clips, MP4) == "read"


def _box(kind: bytes, content: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack(">I", 8 + len(content) if size is None else size) + kind + content


def _nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = _box(b"moov", content)
    return _box(b"ftyp", b"isom\0\0\0\0") + content


def _sized(width: int, height: int) -> bytes:
    """The MP4 file, whose sample entry and track tell another size than its stream."""
    return MP4.replace(struct.pack(">HH", *SIZE), struct.pack(">HH", width, height)).replace(
        struct.pack(">II", SIZE[0] << 16, SIZE[1] << 16), struct.pack(">II", width << 16, height << 16)
    )


def _counted(count: int) -> bytes:
    """The MP4 file, whose table announces so many frames."""
    at = MP4.rindex(b"stsz") + 12
    return MP4[:at] + struct.pack(">I", count) + MP4[at + 4 :]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: _sized(65535, 65535), "a side must be within 1..16384"),
        (lambda: _sized(16384, 4096), "67108864 pixels each, more than 8388608"),
        (lambda: _sized(0, 80), "a side must be within 1..16384"),
        (lambda: _sized(16, 16), ""),
        (lambda: _counted(1 << 31), "2147483648 frames or more; a clip has at most 9000"),
        (lambda: _counted(65), ""),
        (lambda: _nested(2000), "it has no video track"),
        (lambda: _box(b"ftyp", b"isom\0\0\0\0") + _box(b"free", size=0), "its header is damaged"),
        (lambda: _box(b"ftyp", b"isom\0\0\0\0") + _box(b"moov", size=7), "its header is damaged"),
        (lambda: _box(b"ftyp", b"isom\0\0\0\0") + _box(b"free") * 100_000, "its header is damaged"),
        (lambda: WEBM[:5], "its header is damaged"),
        (lambda: WEBM[:5] + b"\0" * 1000, "its header is damaged"),
        (
            lambda: b"\x1aE\xdf\xa3\x80" + b"\x18S\x80g\x01\xff\xff\xff\xff\xff\xff\xff" + b"\xec\x80" * 9000,
            "its header",
        ),
        (lambda: MP4.replace(b"avc1", b"mp4v"), "its codec is 'mpeg4'"),
    ],
)
async def test_a_hostile_video_ends_with_the_reason(
    make: Callable[[], bytes], expected: str, clips: ClipDecoder
) -> None:
    began_s = time.monotonic()
    with pytest.raises(BadClip) as refused:
        await clips.load(await clips.plan(make(), OPTIONS, Sampling(), 64, "clip"), 1)
    assert expected in refused.value.message
    assert refused.value.message.startswith("clip: ")
    assert time.monotonic() - began_s < 15
