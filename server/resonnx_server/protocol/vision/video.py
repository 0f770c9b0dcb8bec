"""The task API's calls for videos: requests to the use cases, and results to messages."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from resonnx_proto.v1 import vision_pb2 as pb

from resonnx_server.access.caller import Caller
from resonnx_server.errors import BadImage, InvalidInput, NotSupported
from resonnx_server.inference.pictures import AnyPictures, Frames, Pictures, RawPicture
from resonnx_server.inference.registry import Model
from resonnx_server.inference.requests import ActiveRequest, Inference
from resonnx_server.inference.tasks import VIDEO
from resonnx_server.inference.videos.clips import Classified, check_frames, classify_clips, video_engine
from resonnx_server.inference.videos.file import VideoFile
from resonnx_server.inference.videos.sampled import sampled, sampling_of
from resonnx_server.inference.videos.stream import VideoStream
from resonnx_server.protocol.vision.answers import complete

# Frames of a request, before sampling: an event loop reads them in some tens of ms.
MOST_IMAGES: Final = 4500
_DEFAULT_TOP_K: Final = 5


@dataclass(frozen=True, slots=True)
class VideoFields:
    """What errors name.

    Attributes:
        images: The frames; one is named by its index, `images[17]`.
        encoded: Follows the name of a frame that is a file.
        times_s: The times of frames.
    """

    images: str = "frames.images"
    encoded: str = ".encoded"
    times_s: str = "frames.times_s"


@dataclass(frozen=True, slots=True)
class GivenVideo:
    """A video of a request.

    Attributes:
        images: Its frames as picture files or raw pixels; None for one that is neither.
        times_s: Their times in seconds; may be empty.
        clip: A video file in place of frames; None for frames.
        fields: What errors name; those of the gRPC message if not given.
    """

    images: Sequence[bytes | RawPicture | None] = ()
    times_s: Sequence[float] = ()
    clip: bytes | None = None
    fields: VideoFields = VideoFields()


class VideoServing:
    """The calls for videos over the loaded models.

    Args:
        inference: The use cases.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def classify(
        self, message: pb.ClassifyVideoRequest, video: GivenVideo, size: int, caller_ns: int | None, caller: Caller
    ) -> pb.ClassifyVideoResponse:
        """Return the best classes of a whole video.

        Args:
            message: The request, whose video is apart.
            video: Its video.
            size: Bytes of the request.
            caller_ns: The call's deadline, monotonic ns; None if it has none.
            caller: Who calls.

        Raises:
            ServerError: The request is refused, or fails.
        """
        self._inference.models.check(message.model, caller)
        version = message.version_label or message.version
        with (
            self._inference.limited(caller),
            self._inference.begin(message.model, version, size, VIDEO, caller=caller, identifier=message.id) as request,
        ):
            model = request.model
            top_k = _top_k(model, message.top_k)
            _needs_pictures(model)
            request.limit(caller_ns, message.timeout_us, caller.priority(message.priority))
            # To read the packets of a file may take a child process, and long.
            read, frames = await request.in_time(self._frames(request, video))
            found = await classify_clips(request, frames, [len(read)])
            response = pb.ClassifyVideoResponse(predictions=_predictions(found, model, top_k), frames_read=read)
        complete(response, message.id, request)
        return response

    async def _frames(self, request: ActiveRequest, video: GivenVideo) -> tuple[list[int], AnyPictures]:
        """Return the indices of the frames that a model reads, and these frames, within its limits.

        Raises:
            InvalidInput: The video has too many frames or none, or times that do not fit.
            BadClip: A file is none that can be read.
        """
        model = request.model
        assert model.manifest is not None
        assert model.pictures is not None
        sampling = sampling_of(model.manifest.video_classifier)
        if video.clip is None:
            read = sampled(sampling, len(video.images), video.times_s, video.fields.times_s)
            check_frames(model, len(read), video.fields.images)
            return read, _frames(video, read)
        clips = self._inference.clips
        assert clips is not None
        most = video_engine(model).max_frames
        start_ns = time.monotonic_ns()
        plan = await clips.plan(video.clip, model.pictures, sampling, most, "clip", request.priority, request.caller)
        request.decode_ns = time.monotonic_ns() - start_ns
        return plan.indices, VideoFile(clips, plan)

    def stream(
        self, message: pb.ClassifyVideoStreamRequest, caller_ns: int | None, caller: Caller
    ) -> "VideoStreamServing":
        """Return a new stream, given its first message; arguments and errors as of `classify`."""
        self._inference.models.check(message.model, caller)
        model = self._inference.models.find(message.model, message.version_label or message.version, VIDEO, caller)
        return VideoStreamServing(self._inference, model, message, caller_ns, caller)


class VideoStreamServing:
    """One stream of frames, a context manager.

    Args:
        inference: The use cases.
        model: Reads the frames.
        first: The stream's first message.
        caller_ns: The call's deadline, monotonic ns; None if it has none.
        caller: Who calls.

    Raises:
        ServerError: There can be no such stream.
    """

    def __init__(
        self,
        inference: Inference,
        model: Model,
        first: pb.ClassifyVideoStreamRequest,
        caller_ns: int | None,
        caller: Caller,
    ) -> None:
        self._rejected = inference.models.rejected
        with self._rejected.counting():
            self._top_k = _top_k(model, first.top_k)
            _needs_pictures(model)
            self._stream = VideoStream(inference, model, caller.name)
        self._first, self._caller_ns, self._caller = first, caller_ns, caller
        self._limit = inference.limited(caller)

    def __enter__(self) -> Self:
        """Begin. Raises MemorySpent, or RateLimited."""
        with ExitStack() as stack:
            stack.enter_context(self._limit)
            with self._rejected.counting():
                stack.enter_context(self._stream)
            self._held = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()

    async def read(
        self, message: pb.ClassifyVideoStreamRequest, picture: Callable[[], Pictures], size: int
    ) -> pb.ClassifyVideoStreamResponse | None:
        """Read the next frame; return the answer after it, if one is due. Calls begin in the order of the frames.

        Args:
            message: The frame's message.
            picture: Returns its picture.
            size: Bytes of the message.

        Raises:
            ServerError: The frame is refused, or fails: the stream must end.
        """
        turn = self._stream.turn(message.time_s if message.HasField("time_s") else None)
        if turn is None:
            return None
        with self._stream.request(size, self._first.id) as request:
            first = self._first
            request.limit(self._caller_ns, first.timeout_us, self._caller.priority(first.priority))
            try:
                found = await self._stream.read(request, picture(), turn)
            except InvalidInput as error:
                error.field = f"{error.field} of frame {turn.index}"
                error.message = f"frame {turn.index}: {error.message}"
                raise
        if found is None or turn.number % (first.answer_every or 1):
            return None
        return self._answer(found, request, turn.number, turn.index)

    async def finish(self) -> pb.ClassifyVideoStreamResponse:
        """Return the last answer, once all frames have been read. Raises InvalidInput if there were none."""
        last, stream = self._stream.last, self._stream
        if last is None:
            raise InvalidInput("image", "the stream has no frames")
        await last.done.wait()
        if stream.is_stepwise:
            assert stream.latest is not None
            response = self._answer(stream.latest, None, last.number, last.index)
        else:
            with stream.request(0, self._first.id) as request:
                request.limit(self._caller_ns, self._first.timeout_us, self._caller.priority(self._first.priority))
                found = await stream.finish(request)
            response = self._answer(found, request, last.number, last.index)
        response.is_final = True
        return response

    def _answer(
        self, found: Classified, request: ActiveRequest | None, number: int, index: int
    ) -> pb.ClassifyVideoStreamResponse:
        model = self._stream.model
        predictions = _predictions(found, model, self._top_k)
        response = pb.ClassifyVideoStreamResponse(predictions=predictions, frames_read=number, frame=index)
        response.model, response.version, response.id = model.name, model.version, self._first.id
        if request is not None:
            complete(response, self._first.id, request)
        return response


def _frames(video: GivenVideo, read: Sequence[int]) -> Frames:
    fields = video.fields
    chosen: list[bytes | RawPicture] = []
    names = []
    for i in read:
        if (image := video.images[i]) is None:
            raise BadImage(f"{fields.images}[{i}]", "neither encoded nor raw is set")
        chosen.append(image)
        names.append(f"{fields.images}[{i}]{'.raw' if isinstance(image, RawPicture) else fields.encoded}")
    return Frames(chosen, names)


def _needs_pictures(model: Model) -> None:
    """Raise NotSupported if a model's input are features."""
    if model.pictures is None:
        raise NotSupported(
            f"model {model.name!r} takes features of frames, not pictures. Send FP32 [N,T,D] by the tensor protocol"
        )


def _top_k(model: Model, given: int) -> int:
    assert model.manifest is not None
    classes = len(model.manifest.video_classifier.labels)
    if given > classes:
        raise InvalidInput("top_k", f"{given} is not within 0..{classes}")
    return given or min(_DEFAULT_TOP_K, classes)


def _predictions(found: Classified, model: Model, top_k: int) -> list[pb.Prediction]:
    """Return the best classes of one clip, best first; equal ones by their index."""
    assert model.manifest is not None
    labels, probabilities = model.manifest.video_classifier.labels, found.probabilities[0]
    best = np.lexsort((np.arange(len(probabilities)), -probabilities))[:top_k]
    return [
        pb.Prediction(label=labels[index], index=index, score=float(probabilities[index])) for index in best.tolist()
    ]
