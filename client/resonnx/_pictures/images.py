"""Converts files, arrays, tensors and PIL images to messages.

Types are recognised by their methods, without importing numpy or torch; Pillow is imported to compress large pictures.
"""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from resonnx_proto.v1 import vision_pb2

from resonnx._errors import InvalidArgument
from resonnx._pictures.pixels import grey_16_bit, interleaved, layout, planes
from resonnx._transport.channel import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from typing_extensions import Buffer

# The rest of a message is for the request's other fields.
MAX_PICTURE_BYTES = MAX_MESSAGE_BYTES - 2**16


class PillowImage(Protocol):
    """The used part of PIL.Image.Image."""

    @property
    def mode(self) -> str:
        """Mode, e.g. "RGB"."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""

    def convert(self, mode: str) -> Any:
        """Return the picture in another mode."""


class Array(Protocol):
    """A numpy array, which type checkers accept as a Buffer only from Python 3.12."""

    @property
    def __array_interface__(self) -> Any:
        """Location of the elements."""


class Tensor(Protocol):
    """The used part of torch.Tensor."""

    @property
    def dtype(self) -> Any:
        """Type of the elements."""

    def detach(self) -> Any:
        """Return the tensor without its gradient."""


class BinaryFile(Protocol):
    """A file opened in binary mode."""

    def read(self) -> bytes:
        """Return the rest of the file."""


ImageSource: TypeAlias = "str | os.PathLike[str] | Buffer | BinaryFile | PillowImage | Array | Tensor"
"""A path; the bytes of a picture file; an open file of such bytes; a PIL image; or uint8 pixels: an array [H, W],
[H, W, 1], [H, W, 3] or [H, W, 4], or a torch tensor of these shapes or with the channels first."""


def to_message(image: ImageSource) -> vision_pb2.Image:
    """Convert a picture to a message, which may still be too large, see `sendable`.

    Alpha channels are dropped.

    Args:
        image: A path of a picture file; its contents as `bytes`, `bytearray` or a flat `memoryview`; a file opened in
            binary mode, read from its current position; a PIL image of any mode (of 16-bit grey the high byte is
            used, and the EXIF orientation is not applied); a uint8 array with any strides of shape [H, W], [H, W, 1],
            [H, W, 3] or [H, W, 4]; or a uint8 torch tensor of these shapes or [1, H, W], [3, H, W] or [4, H, W].

    Raises:
        OSError: The file cannot be read.
        TypeError: The argument is none of these, or a file in text mode.
        ValueError: The shape or the dtype is wrong, or the open file is at its end.
    """
    if isinstance(image, str | os.PathLike):
        return vision_pb2.Image(encoded=Path(image).read_bytes())
    if isinstance(image, bytes | bytearray):
        return vision_pb2.Image(encoded=bytes(image))
    if isinstance(image, memoryview):
        if image.ndim != 1 or image.itemsize != 1:
            raise ValueError(f"a memoryview must hold a file's bytes, got {_describe(image)}")
        return vision_pb2.Image(encoded=image.tobytes())
    # Checked before the buffer protocol, which Pillow images and files may support too.
    if callable(getattr(image, "convert", None)) and isinstance(getattr(image, "size", None), tuple):
        return _from_pillow(image)
    if callable(getattr(image, "read", None)):
        return vision_pb2.Image(encoded=file_content(image))
    if callable(getattr(image, "detach", None)):
        return _from_tensor(image)
    return _from_array(image)


def is_sendable(message: vision_pb2.Image) -> bool:
    """Return whether a picture fits into a message."""
    return max(len(message.raw.rgb), len(message.encoded)) <= MAX_PICTURE_BYTES


def sendable(message: vision_pb2.Image) -> vision_pb2.Image:
    """Return the picture, compressed as PNG if its pixels do not fit into a message, which can take seconds.

    Raises:
        InvalidArgument: It does not fit as PNG either, or Pillow is not installed; the reason is IMAGE_TOO_LARGE.
    """
    if is_sendable(message):
        return message
    raw = message.raw
    if not raw.rgb:
        raise _too_large(f"a picture file of {len(message.encoded)} bytes")
    pixels = f"{raw.width}x{raw.height} pixels are {len(raw.rgb)} bytes"
    try:
        from PIL import Image
    except ImportError:
        raise _too_large(pixels, "; with Pillow (pip install 'resonnx[images]') they would go as PNG") from None
    file = io.BytesIO()
    # The fastest compression, as the file is sent only once.
    Image.frombytes("RGB", (raw.width, raw.height), raw.rgb).save(file, "PNG", compress_level=1)
    encoded = vision_pb2.Image(encoded=file.getvalue())
    if not is_sendable(encoded):
        raise _too_large(f"{pixels}, as PNG {len(encoded.encoded)}", ": scale the picture down, or send a JPEG file")
    return encoded


def _from_pillow(image: Any) -> vision_pb2.Image:
    width, height = image.size
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _raw(grey_16_bit(image), width, height)
    if image.mode == "P" and "transparency" in getattr(image, "info", ()):
        # Avoids Pillow's warning; the colours are the same.
        image = image.convert("RGBA")
    return _raw(image.convert("RGB").tobytes(), width, height)


def file_content(file: Any) -> bytes:
    """Return the rest of an open file; raises TypeError if it is open in text mode, ValueError if nothing is left."""
    content = file.read()
    if not isinstance(content, bytes | bytearray):
        kind = type(content).__name__
        raise TypeError(f"the file must be open in binary mode ('rb'): read() gave {kind}, not bytes")
    if not content:
        raise ValueError("the open file has nothing left to read: seek(0) first?")
    return bytes(content)


def _from_tensor(tensor: Any) -> vision_pb2.Image:
    found = f"{tensor.dtype} {list(tensor.shape)}"
    shape = layout(tuple(tensor.shape), tensor=True)
    if str(tensor.dtype) != "torch.uint8":
        raise ValueError(
            f"a tensor must be uint8, 0 to 255, got {found}: give the picture as it is before scaling and normalising"
        )
    if shape is None:
        raise ValueError(
            f"a tensor must be uint8 [height, width] or, with 1, 3 or 4 channels, [channels, height, width] or "
            f"[height, width, channels], and not both at once, got {found}"
        )
    height, width, channels, first = shape
    pixels = tensor.detach().cpu().numpy().tobytes()
    return _raw((planes if first else interleaved)(pixels, channels), width, height)


def _from_array(array: Any) -> vision_pb2.Image:
    try:
        view = memoryview(array)
    except TypeError:
        kind = f"{type(array).__module__}.{type(array).__qualname__}"
        raise TypeError(
            f"a picture is a path, bytes, an open file, a PIL image, a uint8 array or tensor, not {kind}"
        ) from None
    shape = layout(view.shape or (), tensor=False)
    # A flat array of bytes is ambiguous: a file's contents or any other numbers.
    if view.format != "B" or shape is None:
        raise ValueError(
            f"an array must be uint8 [height, width] or [height, width, 1, 3 or 4 channels], got {_describe(view)}"
        )
    height, width, channels, _ = shape
    return _raw(interleaved(view.tobytes(), channels), width, height)


def _raw(rgb: bytes, width: int, height: int) -> vision_pb2.Image:
    return vision_pb2.Image(raw=vision_pb2.Image.Raw(rgb=rgb, width=width, height=height))


def _too_large(what: str, remedy: str = "") -> InvalidArgument:
    return InvalidArgument(
        f"{what}, more than the {MAX_PICTURE_BYTES} that fit into a message{remedy}",
        reason="IMAGE_TOO_LARGE",
        field="image",
    )


def _describe(view: memoryview) -> str:
    dtype = getattr(view.obj, "dtype", f"format {view.format!r}")
    return f"{dtype} {list(view.shape or ())}"
