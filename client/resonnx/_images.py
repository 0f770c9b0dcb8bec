"""Turns what a caller calls a picture into the message that carries it.

Knows arrays and PIL images by what they can do: imports neither numpy nor Pillow.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from resonnx_proto.v1 import vision_pb2

if TYPE_CHECKING:
    from typing_extensions import Buffer


class PillowImage(Protocol):
    """The part of PIL.Image.Image that is used here."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""

    def convert(self, mode: str) -> Any:
        """Give the picture in another mode."""


class Array(Protocol):
    """A numpy array to a type checker, whose Buffer it is only from Python 3.12 on."""

    @property
    def __array_interface__(self) -> Any:
        """Where the elements are; read as a buffer here."""


ImageSource: TypeAlias = "str | os.PathLike[str] | Buffer | Array | PillowImage"
"""A path; the bytes of a JPEG, PNG or WebP file; a PIL image; or a uint8 array [H, W, 3], RGB."""


def to_message(image: ImageSource) -> vision_pb2.Image:
    """Read or wrap a picture.

    Args:
        image: A path (`str` or `Path`), whose bytes are sent as they are; `bytes`, `bytearray` or a
            flat `memoryview` of such a file; a PIL image of any mode; or an array uint8 [H, W, 3]
            in RGB order, whatever its strides.

    Raises:
        OSError: The file cannot be read (FileNotFoundError and its siblings).
        TypeError: None of the above.
        ValueError: An array, or a `memoryview`, of another shape or dtype.
    """
    if isinstance(image, str | os.PathLike):
        return vision_pb2.Image(encoded=Path(image).read_bytes())
    if isinstance(image, bytes | bytearray):
        return vision_pb2.Image(encoded=bytes(image))
    if isinstance(image, memoryview):
        if image.ndim != 1 or image.itemsize != 1:
            raise ValueError(f"a memoryview must hold a file's bytes, got {_describe(image)}")
        return vision_pb2.Image(encoded=image.tobytes())
    # Before the buffer protocol: a Pillow image may offer both.
    if callable(getattr(image, "convert", None)) and isinstance(getattr(image, "size", None), tuple):
        width, height = image.size  # type: ignore[union-attr]
        return _raw(image.convert("RGB").tobytes(), width, height)  # type: ignore[union-attr]
    try:
        view = memoryview(image)  # type: ignore[arg-type]
    except TypeError:
        kind = f"{type(image).__module__}.{type(image).__qualname__}"
        raise TypeError(f"a picture is a path, bytes, a PIL image or a uint8 array, not {kind}") from None
    shape = view.shape or ()
    if view.format != "B" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise ValueError(f"an array must be uint8 [height, width, 3], got {_describe(view)}")
    height, width, _ = shape
    return _raw(view.tobytes(), width, height)


def _raw(rgb: bytes, width: int, height: int) -> vision_pb2.Image:
    return vision_pb2.Image(raw=vision_pb2.Image.Raw(rgb=rgb, width=width, height=height))


def _describe(view: memoryview) -> str:
    dtype = getattr(view.obj, "dtype", f"format {view.format!r}")
    return f"{dtype} {list(view.shape or ())}"
