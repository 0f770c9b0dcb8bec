"""MP4 and WebM files for tests, made with PyAV."""

import io
from collections.abc import Callable

import av
import numpy as np
from PIL import Image

_CODECS = {"mp4": "libx264", "webm": "libvpx-vp9"}


def video(pictures: list[Image.Image], format: str = "mp4", codec: str = "", rate: int = 25, **options: str) -> bytes:
    """Return a video file of pictures, at `rate` frames a second."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream(codec or _CODECS[format], rate=rate, options=options)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture.convert("RGB"))))
        container.mux(stream.encode())
    return buffer.getvalue()


def changed(encoded: bytes, format: str, change: Callable[[int, bytearray, bool], bytearray | None]) -> bytes:
    """Return a video whose packets are `change(number, content, is a key frame)`; None leaves one out."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(encoded)) as given, av.open(buffer, "w", format=format) as container:
        source = given.streams.video[0]
        stream = container.add_stream_from_template(source)
        for number, packet in enumerate(given.demux(source)):
            content = change(number, bytearray(bytes(packet)), packet.is_keyframe) if packet.size else None
            if content is not None:
                other = av.Packet(bytes(content))
                other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
                other.is_keyframe, other.stream = packet.is_keyframe, stream
                container.mux(other)
    return buffer.getvalue()


def frames_of(encoded: bytes) -> list[Image.Image]:
    """Return all frames as PyAV shows them."""
    with av.open(io.BytesIO(encoded)) as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def noise(count: int, size: tuple[int, int]) -> list[Image.Image]:
    """Return pictures that take a decoder long."""
    rng = np.random.default_rng(1)
    return [Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)) for _ in range(count)]
