"""resonnx.v1.Vision: pictures in, labels and captions out. Message to domain and back."""

import time
from collections.abc import AsyncIterator, Callable
from typing import Final

import numpy as np
from grpc import StatusCode
from resonnx_proto.v1 import manifest_pb2, vision_pb2, vision_pb2_grpc

from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.request import Captioned, OnWords
from resonnx_server.config import Settings
from resonnx_server.errors import BadImage, InvalidInput, ServerError, WrongTask
from resonnx_server.inference.deadlines import checked_priority, earlier_ns, within
from resonnx_server.inference.memory_budget import Held, MemoryBudget
from resonnx_server.inference.registry import Model, Models
from resonnx_server.observe.stats import RequestTimer, Timing
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.rpc.boundary import Context, StreamContext, deadline_ns, one_status, outcome_of, pushback_ms
from resonnx_server.rpc.captions import caption_response, decode_options, word
from resonnx_server.rpc.pieces import Pieces, at_once
from resonnx_server.rpc.pipeline import pipeline
from resonnx_server.rpc.vision.classes import classify_response
from resonnx_server.rpc.vision.models import get_model, list_models
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.decoding.sequence import Token
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.session_pool import Tensors
from resonnx_server.tensors.engine import TensorEngine

TellEvent = Callable[[vision_pb2.StreamCaptionResponse], None]

_DEFAULT_TOP_K: Final = 5
_KINDS: Final = {
    manifest_pb2.TASK_CLASSIFIER: "a classifier",
    manifest_pb2.TASK_CAPTIONER: "a captioner",
    manifest_pb2.TASK_TENSORS: "a bare ONNX file",
}
# Classes of an answer that is made on the event loop: a few ms.
_MANY_CLASSES: Final = 1 << 10


class VisionServicer(vision_pb2_grpc.VisionServicer):
    """The task API over the loaded models."""

    def __init__(
        self, models: Models, decoder: Decoder, admission: MemoryBudget, settings: Settings, pieces: Pieces
    ) -> None:
        self._models = models
        self._decoder = decoder
        self._admission = admission
        self._settings = settings
        self._pieces = pieces

    @one_status
    async def Classify(  # noqa: N802 - gRPC's name
        self, request: vision_pb2.ClassifyRequest, context: Context
    ) -> vision_pb2.ClassifyResponse:
        """Labels and scores of one picture."""
        return await self._classify(request, deadline_ns(context, time.monotonic_ns()))

    @one_status
    async def ClassifyStream(  # noqa: N802
        self, requests: AsyncIterator[vision_pb2.ClassifyRequest], context: StreamContext
    ) -> None:
        """Classify many pictures; one that fails does not end the stream."""
        deadline = deadline_ns(context, time.monotonic_ns())

        async def answer(request: vision_pb2.ClassifyRequest, tell: object) -> vision_pb2.ClassifyStreamResponse:
            try:
                response = await self._classify(request, deadline)
            except Exception as error:  # the boundary of one request of the stream
                # The error holds this frame: kept in it, both would live until garbage is collected.
                return _failed(request, *outcome_of(error, "ClassifyStream"))
            return vision_pb2.ClassifyStreamResponse(id=request.id, response=response)

        await pipeline(requests, answer, context, self._models.closing)

    @one_status
    async def Caption(  # noqa: N802
        self, request: vision_pb2.CaptionRequest, context: Context
    ) -> vision_pb2.CaptionResponse:
        """The caption of one picture."""
        return await self._caption(request, None, context)

    @one_status
    async def StreamCaption(  # noqa: N802
        self, request: vision_pb2.CaptionRequest, context: StreamContext
    ) -> None:
        """Words of the best caption as they become certain, then the whole answer."""

        async def answer(request: vision_pb2.CaptionRequest, tell: TellEvent) -> vision_pb2.StreamCaptionResponse:
            return vision_pb2.StreamCaptionResponse(final=await self._caption(request, tell, context))

        await pipeline(_single(request), answer, context, self._models.closing)

    @one_status
    async def ListModels(  # noqa: N802
        self, request: vision_pb2.ListModelsRequest, context: Context
    ) -> vision_pb2.ListModelsResponse:
        """Every model of the repository, the refused with the reason."""
        return list_models(self._models)

    @one_status
    async def GetModel(  # noqa: N802
        self, request: vision_pb2.GetModelRequest, context: Context
    ) -> vision_pb2.GetModelResponse:
        """What a model says of itself and how it is served."""
        with self._models.rejected.counting():
            model = self._models.get(request.model, request.version)
        return get_model(model, self._settings.max_message_bytes)

    async def _classify(
        self, request: vision_pb2.ClassifyRequest, caller_deadline: int | None
    ) -> vision_pb2.ClassifyResponse:
        with self._models.rejected.counting():
            model = self._models.get(request.model, request.version)
            engine = model.engine
            if model.manifest is None or not isinstance(engine, TensorEngine):
                raise WrongTask("model", f"{model.name!r} is {_KINDS[model.task]}, not a classifier")
        labels, encoded = model.manifest.classifier.labels, request.image.encoded
        with RequestTimer(model.stats) as tracked, self._hold(request, encoded):
            if request.top_k > len(labels):
                raise InvalidInput("top_k", f"{request.top_k} is not within 0..{len(labels)}")
            deadline = earlier_ns(caller_deadline, time.monotonic_ns(), request.timeout_us)
            work = self._run(request, encoded, model, engine, deadline)
            # At the call's own deadline gRPC ends it.
            timeout_s = request.timeout_us / 1e6
            outputs, timing, decode_ns = await (within(timeout_s, work) if timeout_s else work)
            tracked.timing = timing
        top_k = request.top_k or min(_DEFAULT_TOP_K, len(labels))
        answer = classify_response(outputs, labels, top_k, features=request.return_features)
        response = at_once(answer) if top_k <= _MANY_CLASSES else await self._pieces.run(answer)
        response.model, response.version, response.id = model.name, model.version, request.id
        response.timing.CopyFrom(_timing(timing, decode_ns))
        return response

    async def _run(
        self,
        request: vision_pb2.ClassifyRequest,
        encoded: bytes,
        model: Model,
        engine: TensorEngine,
        deadline: int | None,
    ) -> tuple[Tensors, Timing, int]:
        priority = checked_priority(request.priority, "priority")
        with engine.reserve(1, deadline, priority, self._decoding(encoded, model, priority)) as reservation:
            pixels, decode_ns = await self._pixels(request, model, encoded, priority)
            outputs, timing = await engine.submit({"image": pixels[np.newaxis]}, reservation)
        return outputs, timing, decode_ns

    async def _caption(
        self, request: vision_pb2.CaptionRequest, tell: TellEvent | None, context: Context
    ) -> vision_pb2.CaptionResponse:
        with self._models.rejected.counting():
            model = self._models.get(request.model, request.version)
            engine = model.engine
            if not isinstance(engine, CaptionEngine):
                raise WrongTask("model", f"{model.name!r} is {_KINDS[model.task]}, not a captioner")
        spec = engine.spec
        on_words = None if tell is None else lambda tokens: _tell_words(tokens, spec, tell)
        encoded = request.image.encoded
        with RequestTimer(model.stats) as tracked, self._hold(request, encoded):
            options = decode_options(request, engine)
            now = time.monotonic_ns()
            deadline = earlier_ns(deadline_ns(context, now), now, request.timeout_us)
            work = self._decode(request, encoded, model, engine, options, on_words, deadline)
            timeout_s = request.timeout_us / 1e6
            captioned, decode_ns = await (within(timeout_s, work) if timeout_s else work)
            tracked.timing = captioned.timing
        answer = caption_response(captioned, options, spec)
        response = await self._pieces.run(answer) if options.attention else at_once(answer)
        response.model, response.version, response.id = model.name, model.version, request.id
        response.timing.CopyFrom(_timing(captioned.timing, decode_ns))
        return response

    async def _decode(
        self,
        request: vision_pb2.CaptionRequest,
        encoded: bytes,
        model: Model,
        engine: CaptionEngine,
        options: DecodeOptions,
        on_words: OnWords | None,
        deadline: int | None,
    ) -> tuple[Captioned, int]:
        priority = checked_priority(request.priority, "priority")
        with engine.place(1, options, deadline, priority, self._decoding(encoded, model, priority)) as place:
            pixels, decode_ns = await self._pixels(request, model, encoded, priority)
            captioned = await engine.submit(pixels, options, on_words, deadline, priority, place)
        return captioned, decode_ns

    def _hold(self, request: vision_pb2.ClassifyRequest | vision_pb2.CaptionRequest, encoded: bytes) -> Held:
        # To learn a request's bytes exactly protobuf would serialize it. Raw pixels of other sizes are refused.
        raw = request.image.raw
        size = len(encoded) + 3 * raw.width * raw.height + len(request.model) + len(request.id)
        if isinstance(request, vision_pb2.CaptionRequest):
            size += sum(map(len, (*request.prefix, *request.forbidden_words)))
        return self._admission.hold(min(size, self._settings.max_message_bytes))

    def _decoding(self, encoded: bytes, model: Model, priority: int) -> Decoding:
        assert model.pictures is not None
        return self._decoder.expected([encoded] if encoded else [], model.pictures, priority)

    async def _pixels(
        self,
        request: vision_pb2.ClassifyRequest | vision_pb2.CaptionRequest,
        model: Model,
        encoded: bytes,
        priority: int,
    ) -> tuple[Pixels, int]:
        """Return the request's picture as the model takes it, and the ns that took.

        `encoded` is its file, which a message copies each time that it is asked for it.
        """
        assert model.pictures is not None
        options, image = model.pictures, request.image
        start = time.monotonic_ns()
        kind = image.WhichOneof("content")
        if kind == "encoded":
            pixels = await self._decoder.load(encoded, options, "image.encoded", priority)
        elif kind == "raw":
            raw = image.raw
            pixels = await self._decoder.from_raw(raw.rgb, raw.width, raw.height, options, "image.raw", priority)
        else:
            raise BadImage("image", "neither encoded nor raw is set")
        return pixels, time.monotonic_ns() - start


async def _single(request: vision_pb2.CaptionRequest) -> AsyncIterator[vision_pb2.CaptionRequest]:
    yield request


def _failed(
    request: vision_pb2.ClassifyRequest, code: StatusCode, error: ServerError
) -> vision_pb2.ClassifyStreamResponse:
    told = vision_pb2.Error(
        code=code.name, reason=error.reason, message=error.message, retry_after_ms=pushback_ms(error)
    )
    return vision_pb2.ClassifyStreamResponse(id=request.id, error=told)


def _tell_words(tokens: list[Token], spec: manifest_pb2.CaptionerSpec, tell: TellEvent) -> None:
    for token in tokens:
        tell(vision_pb2.StreamCaptionResponse(word=word(token, spec)))


def _timing(timing: Timing, decode_ns: int) -> vision_pb2.Timing:
    compute_ns = timing.compute_input_ns + timing.compute_infer_ns + timing.compute_output_ns
    return vision_pb2.Timing(
        decode_us=decode_ns // 1000,
        queue_us=timing.queue_ns // 1000,
        compute_us=compute_ns // 1000,
        batch_size=timing.batch_rows,
    )
