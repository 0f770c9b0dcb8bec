"""What headers tell of a picture: format, size, and what decoders hold beside pixels."""

import time
import timeit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from resonnx_server.runtime.pictures.headers import Header, header

from .picture_files import file

NOISE = Image.effect_noise((300, 211), 50)


def _file(format: str, mode: str = "RGB", **options: object) -> bytes:
    return file(NOISE.convert(mode), format, **options)


@pytest.mark.parametrize(
    ("content", "format"),
    [
        (_file("JPEG"), "JPEG"),
        (_file("JPEG", exif=b"Exif\x00\x00" + _file("JPEG")[:9000], icc_profile=b"\xff\xc0" * 40_000), "JPEG"),
        (_file("JPEG", progressive=True), "JPEG"),
        (_file("JPEG", "L"), "JPEG"),
        (_file("PNG"), "PNG"),
        (_file("WEBP"), "WebP"),
        (_file("WEBP", lossless=True), "WebP"),
        (_file("WEBP", "RGBA"), "WebP"),
        (_file("GIF", "P"), "GIF"),
        (_file("GIF", "P", comment=b"a" * 3000), "GIF"),
        (_file("BMP"), "BMP"),
        (_file("TIFF"), "TIFF"),
        (_file("TIFF", compression="tiff_lzw"), "TIFF"),
        (_file("TIFF", big_tiff=False, exif=Image.Exif()), "TIFF"),
        (_file("AVIF", speed=10), "AVIF"),
    ],
)
def test_headers_tell_format_and_size(content: bytes, format: str) -> None:
    told = header(content)
    assert (told.format, told.width, told.height, told.problem) == (format, 300, 211, "")


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_progressive_files_hold_two_bytes_a_sample(sampling: str) -> None:
    chroma = {"4:4:4": 2.0, "4:2:2": 1.0, "4:2:0": 0.5}[sampling]
    told = header(_file("JPEG", progressive=True, subsampling=sampling))
    assert told.progressive
    # Blocks at the edges are whole.
    assert 1 <= told.held_bytes / (2 * told.pixels * (1 + chroma)) < 1.1
    plain = header(_file("JPEG", subsampling=sampling))
    assert (plain.held_bytes, plain.progressive) == (0, False)


def _one_scan_a_component(content: bytes) -> bytes:
    """Say that the first scan has one component: a sequential file of several scans."""
    scan = content.index(b"\xff\xda")
    return content[: scan + 4] + b"\x01" + content[scan + 5 :]


def test_sequential_files_of_several_scans_are_held_whole_too() -> None:
    content = _one_scan_a_component(_file("JPEG", subsampling="4:2:0"))
    assert header(content).held_bytes == header(_file("JPEG", subsampling="4:2:0", progressive=True)).held_bytes > 0


def test_two_frames_are_none() -> None:
    content = _file("JPEG")
    frame = content.index(b"\xff\xc0")
    length = int.from_bytes(content[frame + 2 : frame + 4], "big") + 2
    doubled = content[: frame + length] + content[frame : frame + length] + content[frame + length :]
    assert "damaged" in header(doubled).problem


def test_a_tile_is_held_whole() -> None:
    content = file(np.zeros((64, 64, 3), np.uint8), "TIFF", compression="tiff_lzw", tiffinfo={322: 48, 323: 32})
    assert header(content).held_bytes >= 48 * 32 * 3


HEADS = [
    b"",
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF....WEBP",
    b"GIF89a",
    b"BM",
    b"II*\x00\x08\x00\x00\x00",
    b"\x00\x00\x00\x10ftypavif\x00\x00\x00\x00\x00\x00\x00\x30meta",
]


@given(st.sampled_from(HEADS), st.binary(max_size=80))
def test_any_bytes_have_a_header(head: bytes, tail: bytes) -> None:
    told = header(head + tail)
    assert told.pixels >= 0
    assert told.held_bytes >= 0
    assert told.format or told == Header("")


@pytest.mark.parametrize("repeated", [b"\xff\x00", b"\xff\xe0\x00\x02", b"\xff\xff", b"!\xfe\x01x\x00", b"\x00"])
@pytest.mark.parametrize("head", HEADS[1:])
def test_headers_are_read_in_little_time_whatever_the_bytes(head: bytes, repeated: bytes) -> None:
    """On the event loop: 16 MB of nothing must not hold it up."""
    assert _processor_s(head + repeated * ((16 << 20) // len(repeated))) < 0.02


@pytest.mark.parametrize("between", [b"\xff\x00" * 2040, b"\xff" * 4080 + b"\x00"])
def test_what_stands_between_segments_is_passed_over_in_little_time(between: bytes) -> None:
    assert _processor_s(b"\xff\xd8" + (b"\xff\xe1\x00\x04ab" + between) * 1024 + b"\xff\xda") < 0.02


def _box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def test_boxes_in_boxes_are_read_in_little_time() -> None:
    cells = _box(b"iprp", _box(b"ipco", _box(b"ispe", bytes(12)) * 30) * 30) * 30
    content = _box(b"ftyp", b"avif" + bytes(4)) + _box(b"meta", bytes(4) + cells) * 30
    assert _processor_s(content) < 0.02


def _avif(items: int, extents: int, stream: bytes, *, at: int = 0, size: int = 0xFFFFFFFF, copies: int = 1) -> bytes:
    """Return an AVIF file of so many items, each of so many parts, all of them the same bytes."""
    numbers = [(i + 1).to_bytes(2, "big") for i in range(items)]
    info = b"".join(_box(b"infe", b"\2\0\0\0" + number + b"\0\0av01\0") for number in numbers)
    parts = (at.to_bytes(4, "big") + size.to_bytes(4, "big")) * extents
    places = b"".join(number + b"\0\0" + extents.to_bytes(2, "big") + parts for number in numbers)
    count = items.to_bytes(2, "big")
    infos, locations = _box(b"iinf", bytes(4) + count + info), _box(b"iloc", bytes(4) + b"\x44\0" + count + places)
    sizes = _box(b"iprp", _box(b"ipco", _box(b"ispe", bytes(4) + (8).to_bytes(4, "big") * 2)))
    meta = _box(b"meta", bytes(4) + sizes + (infos + locations) * copies)
    return _box(b"ftyp", b"avif" + bytes(4)) + _box(b"mdat", stream) + meta


# A unit with the sequence header of a still picture of 8 x 8.
SEQUENCE = b"\x0a\x07" + bytes.fromhex("1a3fc001c001c0")
# Where _avif's stream stands.
STREAM_AT = 24


def test_what_many_items_name_together_is_read_in_little_time() -> None:
    """Each names the whole file 16 times: 4096 copies of 16 MB."""
    assert _processor_s(_avif(256, 16, bytes(16 << 20))) < 0.02


def test_items_of_countless_parts_are_read_in_little_time() -> None:
    assert _processor_s(_avif(16, 65_535, b"", size=0)) < 0.02


@pytest.mark.parametrize("copies", [1, 50])
def test_streams_of_countless_sequences_are_read_in_little_time(copies: int) -> None:
    stream = SEQUENCE * 64
    content = _avif(256, 1, stream + bytes(4 << 20), at=STREAM_AT, size=len(stream), copies=copies)
    assert _processor_s(content) < 0.03


def test_several_lists_of_items_are_not_taken() -> None:
    """Decoders differ in which one they believe."""
    assert header(_avif(1, 1, SEQUENCE, at=STREAM_AT, size=len(SEQUENCE))).problem == ""
    assert "damaged" in header(_avif(1, 1, SEQUENCE, at=STREAM_AT, size=len(SEQUENCE), copies=2)).problem


@pytest.mark.parametrize("kind", [b"iinf", b"iloc", b"idat"])
def test_boxes_of_nothing_at_the_end_are_damage(kind: bytes) -> None:
    for content in (b"", bytes(6), bytes(6) + _box(b"infe", b"")):
        meta = _box(b"meta", bytes(4) + _box(b"iloc", b"") * (kind != b"iloc") + _box(kind, content))
        assert header(_box(b"ftyp", b"avif" + bytes(4)) + meta).problem


def test_directories_of_directories_are_read_in_little_time() -> None:
    entry = (34665).to_bytes(2, "little") + b"\x04\x00\x01\x00\x00\x00\x08\x00\x00\x00"
    assert _processor_s(b"II*\x00\x08\x00\x00\x00\x00\x01" + entry * 256 + bytes(4)) < 0.02


def _processor_s(content: bytes) -> float:
    """Return the least time of the processor that reading the header takes."""
    return min(timeit.repeat(lambda: header(content), timer=time.thread_time, number=1, repeat=3))
