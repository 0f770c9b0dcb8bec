"""Decodes the video on stdin under limits. A script of its own, which loads nothing of the server but PyAV.

Arguments: the folder of PyAV, bytes of memory beside what PyAV takes, seconds of processor time. Stdin has a request,
the file, and later the times of wanted frames; stdout has messages: process.py, the other side, describes them.

Once PyAV is loaded the process can open nothing more, neither files nor sockets, as it may have no further descriptors.
"""

import ctypes
import io
import resource
import signal
import struct
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Final

REQUEST: Final = struct.Struct("<8sQIQ")
MESSAGE: Final = struct.Struct("<cQ")
FRAME: Final = struct.Struct("<IIIi")
TIMES, FRAME_KIND, END, REFUSED = b"T", b"F", b"E", b"R"
DAMAGED, CODEC, MEMORY, SIZE, LENGTH, NO_VIDEO = b"damaged", b"codec ", b"memory", b"size", b"length", b"no video"

# By the names of FFmpeg's decoders.
_DECODERS: Final = ("h264", "hevc", "vp8", "vp9", "libdav1d")
_DEMUXERS: Final = {"mov": "mov,mp4,m4a,3gp,3g2,mj2", "matroska": "matroska,webm"}
# What PyAV would load when it needs it, and then cannot.
_LATER: Final = (
    "av.subtitles.stream",
    "av.subtitles.subtitle",
    "av.video.reformatter",
    "encodings.latin_1",
    "encodings.ascii",
)
# The bit of a VP8 packet's first byte.
_VP8_SHOWN: Final = 0x10
# Decoders count the pixels of whole blocks, and of a margin.
_MARGIN: Final = 256
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


class _Refused(Exception):
    """The clip is not decoded; the argument says why."""


def _limit(memory: int, processor_s: int) -> None:
    """Limit this process, which ends with its parent and is the first to end when the machine lacks memory."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        memory += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for kind, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, processor_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        # macOS does not limit address space.
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, limit))


def _send(kind: bytes, *parts: Any) -> None:
    out = sys.stdout.buffer
    out.write(MESSAGE.pack(kind, sum(len(part) for part in parts)))
    for part in parts:
        out.write(part)
    out.flush()


class _Video:
    """The video of a file, opened anew for each pass over it."""

    def __init__(self, av: Any, content: bytes, demuxer: str, most_pixels: int) -> None:
        self._av = av
        self._content = content
        self._demuxer = demuxer
        self._most_pixels = most_pixels

    def _open(self) -> tuple[Any, Any]:
        # FFmpeg decodes some frames while it opens a file, with decoders of this list only; PyAV's own decoder below
        # does not know it.
        options = {
            "format_whitelist": _DEMUXERS[self._demuxer],
            "codec_whitelist": ",".join(_DECODERS),
            "protocol_whitelist": "none",
        }
        container = self._av.open(io.BytesIO(self._content), format=self._demuxer, options=options)
        stream = max(container.streams.video, key=lambda each: each.width * each.height, default=None)
        if stream is None:
            raise _Refused(NO_VIDEO)
        context = stream.codec_context
        if context.codec.name not in _DECODERS:
            raise _Refused(CODEC + context.codec.name.encode())
        if not 0 < context.width * context.height <= self._most_pixels:
            raise _Refused(SIZE)
        return container, stream

    def times(self, most_frames: int) -> tuple[Any, list[int]]:
        """Return the unit of times in seconds, and the frames' times, ascending, without decoding."""
        container, stream = self._open()
        with container:
            times: set[int] = set()
            is_vp8 = stream.codec_context.codec.name == "vp8"
            for packet in container.demux(stream):
                # VP8 has packets of frames that are never shown: what others are predicted from (RFC 6386, 9.1).
                is_hidden = is_vp8 and packet.size and not memoryview(packet)[0] & _VP8_SHOWN
                if packet.size and packet.pts is not None and not packet.is_discard and not is_hidden:
                    times.add(packet.pts)
                if len(times) > most_frames:
                    raise _Refused(LENGTH)
            return stream.time_base, sorted(times)

    def send_frames(self, wanted: list[int]) -> None:
        """Send the first frame at or after each of the times, which ascend."""
        container, stream = self._open()
        context = stream.codec_context
        context.thread_type, context.thread_count = "NONE", 1
        sides = (context.width + _MARGIN) * (context.height + _MARGIN)
        context.options = {"max_pixels": str(sides), "err_detect": "explode"}
        with container:
            left = iter(wanted)
            time = next(left)
            for packet in container.demux(stream):
                for frame in packet.decode():
                    if frame.pts is None or frame.pts < time:
                        continue
                    if frame.is_corrupt:
                        raise _Refused(DAMAGED)
                    if frame.width * frame.height > self._most_pixels:
                        raise _Refused(SIZE)
                    # Decoders leave out frames whose references are not in the file: the next one stands for them.
                    while time <= frame.pts:
                        _send_frame(frame)
                        try:
                            time = next(left)
                        except StopIteration:
                            return
        raise _Refused(DAMAGED)


def _send_frame(frame: Any) -> None:
    shown = frame.reformat(format="rgb24", threads=1)
    plane = shown.planes[0]
    head = FRAME.pack(shown.width, shown.height, plane.line_size, frame.rotation)
    _send(FRAME_KIND, head, memoryview(plane)[: plane.line_size * shown.height])


def _serve(av: Any) -> None:
    given = sys.stdin.buffer
    demuxer, size, most_frames, most_pixels = REQUEST.unpack(given.read(REQUEST.size))
    video = _Video(av, given.read(size), demuxer.rstrip(b"\0").decode(), most_pixels)
    base, times = video.times(most_frames)
    _send(TIMES, struct.pack("<QQ", base.numerator, base.denominator), struct.pack(f"<{len(times)}q", *times))
    (count,) = struct.unpack("<Q", given.read(8))
    video.send_frames(list(struct.unpack(f"<{count}q", given.read(8 * count))))
    _send(END)


def main(folder: str, memory: int, processor_s: int) -> None:
    """Decode one clip."""
    sys.path.append(folder)
    import av

    for name in _LATER:
        import_module(name)
    _limit(memory, processor_s)
    try:
        _serve(av)
    except _Refused as error:
        _send(REFUSED, error.args[0])
    except (MemoryError, av.error.MemoryError):
        _send(REFUSED, MEMORY)
    except Exception:  # FFmpeg's errors are many
        _send(REFUSED, DAMAGED)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
