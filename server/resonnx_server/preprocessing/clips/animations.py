"""Decodes the frames of animated pictures that are read; the frames before them are decoded as well, and dropped.

A frame is what viewers show: composed on the earlier ones, as Pillow's `seek` and `convert("RGB")` give it. Runs on
decode threads. The decoders release the GIL; Pillow's parsing of a GIF frame's header does not, for some microseconds.
"""

import io
from collections.abc import Container, Iterator, Sequence

import numpy as np
from PIL import Image, ImageFile

from resonnx_server.errors import BadClip, BadImage, ServerError
from resonnx_server.preprocessing.clips.animation import Animation
from resonnx_server.preprocessing.clips.limits import TimeLimit
from resonnx_server.preprocessing.clips.webp_frames import webp_canvases
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.file_kinds import kind_of
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.runtime.pictures.orientation import orientation, upright

# Peak bytes of a canvas's pixel beside resizing: canvases, what disposal restores, a frame, and its copy as RGB
# (tests/server/preprocessing/clips/test_clip_memory.py).
BYTES_A_PIXEL = 26


def read_animation(
    encoded: bytes, animation: Animation, indices: Sequence[int], options: PictureOptions, field: str, limit: TimeLimit
) -> Pixels:
    """Decode an animated picture's frames at `indices`, which ascend, and resize each as a picture.

    Args:
        encoded: The file.
        animation: What its headers announce.
        indices: Of the frames that are read.
        options: The model's picture options.
        field: The request's field, for messages.
        limit: The time to decode it.

    Returns:
        uint8 [len(indices), recipe.height, recipe.width, 3], RGB.

    Raises:
        BadClip: It is damaged, or its headers announce something else than the decoder finds.
        ClipTooCostly: It takes too long.
    """
    size = (animation.width, animation.height)
    turn = orientation(animation.exif) if options.applies_exif else 1
    canvases = _gif_canvases if animation.format == "GIF" else webp_canvases
    pixels = np.empty((len(indices), options.recipe.height, options.recipe.width, 3), np.uint8)
    places = {index: place for place, index in enumerate(indices)}
    last = indices[-1]
    decoded = 0
    try:
        for index, canvas in enumerate(canvases(encoded, size, places)):
            limit.check()
            if canvas is not None:
                image, shown = upright(canvas, (0, 0, *size), turn)
                pixels[places[index]] = images.fit(
                    image, options.recipe, field, shown=shown, max_pixels=options.max_resized_pixels
                )
            decoded = index + 1
            if index == last:
                return pixels
    except BadImage as error:
        raise BadClip(field, error.message.removeprefix(f"{field}: ")) from None
    except Exception as error:
        # Plug-ins parse untrusted bytes and may raise anything.
        if isinstance(error, ServerError | MemoryError):
            raise
    raise BadClip(field, f"{kind_of(encoded)} that is damaged or incomplete at frame {decoded}")


def _gif_canvases(encoded: bytes, size: tuple[int, int], wanted: Container[int]) -> Iterator[Image.Image | None]:
    """Yield the canvas after each frame, as RGB if it is wanted and else None."""
    from PIL.GifImagePlugin import GifImageFile

    image: ImageFile.ImageFile
    with GifImageFile(io.BytesIO(encoded)) as image:
        index = 0
        while image.size == size:
            image.load()
            yield image.convert("RGB") if index in wanted else None
            index += 1
            image.seek(index)
    raise ValueError("another size than in the header")
