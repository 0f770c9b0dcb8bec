"""inference.GRPCInferenceService: the same models and the same queues for every client of the tensor protocol."""

import time
from collections.abc import AsyncIterator
from importlib.metadata import version as distribution_version
from typing import Final

from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.request import OnWords
from resonnx_server.errors import InvalidInput, ServerError, VersionNotFound
from resonnx_server.inference.deadlines import earlier_ns, within
from resonnx_server.inference.memory_budget import MemoryBudget
from resonnx_server.inference.registry import Model, Models
from resonnx_server.observe.stats import RequestTimer, Timing
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.rpc.boundary import (
    Context,
    StreamContext,
    deadline_ns,
    one_status,
    outcome_of,
    unsupported,
)
from resonnx_server.rpc.captions import caption_tensors, decode_options
from resonnx_server.rpc.many import all_of
from resonnx_server.rpc.oip import describe
from resonnx_server.rpc.oip.answers import AnswerEncoder, Output
from resonnx_server.rpc.oip.contents import MANY_STRINGS, cleared
from resonnx_server.rpc.oip.inputs import checked_tensors, overrides_initializers, read_inputs, wanted_outputs
from resonnx_server.rpc.oip.parameters import RequestParameters, check_classification, keeps_order, parse_parameters
from resonnx_server.rpc.oip.requests import InferRequest
from resonnx_server.rpc.oip.stream_answers import TellPart, failed, head_of, word_teller
from resonnx_server.rpc.pieces import Pieces, at_once
from resonnx_server.rpc.pipeline import pipeline
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import Array
from resonnx_server.scheduling.session_pool import Tensors
from resonnx_server.tensors.engine import TensorEngine

_EXTENSIONS: Final = (
    "classification",
    "model_configuration",
    "schedule_policy",
    "statistics",
    "binary_tensor_data",
    "parameters",
)
# Tokens of captions that are put together on the event loop: a few ms.
_MANY_TOKENS: Final = 1 << 12


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """The tensor protocol over the loaded models."""

    def __init__(
        self, models: Models, decoder: Decoder, admission: MemoryBudget, max_message_bytes: int, pieces: Pieces
    ) -> None:
        self._models = models
        self._decoder = decoder
        self._admission = admission
        self._pieces = pieces
        self._answers = AnswerEncoder(max_message_bytes, pieces)
        self.rejected = models.rejected

    @one_status
    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802
        """True: the server answers."""
        return pb.ServerLiveResponse(live=True)

    @one_status
    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802
        """True while at least one model serves and the server is not draining."""
        return pb.ServerReadyResponse(ready=self._models.is_ready)

    @one_status
    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802
        """Whether a model serves; a question about an unknown one is answered with false."""
        try:
            self._find(request.name, request.version)
        except ServerError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    @one_status
    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Name, version and the extensions that are really there."""
        return pb.ServerMetadataResponse(
            name="resonnx", version=distribution_version("resonnx-server"), extensions=_EXTENSIONS
        )

    @one_status
    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs, with the batch axis."""
        return describe.metadata(self._get(request.name, request.version))

    @one_status
    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:  # noqa: N802
        """The model as a Triton model configuration."""
        return pb.ModelConfigResponse(config=describe.config(self._get(request.name, request.version)))

    @one_status
    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Counters of one model, or of all if no name is given."""
        models = [self._get(request.name, request.version)] if request.name else list(self._models)
        return pb.ModelStatisticsResponse(model_stats=[describe.statistics(model) for model in models])

    @one_status
    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Every model of the repository; with `ready`, those that serve."""
        response = pb.RepositoryIndexResponse()
        for model in self._models:
            response.models.add(name=model.name, version=str(model.version), state="READY")
        if request.ready:
            return response
        for name, version in self._models.awaited.items():
            response.models.add(name=name, version=str(version), state="LOADING")
        for refusal in self._models.refused:
            response.models.add(
                name=refusal.name, version=str(refusal.version), state="UNAVAILABLE", reason=refusal.reason
            )
        return response

    @one_status
    async def ModelInfer(self, request: InferRequest, context: Context) -> bytes:  # noqa: N802
        """Run one request of any number of rows, and return a ModelInferResponse, serialized."""
        return await self._model_infer(request, deadline_ns(context, time.monotonic_ns()))

    @one_status
    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[InferRequest], context: StreamContext
    ) -> None:
        """Run many requests of one stream; one that fails is answered with its message and the stream goes on.

        Answers come in the order of their requests, failures too, unless a request's parameters say otherwise.
        That answer's parameter `reason` is the error's, and a refusal's `retry_after_ms` is as in vision.proto.
        A captioner tells words as they become certain where the request's parameter `stream` says so.
        """
        caller_deadline = deadline_ns(context, time.monotonic_ns())

        async def answer(request: InferRequest, tell: TellPart) -> bytes:
            try:
                return await self._model_infer(request, caller_deadline, tell)
            except Exception as error:  # the boundary of one request of the stream
                # The error holds this frame: kept in it, both would live until garbage is collected.
                return failed(request.message, *outcome_of(error, "ModelStreamInfer"))

        def in_order(request: InferRequest) -> bool:
            return keeps_order(request.message)

        await pipeline(requests, answer, context, self._models.closing, in_order=in_order, size_of=len)

    async def _model_infer(
        self, infer_request: InferRequest, caller_deadline: int | None, tell: TellPart | None = None
    ) -> bytes:
        request = infer_request.message
        model = self._get(request.model_name, request.model_version)
        with RequestTimer(model.stats) as tracked, self._admission.hold(infer_request.size):
            now = time.monotonic_ns()
            parameters = parse_parameters(request)
            timeout_us = parameters.timeout_us if model.allow_timeout_override else 0
            deadline = earlier_ns(caller_deadline, now, timeout_us)
            wanted = wanted_outputs(request, model)
            inputs = await read_inputs(infer_request, model, self._pieces)
            check_classification(parameters, model, _rows(inputs, model))
            on_words = word_teller(request, model, wanted, tell, self._answers) if parameters.stream else None
            work = self._infer(model, inputs, deadline, parameters, on_words)
            # A timeout costs as much as reading the request does: none where there is no deadline.
            if deadline is not None:
                work = within((deadline - now) / 1e9, work, 0 if deadline == caller_deadline else timeout_us)
            outputs, timing = await work
            if sum(array.size for array in inputs.values() if array.dtype.hasobject) > MANY_STRINGS:
                await self._pieces.run(cleared(inputs.values()))
            labels = model.manifest.classifier.labels if model.manifest is not None else ()
            batched = model.max_batch_size > 0
            asked = [
                Output(
                    name, describe.shown(outputs[name], batched=batched), parameters.top_k.get(name, 0), labels, batched
                )
                for name in wanted
            ]
            head = head_of(request, model, is_final=None if tell is None else True)
            answer = await self._answers.encode(head, asked, streamed=tell is not None)
            tracked.timing = timing
            return answer

    RepositoryModelLoad = unsupported("RepositoryModelLoad")
    RepositoryModelUnload = unsupported("RepositoryModelUnload")
    SystemSharedMemoryStatus = unsupported("SystemSharedMemoryStatus")
    SystemSharedMemoryRegister = unsupported("SystemSharedMemoryRegister")
    SystemSharedMemoryUnregister = unsupported("SystemSharedMemoryUnregister")
    CudaSharedMemoryStatus = unsupported("CudaSharedMemoryStatus")
    CudaSharedMemoryRegister = unsupported("CudaSharedMemoryRegister")
    CudaSharedMemoryUnregister = unsupported("CudaSharedMemoryUnregister")
    TraceSetting = unsupported("TraceSetting")
    LogSettings = unsupported("LogSettings")

    async def _infer(
        self,
        model: Model,
        inputs: Tensors,
        deadline: int | None,
        parameters: RequestParameters,
        on_words: OnWords | None,
    ) -> tuple[Tensors, Timing]:
        engine = model.engine
        if model.manifest is None:
            assert isinstance(engine, TensorEngine)
            whole = overrides_initializers(inputs, model)
            return await engine.run(checked_tensors(inputs, model), deadline, parameters.priority, whole=whole)
        ((name, image),) = inputs.items()
        field = f"inputs[{name!r}]"
        if isinstance(engine, CaptionEngine):
            return await self._caption(model, engine, image, field, deadline, parameters, on_words)
        if image.dtype != object:
            return await engine.run({"image": image}, deadline, parameters.priority)
        files: list[bytes] = image.ravel().tolist()
        assert model.pictures is not None
        decoding = await self._decoder.expected_of_many(files, model.pictures, parameters.priority)
        with engine.reserve(len(files), deadline, parameters.priority, decoding) as reservation:
            pixels = await self._load(files, model, field, parameters.priority)
            return await engine.submit({"image": pixels}, reservation)

    async def _caption(
        self,
        model: Model,
        engine: CaptionEngine,
        image: Array,
        field: str,
        deadline: int | None,
        parameters: RequestParameters,
        on_words: OnWords | None,
    ) -> tuple[Tensors, Timing]:
        options = decode_options(parameters.caption, engine, "parameters[{!r}]")
        files: list[bytes] = image.ravel().tolist() if image.dtype == object else []
        pixels = image
        if on_words is not None and len(image) != 1:
            raise InvalidInput("parameters['stream']", f"words of {len(image)} pictures in one request; give one")
        assert model.pictures is not None
        decoding = await self._decoder.expected_of_many(files, model.pictures, parameters.priority) if files else None
        with engine.place(len(image), options, deadline, parameters.priority, decoding) as place:
            if files:
                pixels = await self._load(files, model, field, parameters.priority)
            done = await all_of(
                engine.submit(p, options, on_words, deadline, parameters.priority, place) for p in pixels
            )
        timing = max((captioned.timing for captioned in done), key=lambda timing: timing.queue_ns)
        tensors = caption_tensors(done, options, engine.spec)
        is_large = len(done) * options.captions * options.max_tokens > _MANY_TOKENS
        return await self._pieces.run(tensors) if is_large else at_once(tensors), timing

    async def _load(self, files: list[bytes], model: Model, field: str, priority: int) -> Pixels:
        assert model.pictures is not None
        return await self._decoder.load_all(files, model.pictures, field, priority)

    def _get(self, name: str, version: str) -> Model:
        with self.rejected.counting():
            return self._find(name, version)

    def _find(self, name: str, version: str) -> Model:
        if version and not (version.isascii() and version.isdigit() and len(version) < 19):
            raise VersionNotFound(f"version {version[:32]!r} is no version number")
        return self._models.get(name, int(version or 0))


def _rows(inputs: Tensors, model: Model) -> int:
    name = model.inputs[0].name
    array = inputs[name] if name in inputs else next(iter(inputs.values()))
    return len(array) if array.ndim else 1
