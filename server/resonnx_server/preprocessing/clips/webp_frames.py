"""Composes the frames of a WebP file with the libwebpdemux in Pillow's wheel, without the GIL, and else with Pillow.

Pillow's own plug-in holds the GIL while it decodes a frame.
"""

import ctypes
import io
from collections.abc import Container, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import PIL
from PIL import Image

_ABI: Final = 0x0107
_RGBA: Final = 1


class _Data(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_char_p), ("size", ctypes.c_size_t))


class _Options(ctypes.Structure):
    _fields_ = (("color_mode", ctypes.c_int), ("use_threads", ctypes.c_int), ("padding", ctypes.c_uint32 * 7))


class _Info(ctypes.Structure):
    _fields_ = (
        ("canvas_width", ctypes.c_uint32),
        ("canvas_height", ctypes.c_uint32),
        ("loop_count", ctypes.c_uint32),
        ("bgcolor", ctypes.c_uint32),
        ("frame_count", ctypes.c_uint32),
        ("padding", ctypes.c_uint32 * 4),
    )


def webp_canvases(encoded: bytes, size: tuple[int, int], wanted: Container[int]) -> Iterator[Image.Image | None]:
    """Yield the canvas after each frame, as RGB if it is wanted and else None.

    Args:
        encoded: The file.
        size: Width and height of the canvas, from the header.
        wanted: Indices of frames.

    Raises:
        ValueError: The file is damaged. Pillow's plug-in, which is used without the library, may raise anything.
    """
    library = _library()
    if library is None:
        from PIL.WebPImagePlugin import WebPImageFile

        with WebPImageFile(io.BytesIO(encoded)) as image:
            for index in range(image.n_frames):
                image.seek(index)
                image.load()
                yield image.convert("RGB") if index in wanted else None
        return
    options, info = _Options(), _Info()
    if not library.WebPAnimDecoderOptionsInitInternal(ctypes.byref(options), _ABI):
        raise ValueError("another version of libwebpdemux")
    options.color_mode, options.use_threads = _RGBA, 0
    # The decoder reads the file until it is deleted.
    data = _Data(encoded, len(encoded))
    decoder = ctypes.c_void_p(
        library.WebPAnimDecoderNewInternal(ctypes.byref(data), ctypes.byref(options), ctypes.c_int(_ABI))
    )
    if not decoder:
        raise ValueError("damaged")
    try:
        library.WebPAnimDecoderGetInfo(decoder, ctypes.byref(info))
        if (info.canvas_width, info.canvas_height) != size:
            raise ValueError("another size than in the header")
        canvas, ends_ms = ctypes.c_void_p(), ctypes.c_int()
        for index in range(info.frame_count):
            if not library.WebPAnimDecoderGetNext(decoder, ctypes.byref(canvas), ctypes.byref(ends_ms)):
                raise ValueError("damaged")
            if index not in wanted:
                yield None
                continue
            assert canvas.value is not None
            pixels = (ctypes.c_ubyte * (4 * size[0] * size[1])).from_address(canvas.value)
            yield Image.frombytes("RGB", size, memoryview(pixels), "raw", "RGBX", 0, 1)
    finally:
        library.WebPAnimDecoderDelete(decoder)


@cache
def _library() -> Any:
    """Return libwebpdemux; None if Pillow does not ship it as a separate file."""
    package = Path(PIL.__file__).parent
    found = [*package.parent.glob("pillow.libs/libwebpdemux-*.so*"), *package.glob(".dylibs/libwebpdemux.[0-9]*.dylib")]
    if not found:
        return None
    library = ctypes.CDLL(str(found[0]))
    library.WebPAnimDecoderNewInternal.restype = ctypes.c_void_p
    return library
