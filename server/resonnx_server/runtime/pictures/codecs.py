"""Decodes picture files with the Pillow plug-in of the format in the header, and no other."""

import io
from collections.abc import Callable
from importlib import import_module
from typing import Final

import numpy as np
from PIL import Image, ImageFile

from resonnx_server.errors import BadImage
from resonnx_server.runtime.pictures.file_kinds import damaged
from resonnx_server.runtime.pictures.headers import Header

_PLUGINS: Final = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WebP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
}
_16_BIT_GREY: Final = "I;16"


def decode_by_pillow(encoded: bytes, head: Header, divisor: int, field: str) -> Image.Image:
    """Decode a picture file by the plug-in of its format.

    Args:
        encoded: The file.
        head: Its header; a plug-in that finds another size is stopped before it decodes.
        divisor: Reduction of a JPEG file's sides: 1, 2, 4 or 8.
        field: The request's field, for messages.

    Returns:
        An RGB image, whose `info` has the EXIF block as "exif".

    Raises:
        BadImage: The file is damaged or incomplete.
    """
    try:
        with _opener(head.format)(io.BytesIO(encoded)) as image:
            if image.size not in _sizes(head):
                raise damaged(encoded, field)
            if divisor > 1:
                # `draft` reduces to at least this size, sides rounded up.
                image.draft("RGB", (max(1, head.width // divisor), max(1, head.height // divisor)))
            image.load()
            # Alpha is dropped, also a palette's, about which Pillow would warn.
            image.info.pop("transparency", None)
            if head.format == "PNG" and image.mode.startswith(_16_BIT_GREY):
                return _from_16_bit_grey(image)
            return image.convert("RGB")
    except (BadImage, MemoryError):
        raise
    except Exception:
        # Plug-ins parse untrusted bytes and may raise anything.
        raise damaged(encoded, field) from None


def _sizes(head: Header) -> tuple[tuple[int, int], ...]:
    size = (head.width, head.height)
    # Pillow reports a TIFF file's size after turning it upright.
    return (size, size[::-1]) if head.format == "TIFF" else (size,)


def _opener(name: str) -> Callable[[io.BytesIO], ImageFile.ImageFile]:
    """Return a format's plug-in, loaded on first use."""
    module, plugin = _PLUGINS[name]
    loaded = import_module(module)
    if name == "AVIF":
        # Pictures are decoded in parallel on all cores already.
        loaded.DEFAULT_MAX_THREADS = 1  # type: ignore[attr-defined]
    opener: Callable[[io.BytesIO], ImageFile.ImageFile] = getattr(loaded, plugin)
    return opener


def _from_16_bit_grey(image: Image.Image) -> Image.Image:
    high = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    high.info = image.info
    return high
