"""The server's side of the child process that decodes a video; one process for each clip, so that none sees another's.

Its answers are not trusted either: sizes are compared with what was reserved before memory is allocated.

    server → child   REQUEST (demuxer, bytes of the file, most frames, most pixels of a frame), the file
    child → server   TIMES: the unit of times as a fraction of seconds, and the time of each frame, int64
    server → child   the number of wanted frames, and their times
    child → server   a FRAME for each (width, height, bytes of a row, rotation; rows of RGB), END
    child → server   at any time REFUSED, with the reason
"""

import os
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from resonnx_server.errors import BadClip, ClipTooCostly, NotSupported
from resonnx_server.preprocessing.clips.limits import TimeLimit
from resonnx_server.preprocessing.clips.video import child

# How often a wait looks whether the clip is still wanted.
_LOOK_MS: Final = 100
_PIECE: Final = 1 << 20
_HOW_TO_INSTALL: Final = (
    "MP4 and WebM need the server's extra `video`, which is not installed: pip install 'resonnx-server[video]'; "
    "animated GIF and WebP are always read"
)


def check_installed() -> None:
    """Raise NotSupported if PyAV is not installed."""
    _folder_of_pyav()


@cache
def _folder_of_pyav() -> str:
    """Return the folder that PyAV is installed in, which is not loaded here. Raises as `check_installed`."""
    spec = find_spec("av")
    if spec is None or spec.origin is None:
        raise NotSupported(_HOW_TO_INSTALL)
    return str(Path(spec.origin).parents[1])


class VideoProcess:
    """A child process, killed at the end of the `with` block.

    Args:
        memory: What it may take beside PyAV, in bytes.
        processor_s: Seconds of processor time that it may take.
        field: The request's field, for messages.
        limit: The time that it may take.

    Raises:
        NotSupported: PyAV is not installed.
    """

    def __init__(self, memory: int, processor_s: int, field: str, limit: TimeLimit) -> None:
        self._memory = memory
        self._field = field
        self._limit = limit
        # Isolated, without site-packages: nothing is loaded but Python and PyAV.
        arguments = (child.__file__, _folder_of_pyav(), str(memory), str(processor_s))
        # A session of its own: a Ctrl-C in the terminal is for the server.
        self._process = subprocess.Popen(  # noqa: S603  our own script, and numbers
            [sys.executable, "-I", "-S", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
            env={},
            cwd="/",
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.__exit__(kind, error, trace)

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def times(self, encoded: bytes, demuxer: str, most_frames: int, most_pixels: int) -> tuple[float, list[int]]:
        """Return the unit of times in seconds and the frames' times, ascending, at most one for each of `most_frames`.

        Args:
            encoded: The file.
            demuxer: "mov" or "matroska".
            most_frames: Most frames of the file.
            most_pixels: Most pixels of a frame.

        Raises:
            BadClip: It is damaged or over a limit, or has a codec that is not accepted.
            ClipTooCostly: It takes too much time or memory.
        """
        self._write(child.REQUEST.pack(demuxer.encode(), len(encoded), most_frames, most_pixels))
        self._write(encoded)
        kind, size = self._message()
        if kind != child.TIMES or not 16 <= size <= 16 + 8 * most_frames or size % 8:
            raise self._ended()
        content = self._read(size)
        numerator, denominator = struct.unpack_from("<QQ", content)
        times = struct.unpack_from(f"<{size // 8 - 2}q", content, 16)
        if not denominator or list(times) != sorted(times):
            raise self._ended()
        return numerator / denominator, list(times)

    def frames(self, wanted: list[int], most_pixels: int) -> Iterator[tuple[bytearray, int, int, int, int]]:
        """Yield rows of RGB, width, height, bytes of a row and rotation of the frames at `wanted`, which ascend.

        Raises as `times` does.
        """
        self._write(struct.pack(f"<Q{len(wanted)}q", len(wanted), *wanted))
        for _ in wanted:
            kind, size = self._message()
            # Rows are padded to 64 bytes or so.
            if kind != child.FRAME_KIND or size < child.FRAME.size:
                raise self._ended()
            width, height, line, rotation = child.FRAME.unpack(self._read(child.FRAME.size))
            if not (0 < width * height <= most_pixels and 3 * width <= line <= 3 * width + 512):
                raise self._ended()
            if size != child.FRAME.size + line * height:
                raise self._ended()
            yield self._read(line * height), width, height, line, rotation

    def _message(self) -> tuple[bytes, int]:
        """Return the kind of the next message and its size; raise if the child refused the clip."""
        kind, size = child.MESSAGE.unpack(self._read(child.MESSAGE.size))
        if kind == child.REFUSED and size < 100:
            raise self._refused(bytes(self._read(size)))
        return kind, size

    def _refused(self, reason: bytes) -> Exception:
        if reason == child.MEMORY:
            return ClipTooCostly(self._field, f"it takes more than {self._memory} bytes of memory to decode")
        if reason.startswith(child.CODEC):
            codec = reason.removeprefix(child.CODEC).decode("ascii", "replace")
            return BadClip(self._field, f"its codec is {codec!r}; accepted are H.264, HEVC, VP8, VP9 and AV1")
        why = {
            child.SIZE: "its frames are larger than its header announces",
            child.LENGTH: "it has more frames than a clip may have before sampling",
            child.NO_VIDEO: "it has no video track",
        }
        return BadClip(self._field, why.get(reason, "a video that is damaged or incomplete"))

    def _ended(self) -> Exception:
        """Return the error for a child that crashed, was ended by its limits, or answers what it must not."""
        self._process.kill()
        status = self._process.wait()
        if status == -signal.SIGXCPU:
            return ClipTooCostly(self._field, "it takes too much processor time to decode")
        return BadClip(self._field, "a video that is damaged: its decoder ended without an answer")

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            self._wait(self._to, select.POLLOUT)
            try:
                view = view[os.write(self._to, view[:_PIECE]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                # It may have refused the clip already.
                return

    def _read(self, size: int) -> bytearray:
        content = bytearray(size)
        view = memoryview(content)
        while view:
            self._wait(self._from, select.POLLIN)
            try:
                count = os.readv(self._from, [view])
            except BlockingIOError:
                continue
            if not count:
                raise self._ended()
            view = view[count:]
        return content

    def _wait(self, descriptor: int, event: int) -> None:
        """Wait until a pipe is ready. Raises as TimeLimit.check."""
        poll = select.poll()
        poll.register(descriptor, event)
        while True:
            self._limit.check()
            if poll.poll(min(_LOOK_MS, 1000 * max(0.001, self._limit.left_s))):
                return
