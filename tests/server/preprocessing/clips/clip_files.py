"""Animated pictures for tests, made with Pillow, and how Pillow shows them."""

import io
import struct

import numpy as np
from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions

RECIPE = ImageInput(
    width=24,
    height=20,
    resize=ImageInput.RESIZE_SHORT_SIDE_CROP,
    resize_short_side=26,
    filter=ImageInput.FILTER_BILINEAR,
)
OPTIONS = PictureOptions(RECIPE)


def moving(count: int, size: tuple[int, int] = (48, 40), *, clear: bool = False) -> list[Image.Image]:
    """Return pictures of a square that moves over a background, which is transparent if `clear`."""
    width, height = size
    background = np.random.default_rng(1).integers(0, 255, (height, width, 4), np.uint8)
    background[..., 3] = 0 if clear else 255
    pictures = []
    for i in range(count):
        pixels = background.copy()
        left, top = i * 5 % (width - 10), i * 3 % (height - 10)
        pixels[top : top + 10, left : left + 10] = (250, 20 * i % 256, 10, 255)
        pictures.append(Image.fromarray(pixels))
    return pictures


def animated(pictures: list[Image.Image], format: str, **options: object) -> bytes:
    """Return an animated picture; 40 ms a frame unless `duration` says otherwise."""
    buffer = io.BytesIO()
    first, *others = pictures
    settings = {"duration": 40, "loop": 0} | ({"lossless": True} if format == "WEBP" else {}) | options
    first.save(buffer, format, save_all=True, append_images=others, **settings)
    return buffer.getvalue()


def shown(encoded: bytes, indices: list[int], options: PictureOptions = OPTIONS) -> np.ndarray:
    """Return frames as Pillow's `seek` and `convert("RGB")` show them, resized as pictures are."""
    frames = []
    with Image.open(io.BytesIO(encoded)) as image:
        for index in indices:
            image.seek(index)
            frames.append(images.fit(image.convert("RGB"), options.recipe))
    return np.stack(frames)


def gif(frames: list[bytes], width: int = 8, height: int = 8, *, trailer: bool = True) -> bytes:
    """Write a GIF file of parts made by `frame`, with two colours."""
    start = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes((0, 0, 0, 255, 255, 255))
    return start + b"".join(frames) + b";" * trailer


def frame(left: int = 0, top: int = 0, width: int = 8, height: int = 8, *, disposal: int = 0, delay: int = 4) -> bytes:
    """Return one frame of a GIF file: a control block, then pixels of colour 1 to which LZW needs no table."""
    control = b"!\xf9\x04" + struct.pack("<BHBB", disposal << 2, delay, 0, 0)
    codes = [*[code for _ in range(width * height) for code in (4, 1)], 5]
    bits = sum(code << 3 * i for i, code in enumerate(codes))
    data = bits.to_bytes(-(-3 * len(codes) // 8), "little")
    blocks = b"".join(bytes((len(part),)) + part for part in (data[i : i + 255] for i in range(0, len(data), 255)))
    return control + b"," + struct.pack("<HHHHBB", left, top, width, height, 0, 2) + blocks + b"\0"
