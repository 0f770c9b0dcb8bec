"""Damaged and hostile clips: each ends with an error of its own or is read, within memory and time, and so is the next.

What a bit flip leaves readable is read: a pixel more or less is no error that anybody could see.
"""

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from resonnx_server.errors import BadClip, ClipTooCostly
from resonnx_server.preprocessing.clips.decode import ClipDecoder
from resonnx_server.preprocessing.clips.sampling import Sampling
from resonnx_server.preprocessing.decode import Decoder

from ...server.preprocessing.clips.clip_files import OPTIONS, animated, frame, gif, moving

FILES = {
    "gif": animated(moving(12), "GIF"),
    "gif previous": animated(moving(12, clear=True), "GIF", disposal=3),
    "webp": animated(moving(12), "WEBP"),
    "webp lossy": animated(moving(12, clear=True), "WEBP", lossless=False),
}
MB = 1 << 20


def _flipped(encoded: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(encoded)
    for _ in range(rng.randint(1, 20)):
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut(encoded: bytes, rng: random.Random) -> bytes:
    return encoded[: rng.randrange(1, len(encoded) - 1)]


def _holed(encoded: bytes, rng: random.Random) -> bytes:
    """Some bytes are missing, repeated or zero."""
    start = rng.randrange(len(encoded))
    end = min(len(encoded), start + rng.randint(1, 400))
    return encoded[:start] + rng.choice((b"", 2 * encoded[start:end], bytes(end - start))) + encoded[end:]


def _numbered(encoded: bytes, rng: random.Random) -> bytes:
    """A number in the header or of a frame is huge, or zero."""
    at = rng.choice((rng.randrange(4, 60), rng.randrange(len(encoded) - 4)))
    return encoded[:at] + rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f")) + encoded[at + 4 :]


DAMAGES = (_flipped, cut, _holed, _numbered)


def _peak_mb(reset: bool = False) -> float:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


async def outcome_of(clips: ClipDecoder, encoded: bytes) -> str:
    """Return "read", or the reason of a clip's error."""
    try:
        clip = await clips.load(await clips.plan(encoded, OPTIONS, Sampling(), 64, "clip"), 1)
    except (BadClip, ClipTooCostly) as error:
        return error.reason if error.message.startswith("clip: ") and len(error.message) < 400 else error.message
    assert clip.frames.shape == (clip.count, 20, 24, 3)
    return "read"


async def test_300_damaged_clips_end_with_an_error_or_are_read() -> None:
    count, rng = 300, random.Random(1)
    decoder = Decoder(1)
    clips = ClipDecoder(decoder)
    for encoded in FILES.values():
        assert await outcome_of(clips, encoded) == "read"
    before_mb = _peak_mb(reset=True)
    outcomes: dict[str, int] = {}
    for i in range(count):
        name, damage = list(FILES)[i % len(FILES)], DAMAGES[i // len(FILES) % len(DAMAGES)]
        began_s = time.monotonic()
        outcome = await outcome_of(clips, damage(FILES[name], rng))
        assert time.monotonic() - began_s < 10.5
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if damage is cut:
            assert outcome == "BAD_CLIP", (name, i)
    assert outcomes.keys() == {"read", "BAD_CLIP"}, outcomes
    assert outcomes["BAD_CLIP"] > count / 2, outcomes
    # The largest that headers of 24 bits could ask for within the limits are 8 megapixels, of 26 bytes each.
    assert _peak_mb() - before_mb < 26 * 8.4 + 64
    assert await outcome_of(clips, FILES["gif"]) == "read"
    assert await decoder.close(10)


def _webp_with(count: int, *, width: int = 8, height: int = 8, across: int = 8, duration: int = 40) -> bytes:
    """Write a WebP file of frames without pixels: its headers alone are read."""

    def three(value: int) -> bytes:
        return value.to_bytes(3, "little")

    def chunk(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    head = three(0) * 2 + three(across - 1) + three(height - 1) + three(duration) + b"\0"
    still = chunk(b"VP8L", b"\x2f\x07\xc0\x01\x00\x00\x00\x00")
    body = chunk(b"VP8X", b"\x02\0\0\0" + three(width - 1) + three(height - 1)) + chunk(b"ANIM", bytes(6))
    body += chunk(b"ANMF", head + still) * count
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _nested(count: int) -> bytes:
    """Frames that restore what was before them, each a little smaller, and draw over each other."""
    return gif([frame(0, 0, 8 - i % 8, 8 - i % 7, disposal=i % 4) for i in range(count)])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: gif([frame()], 65535, 65535), "a side must be within 1..16384"),
        (lambda: gif([frame()], 16384, 4096), "67108864 pixels each, more than 8388608"),
        (lambda: gif([frame(65000, 65000)]), "a side must be within 1..16384"),
        (lambda: gif([frame(), frame(1, 1)]), "frame 1 reaches outside of its canvas"),
        (lambda: gif([frame(), frame(width=0)]), "frame 1 has no pixels"),
        (lambda: gif([]), "it has no frames"),
        (lambda: gif([frame()] * 9001), "9001 frames or more; a clip has at most 9000"),
        (lambda: gif([frame()] * 65), "65 frames after sampling (all); the model reads at most 64"),
        (lambda: gif([frame()], trailer=False), "it ends before its last frame does"),
        (lambda: b"GIF89a" + bytes(7) + b"!\xfe" + b"\1\1" * (1 << 20) + b"\1\1\0;", "its header is damaged"),
        (lambda: b"GIF89a" + bytes(7) + b"\2" * 5000 + b";", "its header is damaged"),
        (lambda: gif([frame(delay=65535)] * 60), None),
        (lambda: _nested(64), None),
        (lambda: _webp_with(1, width=1 << 24, height=1 << 24), "a side must be within 1..16384"),
        (lambda: _webp_with(1, width=16384, height=4096), "67108864 pixels each, more than 8388608"),
        (lambda: _webp_with(2, across=9), "frame 0 reaches outside of its canvas"),
        (lambda: _webp_with(9001), "9001 frames or more; a clip has at most 9000"),
        (lambda: _webp_with(0), "it has no frames"),
        (lambda: _webp_with(5, duration=(1 << 24) - 1), "damaged or incomplete at frame 0"),
        (lambda: _webp_with(5)[:-30], "it ends before its last frame does"),
    ],
)
async def test_a_hostile_clip_ends_with_the_reason(make: Callable[[], bytes], expected: str | None) -> None:
    encoded = make()
    decoder = Decoder(1)
    clips = ClipDecoder(decoder)
    began_s = time.monotonic()
    if expected is None:
        assert await outcome_of(clips, encoded) == "read"
    else:
        with pytest.raises(BadClip) as refused:
            await clips.load(await clips.plan(encoded, OPTIONS, Sampling(), 64, "clip"), 1)
        assert expected in refused.value.message
    assert time.monotonic() - began_s < 2
    assert await decoder.close(10)
