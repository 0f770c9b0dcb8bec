"""resonnx.v1.Vision: messages to requests of inference/, and results back to messages."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from resonnx_proto.v1 import vision_pb2 as pb
from resonnx_proto.v1 import vision_pb2_grpc

from resonnx_server.errors import BadImage, InvalidInput
from resonnx_server.inference.caption import caption, captioner
from resonnx_server.inference.classify import classify
from resonnx_server.inference.requests import Inference, checked_priority
from resonnx_server.inference.tasks import CAPTION, CLASSIFY
from resonnx_server.preprocessing.decode import EncodedPictures, Pictures, RawPicture
from resonnx_server.rpc.boundary import Context, StreamContext, deadline_ns, one_status, outcome_of
from resonnx_server.rpc.decode_options import decode_options
from resonnx_server.rpc.pieces import Pieces, at_once
from resonnx_server.rpc.pipeline import pipeline
from resonnx_server.rpc.vision.answers import caption_response, classify_response, complete, failed, word_emitter
from resonnx_server.rpc.vision.models import get_model, list_models

EmitEvent = Callable[[pb.StreamCaptionResponse], None]
Message = pb.ClassifyRequest | pb.CaptionRequest

_DEFAULT_TOP_K: Final = 5
# Classes of an answer that is made on the event loop: a few ms.
_MANY_CLASSES: Final = 1 << 10


class VisionServicer(vision_pb2_grpc.VisionServicer):
    """The task API over the loaded models.

    Args:
        inference: The use cases.
        max_message_bytes: Of a request.
        pieces: Where large answers are made.
    """

    def __init__(self, inference: Inference, max_message_bytes: int, pieces: Pieces) -> None:
        self._inference = inference
        self._models = inference.models
        self._max_message_bytes = max_message_bytes
        self._pieces = pieces

    @one_status
    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:  # noqa: N802
        """Labels and scores of one picture."""
        return await self._classify(request, deadline_ns(context, time.monotonic_ns()))

    @one_status
    async def ClassifyStream(  # noqa: N802
        self, requests: AsyncIterator[pb.ClassifyRequest], context: StreamContext
    ) -> None:
        """Classify many pictures; one that fails does not end the stream."""
        deadline = deadline_ns(context, time.monotonic_ns())

        async def answer(message: pb.ClassifyRequest, emit: object) -> pb.ClassifyStreamResponse:
            try:
                response = await self._classify(message, deadline)
            except Exception as error:  # the boundary of one request of the stream
                # The error holds this frame: kept in it, both would live until garbage is collected.
                return failed(message, *outcome_of(error, "ClassifyStream"))
            return pb.ClassifyStreamResponse(id=message.id, response=response)

        await pipeline(requests, answer, context, self._models.closing)

    @one_status
    async def Caption(self, request: pb.CaptionRequest, context: Context) -> pb.CaptionResponse:  # noqa: N802
        """The caption of one picture."""
        return await self._caption(request, None, deadline_ns(context, time.monotonic_ns()))

    @one_status
    async def StreamCaption(self, request: pb.CaptionRequest, context: StreamContext) -> None:  # noqa: N802
        """Words of the best caption as they become certain, then the whole answer."""
        deadline = deadline_ns(context, time.monotonic_ns())

        async def answer(message: pb.CaptionRequest, emit: EmitEvent) -> pb.StreamCaptionResponse:
            return pb.StreamCaptionResponse(final=await self._caption(message, emit, deadline))

        await pipeline(_single(request), answer, context, self._models.closing)

    @one_status
    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:  # noqa: N802
        """Every model of the repository, the refused with the reason."""
        return list_models(self._models)

    @one_status
    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:  # noqa: N802
        """A model's manifest, and how it is served."""
        return get_model(self._models.find(request.model, request.version), self._max_message_bytes)

    async def _classify(self, message: pb.ClassifyRequest, caller_ns: int | None) -> pb.ClassifyResponse:
        encoded = message.image.encoded
        with self._inference.begin(message.model, message.version, self._size(message, encoded), CLASSIFY) as request:
            assert request.model.manifest is not None
            labels = request.model.manifest.classifier.labels
            if message.top_k > len(labels):
                raise InvalidInput("top_k", f"{message.top_k} is not within 0..{len(labels)}")
            request.limit(caller_ns, message.timeout_us, checked_priority(message.priority, "priority"))
            outputs = await classify(request, _pictures(message.image, encoded))
        top_k = message.top_k or min(_DEFAULT_TOP_K, len(labels))
        work = classify_response(outputs, labels, top_k, features=message.return_features)
        response = at_once(work) if top_k <= _MANY_CLASSES else await self._pieces.run(work)
        complete(response, message, request)
        return response

    async def _caption(
        self, message: pb.CaptionRequest, emit: EmitEvent | None, caller_ns: int | None
    ) -> pb.CaptionResponse:
        encoded = message.image.encoded
        with self._inference.begin(message.model, message.version, self._size(message, encoded), CAPTION) as request:
            engine = captioner(request.model)
            spec = engine.spec
            options = decode_options(message, engine)
            request.limit(caller_ns, message.timeout_us, checked_priority(message.priority, "priority"))

            on_words = None if emit is None else word_emitter(emit, spec)
            pictures = _pictures(message.image, encoded)
            (captioned,) = await caption(request, pictures, options, on_words)
        work = caption_response(captioned, options, spec)
        response = await self._pieces.run(work) if options.attention else at_once(work)
        complete(response, message, request)
        return response

    def _size(self, message: Message, encoded: bytes) -> int:
        """Return a request's bytes. To learn them exactly protobuf would serialize it."""
        # Raw pixels of other sizes are refused.
        raw = message.image.raw
        size = len(encoded) + 3 * raw.width * raw.height + len(message.model) + len(message.id)
        if isinstance(message, pb.CaptionRequest):
            size += sum(map(len, (*message.prefix, *message.forbidden_words)))
        return min(size, self._max_message_bytes)


async def _single(message: pb.CaptionRequest) -> AsyncIterator[pb.CaptionRequest]:
    yield message


def _pictures(image: pb.Image, encoded: bytes) -> Pictures:
    """Return a request's picture; `encoded` is its file, which protobuf copies each time that it is read."""
    kind = image.WhichOneof("content")
    if kind == "encoded":
        return EncodedPictures([encoded], "image.encoded", numbered=False)
    if kind == "raw":
        return RawPicture(image.raw.rgb, image.raw.width, image.raw.height, "image.raw")
    raise BadImage("image", "neither encoded nor raw is set")
