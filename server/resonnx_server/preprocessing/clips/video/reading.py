"""Reads the sampled frames of an MP4 or WebM file, each resized as a picture as soon as it is decoded."""

import math
from typing import Final

import numpy as np
from PIL import Image

from resonnx_server.errors import BadClip, BadImage
from resonnx_server.preprocessing.clips.limits import ClipLimits, TimeLimit
from resonnx_server.preprocessing.clips.video.containers import VideoHeader
from resonnx_server.preprocessing.clips.video.process import VideoProcess
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.runtime.pictures.orientation import upright

_DEMUXERS: Final = {"MP4": "mov", "WebM": "matroska"}
# EXIF's names for how a frame is turned, counter-clockwise in degrees, to be upright.
_TURNS: Final = {90: 8, -90: 6, 180: 3, -180: 3}
# Python with PyAV, buffers, and tables of decoders.
_BASE_BYTES: Final = 64 << 20
# Of a decoder's pixel: 16 reference frames and some more of 1.5 bytes, and a frame as RGB.
_BYTES_A_PIXEL: Final = 48


def child_bytes(header: VideoHeader, encoded: bytes) -> int:
    """Return the memory that the child process may take to decode a file."""
    return _BASE_BYTES + 2 * len(encoded) + _BYTES_A_PIXEL * header.width * header.height


def read_times(
    encoded: bytes, header: VideoHeader, limits: ClipLimits, field: str, limit: TimeLimit
) -> tuple[float, list[int]]:
    """Return the times of a video's frames, without decoding them; arguments and errors as of `read_video`."""
    limit.start()
    with _process(encoded, header, limits, field, limit) as process:
        demuxer, most_pixels = _DEMUXERS[header.format], header.width * header.height
        unit_s, times = process.times(encoded, demuxer, limits.max_frames, most_pixels)
    if not times:
        raise BadClip(field, "a video without frames")
    return unit_s, times


def read_video(
    encoded: bytes,
    header: VideoHeader,
    wanted: list[int],
    options: PictureOptions,
    limits: ClipLimits,
    field: str,
    limit: TimeLimit,
) -> Pixels:
    """Decode a video's sampled frames.

    Args:
        encoded: The file.
        header: Its header, within the limits.
        wanted: Times of the frames, ascending, among those of `read_times`.
        options: The model's picture options.
        limits: The most that a clip may have.
        field: The request's field, for messages.
        limit: The time to decode it.

    Returns:
        uint8 [len(wanted),H,W,3] of the model's size, RGB.

    Raises:
        BadClip: It is damaged, over a limit, or has a codec that is not accepted.
        ClipTooCostly: It takes too much time or memory.
        NotSupported: PyAV is not installed.
    """
    limit.start()
    most_pixels = header.width * header.height
    pixels = np.empty((len(wanted), options.recipe.height, options.recipe.width, 3), np.uint8)
    with _process(encoded, header, limits, field, limit) as process:
        process.times(encoded, _DEMUXERS[header.format], limits.max_frames, most_pixels)
        frames = process.frames(wanted, most_pixels)
        for place, (rows, width, height, line, rotation) in enumerate(frames):
            image = Image.frombuffer("RGB", (width, height), rows, "raw", "RGB", line, 1)
            turn = _TURNS.get(rotation, 1) if options.applies_exif else 1
            image, shown = upright(image, (0, 0, width, height), turn)
            try:
                pixels[place] = images.fit(
                    image, options.recipe, field, shown=shown, max_pixels=options.max_resized_pixels
                )
            except BadImage as error:
                raise BadClip(field, error.message.removeprefix(f"{field}: ")) from None
    return pixels


def _process(encoded: bytes, header: VideoHeader, limits: ClipLimits, field: str, limit: TimeLimit) -> VideoProcess:
    return VideoProcess(child_bytes(header, encoded), math.ceil(limits.max_decode_s) + 1, field, limit)
