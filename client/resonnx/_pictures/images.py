"""Turns what a caller calls a picture into the message that carries it.

Knows files, arrays, tensors and PIL images by what they can do: imports neither numpy, nor torch, nor Pillow, but for
the last where pixels are too many to travel as they are.
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

# Of a message; the rest is for the request's other fields.
MAX_PICTURE_BYTES = MAX_MESSAGE_BYTES - 2**16


class PillowImage(Protocol):
    """The part of PIL.Image.Image that is used here."""

    @property
    def mode(self) -> str:
        """How its pixels are stored."""

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


class Tensor(Protocol):
    """The part of torch.Tensor that is used here."""

    @property
    def dtype(self) -> Any:
        """The elements' type."""

    def detach(self) -> Any:
        """Give it without its gradient."""


class BinaryFile(Protocol):
    """A file that is open for reading bytes."""

    def read(self) -> bytes:
        """Give all that is left of it."""


ImageSource: TypeAlias = "str | os.PathLike[str] | Buffer | BinaryFile | PillowImage | Array | Tensor"
"""A path; the bytes of a picture file; an open file of such bytes; a PIL image; or uint8 pixels: an array [H, W],
[H, W, 1], [H, W, 3] or [H, W, 4], or a torch tensor of these shapes or with the channels first."""


def to_message(image: ImageSource) -> vision_pb2.Image:
    """Read or wrap a picture. Fast, but for the reading; it may be too large to be sent, see `sendable`.

    Args:
        image: A path (`str` or `Path`), whose bytes are sent as they are; `bytes`, `bytearray` or a
            flat `memoryview` of such a file; a file open in binary mode, read from where it stands; a PIL image of
            any mode, of which alpha is dropped, 16-bit grey keeps its high byte, and an EXIF orientation is not
            applied; an array uint8 whatever its strides, grey [H, W] or [H, W, 1], RGB [H, W, 3] or RGBA [H, W, 4],
            whose alpha is dropped; or a torch tensor uint8 of such a shape, or of [1, H, W], [3, H, W] or [4, H, W].

    Raises:
        OSError: The file cannot be read (FileNotFoundError and its siblings).
        TypeError: None of the above, or a file in text mode.
        ValueError: An array, a tensor or a `memoryview` of another shape or dtype; an open file with nothing left.
    """
    if isinstance(image, str | os.PathLike):
        return vision_pb2.Image(encoded=Path(image).read_bytes())
    if isinstance(image, bytes | bytearray):
        return vision_pb2.Image(encoded=bytes(image))
    if isinstance(image, memoryview):
        if image.ndim != 1 or image.itemsize != 1:
            raise ValueError(f"a memoryview must hold a file's bytes, got {_describe(image)}")
        return vision_pb2.Image(encoded=image.tobytes())
    # Before the buffer protocol: a Pillow image, or a file, may offer both.
    if callable(getattr(image, "convert", None)) and isinstance(getattr(image, "size", None), tuple):
        return _from_pillow(image)
    if callable(getattr(image, "read", None)):
        return _from_file(image)
    if callable(getattr(image, "detach", None)):
        return _from_tensor(image)
    return _from_array(image)


def is_sendable(message: vision_pb2.Image) -> bool:
    """Whether a picture fits into a message as it is."""
    return max(len(message.raw.rgb), len(message.encoded)) <= MAX_PICTURE_BYTES


def sendable(message: vision_pb2.Image) -> vision_pb2.Image:
    """Return the same pixels in a form that fits into a message: as they are, or as a PNG file (seconds, if large).

    Raises:
        InvalidArgument: They do not fit even so, or Pillow is needed and missing; its reason is IMAGE_TOO_LARGE.
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
    # The fastest: it is sent once.
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
        # The same colours, without Pillow's warning.
        image = image.convert("RGBA")
    return _raw(image.convert("RGB").tobytes(), width, height)


def _from_file(file: Any) -> vision_pb2.Image:
    content = file.read()
    if not isinstance(content, bytes | bytearray):
        kind = type(content).__name__
        raise TypeError(f"a picture's file must be open in binary mode ('rb'): read() gave {kind}, not bytes")
    if not content:
        raise ValueError("the open file has nothing left to read: seek(0) first?")
    return vision_pb2.Image(encoded=bytes(content))


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
    # One dimension of bytes is no picture's; in a bytes-like object it might be a file, but so might any numbers.
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
