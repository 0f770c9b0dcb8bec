"""Converts pixel layouts to RGB bytes, by slices of bytes instead of numpy."""

from typing import Any

_CHANNELS = (1, 3, 4)


def interleaved(pixels: bytes, channels: int) -> bytes:
    """Return RGB of interleaved channels: 1 grey, 3 RGB or 4 RGBA, whose alpha is dropped."""
    if channels == 3:
        return pixels
    return _rgb([pixels] * 3 if channels == 1 else [pixels[i::4] for i in range(3)])


def planes(pixels: bytes, channels: int) -> bytes:
    """Return RGB of planar channels, the layout of torch."""
    size = len(pixels) // channels
    first = [pixels[i * size : (i + 1) * size] for i in range(min(channels, 3))]
    return _rgb(first * 3 if channels == 1 else first)


def grey_16_bit(image: Any) -> bytes:
    """Return RGB of the high byte of a PIL image of mode I;16 (any byte order) or I, as the server decodes such a file.

    Pillow's convert("RGB") would clip it to white. In mode I, values over 65535 become white.
    """
    if image.mode != "I":
        image = image.convert("I")
    # "I;16" is little-endian.
    return interleaved(image.convert("I;16").tobytes()[1::2], 1)


def layout(shape: tuple[int, ...], *, tensor: bool) -> tuple[int, int, int, bool] | None:
    """Return height, width, channels, and whether channels come first; None if this is not the shape of a picture.

    Args:
        shape: [H, W] or [H, W, C] with 1, 3 or 4 channels; of a tensor also [C, H, W].
        tensor: Whether it is a torch tensor. None is returned if both its first and last axis could be channels.
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
