"""Decodes clips off the event loop: limits by the headers first, then on the threads and in the memory of pictures."""

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from resonnx_server.errors import BadClip
from resonnx_server.preprocessing.clips import animated_webp, gif
from resonnx_server.preprocessing.clips.animation import Animation
from resonnx_server.preprocessing.clips.animations import BYTES_A_PIXEL, read_animation
from resonnx_server.preprocessing.clips.limits import ClipLimits, TimeLimit, check_sampled
from resonnx_server.preprocessing.clips.sampling import Sampling
from resonnx_server.preprocessing.decode import Decoder, Plan
from resonnx_server.runtime.pictures.file_kinds import kind_of
from resonnx_server.runtime.pictures.headers import Header
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.pictures.options import RAW, PictureOptions, decoding_bytes
from resonnx_server.scheduling.deadline_admission import Decoding

# Files whose headers are read on the event loop: some 0.1 ms.
_READ_AT_ONCE: Final = 1 << 18
_ACCEPTED: Final = "accepted clips are animated GIF and WebP"


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


@dataclass(slots=True)
class ClipPlan:
    """A clip of a request whose headers are within the limits, and how it is decoded."""

    encoded: bytes
    name: str
    options: PictureOptions
    animation: Animation
    indices: list[int]
    work: Plan
    limit: TimeLimit = field(repr=False)

    @property
    def most_frames(self) -> int:
        """Frames that are read of it, at most: each takes height * width * 3 bytes of the model's size."""
        return len(self.indices)


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
        self, encoded: bytes, options: PictureOptions, sampling: Sampling, max_frames: int, field: str
    ) -> ClipPlan:
        """Read a clip's headers, and choose its frames.

        Args:
            encoded: The file.
            options: The model's picture options; its formats, sides and pixels limit clips as well.
            sampling: The model's rule.
            max_frames: The most frames of a clip that the model reads, after sampling.
            field: The request's field, for messages.

        Raises:
            BadClip: It is not of an accepted format, damaged, or over a limit.
        """
        self.limits.check_bytes(encoded, field)
        read = partial(self._plan, encoded, options, sampling, max_frames, field)
        return read() if len(encoded) <= _READ_AT_ONCE else await asyncio.to_thread(read)

    def expected(self, plan: ClipPlan, priority: int, caller: str = "") -> Decoding:
        """Return the predicted time to decode a clip of a caller's request that comes now."""
        return self._decoder.predicted([plan.work], priority, caller)

    async def load(self, plan: ClipPlan, priority: int, caller: str = "") -> Clip:
        """Decode a clip, once for each plan. If the task is cancelled, the decoding ends at the next frame.

        Raises:
            BadClip: It is damaged, or differs from its headers.
            ClipTooCostly: It takes too much time or memory.
            Unavailable: The server stops.
        """
        limit = plan.limit
        self._running.add(limit)
        try:
            return await self._decoder.run(partial(_read, plan), plan.work, priority, caller)
        except asyncio.CancelledError:
            limit.stop()
            raise
        finally:
            self._running.discard(limit)

    def stop(self) -> None:
        """Let the clips end that are being decoded: their requests fail with Unavailable."""
        for limit in self._running:
            limit.stop()

    def _plan(
        self, encoded: bytes, options: PictureOptions, sampling: Sampling, max_frames: int, field: str
    ) -> ClipPlan:
        animation = self._animation(encoded, options, field)
        width, height = animation.width, animation.height
        count = len(animation.durations_ms)
        self.limits.check_canvas(width, height, options, field)
        self.limits.check_frames(count, field)
        indices = sampling.indices(animation.times_s)
        check_sampled(len(indices), sampling, max_frames, field)
        # Frames before the last one that is read are needed to compose it.
        decoded = indices[-1] + 1
        self.limits.check_pixels(width, height, decoded, field)
        nbytes = decoding_bytes(Header(RAW, width, height), options) + BYTES_A_PIXEL * width * height
        self._check_memory(width, height, nbytes, field)
        work = Plan(Header(f"{animation.format} clip", width, height * decoded), 1, nbytes)
        limit = TimeLimit(self.limits.max_decode_s, field)
        return ClipPlan(encoded, field, options, animation, indices, work, limit)

    def _animation(self, encoded: bytes, options: PictureOptions, field: str) -> Animation:
        """Return what the headers announce."""
        most = self.limits.max_frames
        if encoded.startswith((b"GIF87a", b"GIF89a")):
            name, read = "GIF", gif.read
        elif encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
            name, read = "WebP", animated_webp.read
        else:
            raise BadClip(field, f"{kind_of(encoded)}; {_ACCEPTED}")
        if name not in options.formats:
            raise BadClip(field, f"{kind_of(encoded)}, which the server's `formats` do not allow")
        if isinstance(animation := read(encoded, most), str):
            raise BadClip(field, f"{kind_of(encoded)}, and {animation}")
        return animation

    def _check_memory(self, width: int, height: int, nbytes: int, field: str) -> None:
        largest = self._decoder.largest
        if largest is not None and nbytes > largest:
            needs = f"frames of {width}x{height} pixels take {nbytes} bytes to decode"
            raise BadClip(field, f"{needs}; memory_budget_bytes leaves {largest} to the decoder. Send smaller frames")


def _read(plan: ClipPlan) -> Clip:
    plan.limit.start()
    frames = read_animation(plan.encoded, plan.animation, plan.indices, plan.options, plan.name, plan.limit)
    times_s = plan.animation.times_s
    return Clip(frames, [times_s[index] for index in plan.indices], len(times_s))
