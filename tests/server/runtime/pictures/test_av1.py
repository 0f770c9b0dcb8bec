"""Sizes out of AV1 sequence headers, written here as the specification has them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.runtime.pictures.av1 import frame_sizes


def _bits(*fields: tuple[int, int]) -> bytes:
    """Write (value, bits) one after the other."""
    text = "".join(f"{value:0{size}b}" for value, size in fields)
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def _size(width: int, height: int) -> tuple[tuple[int, int], ...]:
    return (15, 4), (15, 4), (width - 1, 16), (height - 1, 16)


def _still(width: int, height: int) -> bytes:
    return _bits((0, 3), (1, 1), (1, 1), (8, 5), *_size(width, height))


def _whole(width: int, height: int, *, timing: int = 0, delay: int = 0, points: int = 1) -> bytes:
    each = [(0, 12), (9, 5), (1, 1), *([(1, 1), (3, 4)] if delay else [])]
    return _bits(
        (0, 3), (1, 1), (0, 1), (timing, 1), (delay, 1), (points - 1, 5), *each * points, *_size(width, height)
    )


def _unit(kind: int, content: bytes, *, sized: bool = True) -> bytes:
    return bytes([kind << 3 | 2 * sized]) + (bytes([len(content)]) if sized else b"") + content


@pytest.mark.parametrize(
    "header",
    [_still(5712, 4284), _whole(5712, 4284), _whole(5712, 4284, delay=1), _whole(5712, 4284, points=3, delay=1)],
)
def test_the_size_of_a_sequences_frames(header: bytes) -> None:
    delimiter, frame = _unit(2, b""), _unit(6, bytes(40))
    assert frame_sizes(delimiter + _unit(1, header) + frame) == [(5712, 4284)]
    assert frame_sizes(_unit(1, header, sized=False)) == [(5712, 4284)]
    assert frame_sizes(_unit(1, header) + frame + _unit(1, _still(16_384, 16_384))) == [(5712, 4284), (16_384, 16_384)]


def test_what_is_no_still_has_none() -> None:
    assert frame_sizes(b"") is None
    assert frame_sizes(_unit(6, bytes(40))) is None
    assert frame_sizes(_unit(1, _whole(8, 8, timing=1))) is None
    assert frame_sizes(_unit(1, _still(5712, 4284)[:4])) is None
    assert frame_sizes(_unit(2, b"") * 65 + _unit(1, _still(8, 8))) is None


@given(st.binary(max_size=200))
def test_any_bytes_have_sizes_or_none(stream: bytes) -> None:
    for width, height in frame_sizes(stream) or ():
        assert 1 <= width <= 65_536
        assert 1 <= height <= 65_536
