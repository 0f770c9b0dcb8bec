"""Decodes clips off the event loop: limits by the headers first, then on the threads and in the memory of pictures."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from resonnx_server.errors import BadClip
from resonnx_server.preprocessing.clips import animated_webp, gif
from resonnx_server.preprocessing.clips.animation import Animation
from resonnx_server.preprocessing.clips.animations import BYTES_A_PIXEL, read_animation
from resonnx_server.preprocessing.clips.limits import ClipLimits, TimeLimit, check_sampled
from resonnx_server.preprocessing.clips.sampling import Sampling
from resonnx_server.preprocessing.clips.video import containers
from resonnx_server.preprocessing.clips.video.containers import VideoHeader
from resonnx_server.preprocessing.clips.video.process import check_installed
from resonnx_server.preprocessing.clips.video.reading import child_bytes, read_times, read_video
from resonnx_server.preprocessing.decode import Decoder, Plan
from resonnx_server.runtime.pictures.file_kinds import kind_of
from resonnx_server.runtime.pictures.headers import Header
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.pictures.options import RAW, PictureOptions, decoding_bytes
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.sharing import DEFAULT_PRIORITY

T = TypeVar("T")

# Files whose headers are read on the event loop: some 0.1 ms.
_READ_AT_ONCE: Final = 1 << 18
_ACCEPTED: Final = "accepted clips are animated GIF and WebP and, with the server's extra `video`, MP4 and WebM"


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames of a clip that a model reads.

    Attributes:
        frames: uint8 [T,H,W,3] of the model's size, RGB.
        times_s: When each begins, in seconds from the clip's first frame.
        count: Frames of the file, before sampling.
    """

    frames: Pixels
    times_s: list[float]
    count: int


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of ClipDecoder.plan."""

    encoded: bytes
    options: PictureOptions
    sampling: Sampling
    max_frames: int
    field: str


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """A clip that is within the limits, and how it is decoded.

    Attributes:
        indices: Of the frames that are read of it; each takes height * width * 3 bytes of the model's size.
        work: Its memory, and what its time is learnt by.
        limit: The time to decode it.
        read: Decodes it, on a thread.
    """

    indices: list[int]
    work: Plan
    limit: TimeLimit
    read: Callable[[], Clip]


class ClipDecoder:
    """Decodes clips, in the order of their requests' priorities among pictures.

    Args:
        decoder: Whose threads and memory are used.
        limits: The most that a clip may have.
    """

    def __init__(self, decoder: Decoder, limits: ClipLimits | None = None) -> None:
        self._decoder = decoder
        self.limits = limits or ClipLimits()
        self._running: set[TimeLimit] = set()

    async def plan(
        self,
        encoded: bytes,
        options: PictureOptions,
        sampling: Sampling,
        max_frames: int,
        field: str,
        priority: int = DEFAULT_PRIORITY,
        caller: str = "",
    ) -> ClipPlan:
        """Read a clip's headers, and choose its frames; a child process reads the packets' times of MP4 and WebM.

        Args:
            encoded: The file.
            options: The model's picture options; its formats, sides and pixels limit clips as well.
            sampling: The model's rule.
            max_frames: The most frames of a clip that the model reads, after sampling.
            field: The request's field, for messages.
            priority: 1 (first) to sharing.PRIORITY_LEVELS.
            caller: Whose clip it is.

        Raises:
            BadClip: It is not of an accepted format, damaged, or over a limit.
            ClipTooCostly: To read its packets takes too much time or memory.
            NotSupported: It is MP4 or WebM, and the extra for these is not installed.
        """
        self.limits.check_bytes(encoded, field)
        request = _Request(encoded, options, sampling, max_frames, field)
        if containers.is_mp4(encoded) or containers.is_webm(encoded):
            return await self._plan_video(request, priority, caller)
        read = partial(self._plan_animation, request)
        return read() if len(encoded) <= _READ_AT_ONCE else await asyncio.to_thread(read)

    def expected(self, plan: ClipPlan, priority: int, caller: str = "") -> Decoding:
        """Return the predicted time to decode a clip of a caller's request that comes now."""
        return self._decoder.predicted([plan.work], priority, caller)

    async def load(self, plan: ClipPlan, priority: int, caller: str = "") -> Clip:
        """Decode a clip, once for each plan. If the task is cancelled, the decoding ends at the next frame.

        Raises:
            BadClip: It is damaged, over a limit that its header does not tell, or differs from its header.
            ClipTooCostly: It takes too much time or memory.
            Unavailable: The server stops.
        """
        return await self._run(plan.read, plan.work, plan.limit, priority, caller)

    async def _run(self, read: Callable[[], T], work: Plan, limit: TimeLimit, priority: int, caller: str) -> T:
        self._running.add(limit)
        try:
            return await self._decoder.run(read, work, priority, caller)
        except asyncio.CancelledError:
            limit.stop()
            raise
        finally:
            self._running.discard(limit)

    def stop(self) -> None:
        """Let the clips end that are being decoded: their requests fail with Unavailable."""
        for limit in self._running:
            limit.stop()

    def _plan_animation(self, request: _Request) -> ClipPlan:
        encoded, options, field = request.encoded, request.options, request.field
        limit = TimeLimit(self.limits.max_decode_s, field)
        if encoded.startswith((b"GIF87a", b"GIF89a")):
            name, read = "GIF", gif.read
        elif encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
            name, read = "WebP", animated_webp.read
        else:
            raise BadClip(field, f"{kind_of(encoded)}; {_ACCEPTED}")
        if name not in options.formats:
            raise BadClip(field, f"{kind_of(encoded)}, which the server's `formats` do not allow")
        if isinstance(animation := read(encoded, self.limits.max_frames), str):
            raise BadClip(field, f"{kind_of(encoded)}, and {animation}")
        width, height, times_s = animation.width, animation.height, animation.times_s
        self.limits.check_canvas(width, height, options, field)
        self.limits.check_frames(len(times_s), field)
        indices = self._indices(request, times_s, width, height)
        more = BYTES_A_PIXEL * width * height
        work = self._work(f"{name} clip", width, height, indices[-1] + 1, more, request)
        return ClipPlan(indices, work, limit, partial(_read_animation, request, animation, indices, limit))

    async def _plan_video(self, request: _Request, priority: int, caller: str) -> ClipPlan:
        encoded, field, limits = request.encoded, request.field, self.limits
        check_installed()
        if isinstance(header := containers.read(encoded), str):
            raise BadClip(field, f"{kind_of(encoded)}, and {header}")
        width, height, more = header.width, header.height, child_bytes(header, encoded)
        limits.check_canvas(width, height, request.options, field)
        limits.check_frames(header.frames, field)
        limit = TimeLimit(limits.max_decode_s, field)
        # The time to read packets depends on the file's length.
        work = self._work(f"{header.format} packets", width, height, 1, more, request)
        read = partial(read_times, encoded, header, limits, field, limit)
        unit_s, times = await self._run(read, work, limit, priority, caller)
        times_s = [(time - times[0]) * unit_s for time in times]
        indices = self._indices(request, times_s, width, height)
        work = self._work(f"{header.format} clip", width, height, indices[-1] + 1, more, request)
        return ClipPlan(
            indices, work, limit, partial(_read_video, request, header, limits, limit, times, times_s, indices)
        )

    def _indices(self, request: _Request, times_s: list[float], width: int, height: int) -> list[int]:
        """Return the frames that are read. Raises BadClip if they, or those before the last, are too many."""
        indices = request.sampling.indices(times_s)
        check_sampled(len(indices), request.sampling, request.max_frames, request.field)
        # Frames before the last one that is read are needed to decode it.
        self.limits.check_pixels(width, height, indices[-1] + 1, request.field)
        return indices

    def _work(self, kind: str, width: int, height: int, count: int, more: int, request: _Request) -> Plan:
        """Return the plan of `count` frames whose decoder takes `more` bytes. Raises BadClip if it never fits."""
        nbytes = decoding_bytes(Header(RAW, width, height), request.options) + more
        largest = self._decoder.largest
        if largest is not None and nbytes > largest:
            needs = f"frames of {width}x{height} pixels take {nbytes} bytes to decode"
            raise BadClip(
                request.field,
                f"{needs}; memory_budget_bytes leaves {largest} to the decoder. Send smaller frames",
            )
        return Plan(Header(kind, width, height * count), 1, nbytes)


def _read_animation(request: _Request, animation: Animation, indices: list[int], limit: TimeLimit) -> Clip:
    limit.start()
    frames = read_animation(request.encoded, animation, indices, request.options, request.field, limit)
    times_s = animation.times_s
    return Clip(frames, [times_s[index] for index in indices], len(times_s))


def _read_video(
    request: _Request,
    header: VideoHeader,
    limits: ClipLimits,
    limit: TimeLimit,
    times: list[int],
    times_s: list[float],
    indices: list[int],
) -> Clip:
    wanted = [times[index] for index in indices]
    frames = read_video(request.encoded, header, wanted, request.options, limits, request.field, limit)
    return Clip(frames, [times_s[index] for index in indices], len(times))
