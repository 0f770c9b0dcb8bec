"""Encodes pixels as data: URIs."""

import base64
import io
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from resonnx_server.runtime.pictures.images import Pixels

# The largest side on the page, in pixels.
_MOST_SIDE: Final = 224
# PNG below this size, else JPEG: noise takes 150 kB as PNG.
_MOST_PNG_BYTES: Final = 24_000
_JPEG_QUALITY: Final = 82
_OVERLAY_SIDE: Final = 56
# RGBA from no attention to the greatest: visible on light and on dark pictures.
_HEAT: Final = np.array(
    [[10, 14, 46, 158], [70, 20, 96, 140], [196, 58, 60, 104], [250, 160, 40, 84], [255, 240, 150, 64]], np.float64
)


def picture_uri(pixels: Pixels) -> str:
    """Encode a picture uint8 [H,W,3], reduced to _MOST_SIDE pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((_MOST_SIDE, _MOST_SIDE), Image.Resampling.LANCZOS)
    encoded = _encode(image, "PNG", optimize=True)
    if len(encoded) <= _MOST_PNG_BYTES:
        return _uri("image/png", encoded)
    return _uri("image/jpeg", _encode(image, "JPEG", quality=_JPEG_QUALITY))


def overlay_uri(attention: npt.NDArray[np.floating[Any]]) -> str:
    """Encode attention [rows,columns] as a half-transparent PNG to lay over the picture; brighter is more."""
    rows, columns = attention.shape
    size = (max(_OVERLAY_SIDE, columns), max(_OVERLAY_SIDE, rows))
    share = attention.astype(np.float32) / max(float(attention.max()), float(np.finfo(np.float32).tiny))
    smooth = np.asarray(Image.fromarray(share).resize(size, Image.Resampling.BICUBIC)).clip(0, 1)
    places = np.linspace(0, 1, len(_HEAT))
    heat = np.stack([np.interp(smooth, places, channel) for channel in _HEAT.T], axis=2)
    return _uri("image/png", _encode(Image.fromarray(heat.round().astype(np.uint8), "RGBA"), "PNG", optimize=True))


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
