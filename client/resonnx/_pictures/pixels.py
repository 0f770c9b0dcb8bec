"""Pixels of other layouts to RGB bytes, rows from the top: without numpy, by slices of bytes."""

from typing import Any

_CHANNELS = (1, 3, 4)


def interleaved(pixels: bytes, channels: int) -> bytes:
    """Return RGB of pixels whose channels stand side by side: 1 grey, 3 RGB, 4 RGBA, whose alpha is dropped."""
    if channels == 3:
        return pixels
    return _rgb([pixels] * 3 if channels == 1 else [pixels[i::4] for i in range(3)])


def planes(pixels: bytes, channels: int) -> bytes:
    """Return RGB of pixels that stand plane after plane, as torch has them."""
    size = len(pixels) // channels
    first = [pixels[i * size : (i + 1) * size] for i in range(min(channels, 3))]
    return _rgb(first * 3 if channels == 1 else first)


def grey_16_bit(image: Any) -> bytes:
    """Return RGB of a PIL image of mode I;16 (any byte order) or I: its high byte, as the server has it of such a file.

    Pillow's own convert("RGB") clips it to white. Of mode I, whose values may be larger, those beyond 65535 are white.
    """
    if image.mode != "I":
        image = image.convert("I")
    # Little-endian, by the mode's name.
    return interleaved(image.convert("I;16").tobytes()[1::2], 1)


def layout(shape: tuple[int, ...], *, tensor: bool) -> tuple[int, int, int, bool] | None:
    """Return height, width, channels, and whether they come first; None if no picture has this shape.

    Args:
        shape: [H, W] or [H, W, C] with 1, 3 or 4 channels; of a tensor also [C, H, W].
        tensor: Whether it is torch's. Where its first and last side could both be channels, it is no picture.
    """
    if 0 in shape:
        return None
    match shape:
        case (height, width):
            return height, width, 1, False
        case (first, second, third):
            channels_first = tensor and first in _CHANNELS
            if third in _CHANNELS and not channels_first:
                return first, second, third, False
            if channels_first and third not in _CHANNELS:
                return second, third, first, True
    return None


def _rgb(channels: list[bytes]) -> bytes:
    pixels = bytearray(3 * len(channels[0]))
    for i, channel in enumerate(channels):
        pixels[i::3] = channel
    return bytes(pixels)
