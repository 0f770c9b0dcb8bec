"""resonnx.v1.Vision: messages to requests of inference/, and results back to messages."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final

from grpc import StatusCode
from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1 import vision_pb2_grpc

from resonnx_server.access.caller import Caller
from resonnx_server.errors import BadImage, InvalidInput, ServerError
from resonnx_server.inference.pictures import EncodedPictures, Pictures, RawPicture
from resonnx_server.inference.requests import Inference
from resonnx_server.observe.requests.identity import IDENTITY
from resonnx_server.protocol.pieces import Pieces
from resonnx_server.protocol.vision.serving import VisionServing
from resonnx_server.protocol.vision.video import VideoServing
from resonnx_server.rpc.boundary import (
    Context,
    StreamContext,
    counted,
    deadline_ns,
    one_status,
    outcome_of_part,
    pushback_ms,
)
from resonnx_server.rpc.pipeline import pipeline
from resonnx_server.rpc.vision.models import get_model, list_models
from resonnx_server.rpc.vision.picture_request import PictureRequest
from resonnx_server.rpc.vision.video_request import VideoRequest

EmitEvent = Callable[[pb.StreamCaptionResponse], None]
Message = pb.ClassifyRequest | pb.CaptionRequest | pb.ClassifyVideoStreamRequest
_Frame = PictureRequest[pb.ClassifyVideoStreamRequest]

# Frames of one stream that are read before their answers are put.
_FRAMES_AHEAD: Final = 16


class VisionServicer(vision_pb2_grpc.VisionServicer):
    """The task API over the loaded models.

    Args:
        inference: The use cases.
        max_message_bytes: Limit of a request.
        pieces: The thread that makes large answers.
        model_details: GetModel tells sources and versions of tools.

    Attributes:
        rejected: Counts calls that end with an error that no model counts.
    """

    def __init__(
        self, inference: Inference, max_message_bytes: int, pieces: Pieces, *, model_details: bool = True
    ) -> None:
        self._serving = VisionServing(inference, pieces)
        self._videos = VideoServing(inference)
        self._models = inference.models
        self.rejected = inference.models.rejected
        self._max_message_bytes = max_message_bytes
        self._get_model = partial(
            get_model, models=inference.models, max_message_bytes=max_message_bytes, details=model_details
        )

    @one_status
    async def Classify(  # noqa: N802
        self, request: PictureRequest[pb.ClassifyRequest], context: Context
    ) -> pb.ClassifyResponse:
        """Labels and scores of one picture."""
        return await self._classify(request, deadline_ns(context), context.caller)

    @counted
    async def ClassifyStream(  # noqa: N802
        self, requests: AsyncIterator[PictureRequest[pb.ClassifyRequest]], context: StreamContext
    ) -> None:
        """Classify many pictures; one that fails does not end the stream."""
        deadline = deadline_ns(context)

        async def answer(given: PictureRequest[pb.ClassifyRequest], emit: object) -> pb.ClassifyStreamResponse:
            message = given.message
            try:
                response = await self._classify(given, deadline, context.caller)
            except Exception as error:  # the boundary of one request of the stream
                # The error holds this frame: kept in it, both would live until garbage is collected.
                return _failed(message, *outcome_of_part(error, "ClassifyStream", context))
            return pb.ClassifyStreamResponse(id=message.id, response=response)

        await pipeline(requests, answer, context, self._models.closing)

    @one_status
    async def Caption(  # noqa: N802
        self, request: PictureRequest[pb.CaptionRequest], context: Context
    ) -> pb.CaptionResponse:
        """The caption of one picture."""
        return await self._caption(request, None, deadline_ns(context), context.caller)

    @one_status
    async def StreamCaption(  # noqa: N802
        self, request: PictureRequest[pb.CaptionRequest], context: StreamContext
    ) -> None:
        """Words of the best caption as they join its stable prefix, then the whole answer."""
        deadline = deadline_ns(context)

        async def answer(message: PictureRequest[pb.CaptionRequest], emit: EmitEvent) -> pb.StreamCaptionResponse:
            return pb.StreamCaptionResponse(final=await self._caption(message, emit, deadline, context.caller))

        # Its only request is read at once: it is under way.
        await pipeline(_single(request), answer, context, asyncio.Event())

    @one_status
    async def ClassifyVideo(self, request: VideoRequest, context: Context) -> pb.ClassifyVideoResponse:  # noqa: N802
        """Labels and scores of a whole video."""
        size = min(request.size, self._max_message_bytes)
        deadline = deadline_ns(context)
        return await self._videos.classify(request.message, request.video, size, deadline, context.caller)

    @one_status
    async def ClassifyVideoStream(  # noqa: N802
        self, requests: AsyncIterator[PictureRequest[pb.ClassifyVideoStreamRequest]], context: StreamContext
    ) -> None:
        """Labels and scores of a video while its frames come; a frame that fails ends the stream."""
        first = await anext(requests, None)
        if first is None:
            with self.rejected.counting():
                raise InvalidInput("model", "the stream has no message")
        with self._videos.stream(first.message, deadline_ns(context), context.caller) as stream:

            async def answer(given: _Frame | None, emit: object) -> pb.ClassifyVideoStreamResponse | None:
                if given is None:
                    return await stream.finish()
                return await stream.read(given.message, partial(_picture, given), self._size(given))

            frames = _to_the_end(first, requests)
            closing = self._models.closing
            await pipeline(frames, answer, context, closing, _FRAMES_AHEAD, in_order=lambda _: True)

    @one_status
    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: N802
        """Every model of the repository; of a refused one, the reason."""
        return list_models(self._models, context.caller)

    @one_status
    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:  # noqa: N802
        """A model's manifest, and how it is served."""
        self._models.check(request.model, context.caller)
        version = request.version_label or request.version
        return self._get_model(self._models.find(request.model, version, caller=context.caller))

    def _classify(
        self, given: PictureRequest[pb.ClassifyRequest], caller_ns: int | None, caller: Caller
    ) -> Awaitable[pb.ClassifyResponse]:
        return self._serving.classify(given.message, partial(_picture, given), self._size(given), caller_ns, caller)

    def _caption(
        self, given: PictureRequest[pb.CaptionRequest], emit: EmitEvent | None, caller_ns: int | None, caller: Caller
    ) -> Awaitable[pb.CaptionResponse]:
        on_word = None if emit is None else partial(_emit_word, emit)
        size = self._size(given)
        return self._serving.caption(given.message, partial(_picture, given), size, caller_ns, caller, on_word)

    def _size(self, given: PictureRequest[Any]) -> int:
        """Estimate a request's bytes: for the exact number, protobuf would serialize it."""
        message: Message = given.message
        # Raw pixels that do not fit width and height are refused later.
        raw = message.image.raw
        size = len(given.encoded or b"") + 3 * raw.width * raw.height + len(message.model) + len(message.id)
        if isinstance(message, pb.CaptionRequest):
            size += sum(map(len, (*message.prefix, *message.forbidden_words)))
        return min(size, self._max_message_bytes)


async def _to_the_end(first: _Frame, later: AsyncIterator[_Frame]) -> AsyncIterator[_Frame | None]:
    """Yield the frames of a stream, and None after them."""
    if first.message.HasField("image") or first.encoded is not None:
        yield first
    # The generator lives as long as the stream, and must not keep its first frame.
    del first
    async for each in later:
        yield each
    yield None


async def _single(request: PictureRequest[pb.CaptionRequest]) -> AsyncIterator[PictureRequest[pb.CaptionRequest]]:
    yield request


def _picture(given: PictureRequest[Any]) -> Pictures:
    """Return a request's picture."""
    if given.encoded is not None:
        return EncodedPictures([given.encoded], "image.encoded", numbered=False)
    image = given.message.image
    if image.WhichOneof("content") == "raw":
        return RawPicture(image.raw.rgb, image.raw.width, image.raw.height, "image.raw")
    raise BadImage("image", "neither encoded nor raw is set")


def _emit_word(emit: EmitEvent, word: pb.Word) -> None:
    emit(pb.StreamCaptionResponse(word=word))


def _failed(message: pb.ClassifyRequest, code: StatusCode, error: ServerError) -> pb.ClassifyStreamResponse:
    """Return the answer to a request of a stream that failed."""
    known = pb.Error(code=code.name, reason=error.reason, message=error.message, retry_after_ms=pushback_ms(error))
    if (identity := IDENTITY.get()) is not None:
        known.request_id = identity.id
    return pb.ClassifyStreamResponse(id=message.id, error=known)
