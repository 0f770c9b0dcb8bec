"""Example picture files, which show whether a server prepares pictures by the recipe."""

import io
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.pictures.images import Pixels

_EXAMPLES_SEED: Final = 1000


def example_files(recipe: pb.ImageInput) -> tuple[bytes, ...]:
    """Make picture files of odd sizes, larger and smaller than the input, affected by every picture option."""
    rng = np.random.default_rng(_EXAMPLES_SEED)
    width, height = recipe.width, recipe.height
    wide = Image.fromarray(smooth(rng, height + 37, 2 * width + 53))
    tall = Image.fromarray(smooth(rng, 2 * height + 91, width + 29))
    small = Image.fromarray(smooth(rng, height // 2 + 3, width // 2 + 6))
    small.putalpha(Image.fromarray(rng.integers(0, 256, (small.height, small.width), np.uint8)))
    # Orientation 6, as of a phone held upright.
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return (
        _save(wide, "JPEG", quality=90),
        _save(tall, "JPEG", quality=75, progressive=True, exif=exif),
        _save(small, "PNG"),
    )


def _save(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def smooth(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Make a picture uint8 [height,width,3] that resembles a blurred photograph."""
    coarse = rng.integers(0, 256, (7, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
