"""inference.GRPCInferenceService: the same models and the same queues for every client of the tensor protocol."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version as distribution_version
from typing import Final

import numpy as np
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from resonnx_server.engine.caption_task import OnWords
from resonnx_server.engine.captioner import CaptionEngine
from resonnx_server.engine.model import Model, Models
from resonnx_server.engine.runner import Tensors
from resonnx_server.engine.tensors import TensorEngine
from resonnx_server.errors import DeadlineExceeded, InvalidInput, NotFound, ServerError
from resonnx_server.intake.admission import Admission
from resonnx_server.intake.decode import Decoder
from resonnx_server.observe.stats import Timing, Tracked
from resonnx_server.rpc import describe, tensors
from resonnx_server.rpc.boundary import Context, deadline_ns, outcome_of, streaming, unary, unsupported
from resonnx_server.rpc.captions import decode_options
from resonnx_server.rpc.parameters import RequestParameters, classify, parse_parameters
from resonnx_server.rpc.pipeline import pipeline
from resonnx_server.runtime.images import Pixels
from resonnx_server.runtime.sequence import Token, text
from resonnx_server.runtime.session import Array

TellPart = Callable[[pb.ModelStreamInferResponse], None]

_EXTENSIONS: Final = (
    "classification",
    "model_configuration",
    "schedule_policy",
    "statistics",
    "binary_tensor_data",
    "parameters",
)


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """The tensor protocol over the loaded models."""

    def __init__(self, models: Models, decoder: Decoder, admission: Admission) -> None:
        self._models = models
        self._decoder = decoder
        self._admission = admission

    @unary
    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802
        """True: the server answers."""
        return pb.ServerLiveResponse(live=True)

    @unary
    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802
        """True while at least one model serves and the server is not draining."""
        return pb.ServerReadyResponse(ready=self._models.is_ready)

    @unary
    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802
        """Whether a model serves; a question about an unknown one is answered with false."""
        try:
            self._get(request.name, request.version)
        except InvalidInput:
            raise
        except ServerError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    @unary
    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Name, version and the extensions that are really there."""
        return pb.ServerMetadataResponse(
            name="resonnx", version=distribution_version("resonnx-server"), extensions=_EXTENSIONS
        )

    @unary
    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs, with the batch axis."""
        return describe.metadata(self._get(request.name, request.version))

    @unary
    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:  # noqa: N802
        """The model as a Triton model configuration."""
        return pb.ModelConfigResponse(config=describe.config(self._get(request.name, request.version)))

    @unary
    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Counters of one model, or of all if no name is given."""
        models = [self._get(request.name, request.version)] if request.name else list(self._models)
        return pb.ModelStatisticsResponse(model_stats=[describe.statistics(model) for model in models])

    @unary
    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Every model of the repository; with `ready`, those that serve."""
        response = pb.RepositoryIndexResponse()
        for model in self._models:
            response.models.add(name=model.name, version=str(model.version), state="READY")
        for refusal in [] if request.ready else self._models.refused:
            response.models.add(
                name=refusal.name, version=str(refusal.version), state="UNAVAILABLE", reason=refusal.reason
            )
        return response

    @unary
    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        """Run one request of any number of rows."""
        return await self._model_infer(request, deadline_ns(context, time.monotonic_ns()))

    @streaming
    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Run many requests of one stream; one that fails is answered with its message and the stream goes on.

        A captioner tells words as they become certain where the request's parameter `stream` says so.
        """
        caller_deadline = deadline_ns(context, time.monotonic_ns())

        async def answer(request: pb.ModelInferRequest, tell: TellPart) -> pb.ModelStreamInferResponse:
            try:
                response = await self._model_infer(request, caller_deadline, tell)
            except Exception as error:  # the boundary of one request of the stream
                _, known = outcome_of(error, "ModelStreamInfer")
                failed = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
                return pb.ModelStreamInferResponse(error_message=known.message, infer_response=failed)
            response.parameters["triton_final_response"].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=response)

        async for response in pipeline(requests, answer, self._models.closing):
            yield response

    async def _model_infer(
        self, request: pb.ModelInferRequest, caller_deadline: int | None, tell: TellPart | None = None
    ) -> pb.ModelInferResponse:
        model = self._get(request.model_name, request.model_version)
        with Tracked(model.stats) as tracked, self._admission.hold(request.ByteSize()):
            now = time.monotonic_ns()
            parameters = parse_parameters(request)
            deadline = parameters.deadline_ns(now, caller_deadline)
            wanted = _wanted_outputs(request, model)
            on_words = _word_teller(request, model, wanted, parameters, tell) if parameters.stream else None
            try:
                async with asyncio.timeout(None if deadline is None else (deadline - now) / 1e9):
                    inputs = tensors.read_inputs(request)
                    outputs, tracked.timing = await self._infer(model, inputs, deadline, parameters, on_words)
            except TimeoutError:
                tracked.timing = None
                raise DeadlineExceeded("the request's timeout passed before the answer was there") from None
        return _response(request, model, wanted, parameters, outputs)

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
        _check_names(inputs, model)
        engine = model.engine
        if model.manifest is not None:
            images = await self._images(inputs["image"], model)
            if isinstance(engine, CaptionEngine):
                return await _caption_all(engine, images, deadline, parameters, on_words)
            return await engine.submit({"image": images}, deadline, parameters.priority)
        assert isinstance(engine, TensorEngine)
        return await engine.submit(_checked(inputs, model), deadline, parameters.priority)

    async def _images(self, image: Array, model: Model) -> Pixels:
        """Take UINT8 [N,H,W,3] as it is, and BYTES [N] (or [N,1]) as picture files."""
        assert model.manifest is not None
        recipe = model.manifest.input
        field = "inputs['image']"
        if image.ndim and len(image) > model.max_queue_size:
            raise InvalidInput(f"{field}.shape", f"{len(image)} rows, more than {model.max_queue_size}")
        if image.dtype == object:
            if image.ndim not in (1, 2) or (image.ndim == 2 and image.shape[1] != 1) or image.size == 0:
                raise InvalidInput(f"{field}.shape", f"{list(image.shape)}; BYTES must be [N] with N >= 1")
            return await self._decoder.load_all(image.ravel().tolist(), recipe, field)
        expected = (recipe.height, recipe.width, 3)
        if image.dtype != np.uint8:
            raise InvalidInput(
                f"{field}.datatype", f"{tensors.datatype(image.dtype)}; the model takes UINT8 pixels or BYTES files"
            )
        if image.ndim != 4 or image.shape[1:] != expected or len(image) == 0:
            raise InvalidInput(
                f"{field}.shape", f"{list(image.shape)}; UINT8 must be [N, {expected[0]}, {expected[1]}, 3] with N >= 1"
            )
        return image

    def _get(self, name: str, version: str) -> Model:
        if version and not (version.isascii() and version.isdigit() and len(version) < 19):
            raise NotFound(f"version {version[:32]!r} is no version number")
        return self._models.get(name, int(version or 0))


def _checked(inputs: Tensors, model: Model) -> Tensors:
    """Return a bare model's inputs as its graph takes them, or raise InvalidInput naming what does not fit."""
    rows = {}
    for spec in model.inputs:
        array, field = inputs[spec.name], f"inputs[{spec.name!r}]"
        if array.dtype != spec.dtype:
            raise InvalidInput(
                f"{field}.datatype", f"{tensors.datatype(array.dtype)}; the model takes {tensors.datatype(spec.dtype)}"
            )
        shape = describe.shape(spec)
        if len(array.shape) != len(shape) or any(
            size not in (-1, given) for size, given in zip(shape, array.shape, strict=True)
        ):
            raise InvalidInput(f"{field}.shape", f"{list(array.shape)}; the model takes {shape}")
        if model.max_batch_size:
            rows[spec.name] = len(array)
    if len(set(rows.values())) > 1:
        raise InvalidInput("inputs", f"batch sizes differ: {rows}")
    if max(rows.values(), default=0) > model.max_queue_size:
        raise InvalidInput("inputs", f"{max(rows.values())} rows, more than {model.max_queue_size}")
    if 0 in rows.values():
        raise InvalidInput("inputs", "the batch is empty")
    # ONNX Runtime takes str for string tensors.
    return {
        name: np.array([_decoded(v, name) for v in array.ravel()], object).reshape(array.shape)
        if array.dtype == object
        else array
        for name, array in inputs.items()
    }


def _decoded(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"inputs[{name!r}]", "a string element is not UTF-8") from None


def _check_names(inputs: Tensors, model: Model) -> None:
    expected = {spec.name for spec in model.inputs}
    if missing := sorted(expected - inputs.keys()):
        raise InvalidInput("inputs", f"{missing[0]!r} is missing; the model takes {sorted(expected)}")
    if unknown := sorted(inputs.keys() - expected):
        raise InvalidInput("inputs", f"{unknown[0][:64]!r} is not one of {sorted(expected)}")


def _wanted_outputs(request: pb.ModelInferRequest, model: Model) -> list[str]:
    names = [spec.name for spec in model.outputs]
    if len(request.outputs) > len(names):
        raise InvalidInput("outputs", f"{len(request.outputs)} are asked for; the model has {len(names)}")
    asked: set[str] = set()
    for output in request.outputs:
        if output.name in asked:
            raise InvalidInput("outputs", f"{output.name[:64]!r} is asked for twice")
        asked.add(output.name)
        if output.name not in names:
            raise InvalidInput("outputs", f"{output.name[:64]!r} is not one of {names}")
        if "shared_memory_region" in output.parameters:
            raise InvalidInput(f"outputs[{output.name!r}].parameters", "shared memory is not supported")
    return [output.name for output in request.outputs] or names


async def _caption_all(
    engine: CaptionEngine,
    images: Pixels,
    deadline: int | None,
    parameters: RequestParameters,
    on_words: OnWords | None,
) -> tuple[Tensors, Timing]:
    if on_words is not None and len(images) != 1:
        raise InvalidInput("parameters['stream']", f"words of {len(images)} pictures in one request; give one")
    options = decode_options(parameters.caption, engine, "parameters[{!r}]")
    tasks = [
        asyncio.ensure_future(engine.submit(image, options, on_words, deadline, parameters.priority))
        for image in images
    ]
    try:
        done = await asyncio.gather(*tasks)
    except BaseException:
        # One answer for all rows: the others are wanted by nobody now.
        for task in tasks:
            task.cancel()
        raise
    best = [captioned.ranked[0][0] for captioned in done]
    outputs = _caption_outputs([(text(b.shown(), engine.spec.vocabulary), b.log_prob()) for b in best])
    return outputs, max((captioned.timing for captioned in done), key=lambda timing: timing.queue_ns)


def _caption_outputs(captions: list[tuple[str, float]]) -> Tensors:
    texts = np.empty(len(captions), object)
    texts[:] = [caption.encode() for caption, _ in captions]
    return {"caption": texts, "log_prob": np.array([log_prob for _, log_prob in captions], np.float32)}


def _word_teller(
    request: pb.ModelInferRequest,
    model: Model,
    wanted: list[str],
    parameters: RequestParameters,
    tell: TellPart | None,
) -> OnWords | None:
    """Return what tells a captioner's words as answers that are not the final one."""
    engine = model.engine
    if not isinstance(engine, CaptionEngine):
        return None
    if tell is None:
        raise InvalidInput("parameters['stream']", "needs ModelStreamInfer")
    vocabulary = engine.spec.vocabulary

    def on_words(tokens: list[Token]) -> None:
        for token in tokens:
            outputs = _caption_outputs([(vocabulary[token.id], token.log_prob)])
            response = _response(request, model, wanted, parameters, outputs)
            response.parameters["triton_final_response"].bool_param = False
            tell(pb.ModelStreamInferResponse(infer_response=response))

    return on_words


def _response(
    request: pb.ModelInferRequest, model: Model, wanted: list[str], parameters: RequestParameters, outputs: Tensors
) -> pb.ModelInferResponse:
    response = pb.ModelInferResponse(model_name=model.name, model_version=str(model.version), id=request.id)
    labels = model.manifest.classifier.labels if model.manifest is not None else ()
    for name in wanted:
        array = outputs[name]
        if (top_k := parameters.top_k.get(name)) is not None:
            array = classify(array, top_k, labels, batched=model.max_batch_size > 0)
        tensors.write_output(response, name, array)
    return response
