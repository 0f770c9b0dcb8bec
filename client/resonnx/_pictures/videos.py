"""Converts clips to messages: files, folders of frames, arrays and other frames."""

import errno
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from resonnx_proto.v1 import vision_pb2

from resonnx._errors import InvalidArgument
from resonnx._pictures.images import (
    MAX_PICTURE_BYTES,
    Array,
    BinaryFile,
    ImageSource,
    Tensor,
    file_content,
    sendable,
    to_message,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

# The server's limits of one request: frames, and bytes of all of them or of a file.
MAX_FRAMES: Final = 4500
MAX_VIDEO_BYTES: Final = MAX_PICTURE_BYTES
# Of a frame on the wire, beside its content, at most.
_FRAME_OVERHEAD: Final = 32
# Selects a folder's pictures.
PICTURE_SUFFIXES: Final = frozenset(
    {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"},
)

VideoSource: TypeAlias = "str | os.PathLike[str] | Buffer | BinaryFile | Array | Tensor | Iterable[ImageSource]"
"""A path of a clip's file or of a folder of frames; the bytes of such a file; an open file of them; or frames: an array
uint8 [T, H, W, C], a torch tensor of this shape or [T, C, H, W], or any pictures."""


def to_video(video: VideoSource, times_s: Iterable[float] | None) -> vision_pb2.VideoFrames | bytes:
    """Convert a clip to frames, or to the bytes of its file.

    Args:
        video: A path of a GIF, WebP, MP4 or WebM file; a path of a folder, whose picture files are the frames, in the
            order of the numbers in their names; a file's contents as `bytes`, `bytearray` or a flat `memoryview`; a
            file opened in binary mode, read from its current position; a uint8 array [T, H, W, C] with 1, 3 or 4
            channels; a uint8 torch tensor of this shape or [T, C, H, W]; or 1 to 4500 pictures, each an ImageSource.
        times_s: The time of each frame in seconds, ascending; None for a file, which has its own.

    Raises:
        OSError: A file cannot be read, or a folder has no pictures.
        TypeError: The clip is none of these, or a frame is no picture.
        ValueError: There are no frames, an array's shape or dtype is wrong, or the times do not fit the frames.
        InvalidArgument: There are more frames or bytes than a request may have; the reason is VIDEO_TOO_LARGE.
    """
    file = _file(video)
    if file is not None:
        if times_s is not None:
            raise ValueError("times_s are those of frames: a clip's file has its own")
        if len(file) > MAX_VIDEO_BYTES:
            _too_large(f"a clip's file of {len(file)} bytes, more than the {MAX_VIDEO_BYTES}")
        return file
    frames = vision_pb2.VideoFrames()
    size = 0
    for number, frame in enumerate(_frames(video)):
        if number == MAX_FRAMES:
            _too_large(f"more than the {MAX_FRAMES} frames", ": send every second one, for example")
        image = frame_message(frame, number)
        size += len(image.encoded) + len(image.raw.rgb) + _FRAME_OVERHEAD
        if size > MAX_VIDEO_BYTES:
            _too_large(
                f"the first {number + 1} frames are {size} bytes, more than the {MAX_VIDEO_BYTES}",
                ": scale the frames down, or send them as JPEG files or as a clip's file",
            )
        frames.images.append(image)
    if not frames.images:
        raise ValueError("a clip has at least one frame, got none")
    if times_s is not None:
        frames.times_s.extend(_checked(times_s, len(frames.images)))
    return frames


def frame_message(frame: ImageSource, number: int) -> vision_pb2.Image:
    """Convert a frame to a message; a TypeError or ValueError names its number."""
    try:
        return to_message(frame)
    except TypeError as error:
        raise TypeError(f"frame {number}: {error}") from None
    except ValueError as error:
        raise ValueError(f"frame {number}: {error}") from None


StreamedFrame: TypeAlias = "ImageSource | tuple[ImageSource, float]"
"""A frame of a stream, or a pair of it and its time in seconds."""


def streamed_frame(frame: StreamedFrame, number: int) -> vision_pb2.ClassifyVideoStreamRequest:
    """Convert a frame of a stream to a message that names no model; errors as of `frame_message` and `sendable`."""
    image, time_s = frame if isinstance(frame, tuple) else (frame, None)
    request = vision_pb2.ClassifyVideoStreamRequest(image=sendable(frame_message(image, number)))
    if time_s is not None:
        request.time_s = float(time_s)
    return request


def frame_files(folder: Path) -> list[Path]:
    """Return the picture files of a folder in the order of the numbers in their names: frame2 before frame10.

    Raises:
        OSError: It cannot be read, or has no pictures.
    """
    found = [path for path in folder.iterdir() if is_picture_name(path.name) and path.is_file()]
    if not found:
        raise IsADirectoryError(errno.EISDIR, no_pictures(), str(folder))
    return sorted(found, key=lambda path: _natural(path.name))


def is_picture_name(name: str) -> bool:
    """Return whether a folder's file counts as a picture: by its suffix, and not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES


def no_pictures() -> str:
    """Return the message of the error for a folder without pictures."""
    return f"a folder without pictures ({', '.join(sorted(PICTURE_SUFFIXES))})"


def _natural(name: str) -> tuple[list[str | int], str]:
    # Every second part is a number, so that parts of one place compare.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))], name


def _file(video: Any) -> bytes | None:
    """Return the bytes of a clip's file; None for frames."""
    if isinstance(video, str | os.PathLike):
        path = Path(video)
        if path.is_dir():
            return None
        # Before its content takes memory.
        if (size := path.stat().st_size) > MAX_VIDEO_BYTES:
            _too_large(f"{path}: a clip's file of {size} bytes, more than the {MAX_VIDEO_BYTES}")
        return _not_empty(path.read_bytes())
    if isinstance(video, bytes | bytearray | memoryview):
        if isinstance(video, memoryview) and (video.ndim != 1 or video.itemsize != 1):
            raise ValueError(f"a memoryview must hold a file's bytes, got shape {list(video.shape or ())}")
        return _not_empty(bytes(video))
    if callable(getattr(video, "read", None)):
        return file_content(video)
    return None


def _frames(video: Any) -> Iterable[ImageSource]:
    if isinstance(video, str | os.PathLike):
        return frame_files(Path(video))
    if callable(getattr(video, "convert", None)) and isinstance(getattr(video, "size", None), tuple):
        raise TypeError("a clip is a file or frames, not a PIL image: give its file, or a list of images")
    shape = getattr(video, "shape", None)
    if shape is not None and len(shape) != 4:
        raise ValueError(f"a clip's array must be [frames, height, width, channels], got {list(shape)}")
    if isinstance(video, Iterable):
        return video
    kind = f"{type(video).__module__}.{type(video).__qualname__}"
    raise TypeError(
        f"a clip is a path, bytes, an open file, a uint8 array [frames, height, width, channels] or pictures, "
        f"not {kind}"
    )


def _checked(times_s: Iterable[float], count: int) -> list[float]:
    times, before = [float(time_s) for time_s in times_s], -math.inf
    if len(times) != count:
        raise ValueError(f"times_s: {len(times)} times of {count} frames")
    for i, time_s in enumerate(times):
        if not before <= time_s < math.inf:
            raise ValueError(f"times_s[{i}]: {time_s:g} is not finite, or below the time before it")
        before = time_s
    return times


def _not_empty(content: bytes) -> bytes:
    if not content:
        raise ValueError("the clip's file is empty")
    return content


def _too_large(what: str, remedy: str = "") -> NoReturn:
    raise InvalidArgument(f"{what} that fit into a message{remedy}", reason="VIDEO_TOO_LARGE", field="video")
