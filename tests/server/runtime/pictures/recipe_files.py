"""Pictures, files of them, and what the training recipe makes of those."""

import io

import numpy as np
from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.runtime.pictures import images

RNG = np.random.default_rng(3)
NOISE = RNG.integers(0, 256, (37, 53, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(NOISE).resize((317, 211), Image.Resampling.BICUBIC))
CROP = ImageInput(
    width=24,
    height=20,
    resize=ImageInput.RESIZE_SHORT_SIDE_CROP,
    resize_short_side=28,
    filter=ImageInput.FILTER_BILINEAR,
)
STRETCH = ImageInput(width=24, height=20, resize=ImageInput.RESIZE_STRETCH, filter=ImageInput.FILTER_BICUBIC)


def file_of(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def by_recipe(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def by_server(file: bytes) -> np.ndarray:
    return np.asarray(images.decode(file))
