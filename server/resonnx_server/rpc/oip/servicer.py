"""The service inference.GRPCInferenceService, the tensor protocol, over the same models and queues."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from importlib.metadata import version as distribution_version
from typing import Final

from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from resonnx_server.access.caller import Caller
from resonnx_server.errors import ServerError
from resonnx_server.inference.registry import Model
from resonnx_server.inference.requests import Inference
from resonnx_server.memory.budget import Charge
from resonnx_server.memory.regions import Regions
from resonnx_server.observe.logs import control
from resonnx_server.protocol.oip import describe
from resonnx_server.protocol.oip.parameters import keeps_order
from resonnx_server.protocol.oip.request import InferRequest
from resonnx_server.protocol.oip.serving import Inferred, TensorServing
from resonnx_server.protocol.pieces import Pieces
from resonnx_server.rpc.boundary import Context, StreamContext, counted, deadline_ns, one_status, outcome_of_part
from resonnx_server.rpc.oip.answers import AnswerEncoder, failed
from resonnx_server.rpc.oip.extensions.group import Group
from resonnx_server.rpc.oip.extensions.log_settings import LogSettingsRpc
from resonnx_server.rpc.oip.extensions.repository import check_repository
from resonnx_server.rpc.oip.extensions.shared_memory import SharedMemoryRpcs
from resonnx_server.rpc.oip.extensions.trace_settings import TraceSettingRpc
from resonnx_server.rpc.pipeline import pipeline

# Takes a ModelStreamInferResponse, serialized.
EmitPart = Callable[[bytes], None]

_EXTENSIONS: Final = (
    "classification",
    "model_configuration",
    "schedule_policy",
    "binary_tensor_data",
    "parameters",
)


class InferenceServicer(grpc_service_pb2_grpc.GRPCInferenceServiceServicer):
    """The tensor protocol over the loaded models.

    Args:
        inference: The use cases.
        max_message_bytes: Limit of an answer.
        pieces: The thread that reads large requests and makes large answers.
        regions: Regions of shared memory.
        groups: Further rpcs: all that are not in this module.

    Attributes:
        models: The registry.
        rejected: Counts calls that end with an error that no model counts.
    """

    def __init__(
        self,
        inference: Inference,
        max_message_bytes: int,
        pieces: Pieces,
        regions: Regions,
        groups: Iterable[Group] = (),
    ) -> None:
        self._inference = inference
        self.models = inference.models
        self._serving = TensorServing(inference, pieces, regions)
        self._answers = AnswerEncoder(max_message_bytes, pieces)
        self.rejected = inference.models.rejected
        self._extensions = [*_EXTENSIONS]
        tracing = TraceSettingRpc(inference.traces, inference.models)
        own: tuple[Group, ...] = (
            LogSettingsRpc(control, self.rejected),
            SharedMemoryRpcs(regions, self.rejected),
            tracing,
        )
        for group in (*own, *groups):
            self._add(group)

    @one_status
    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802
        """True: the server answers."""
        return pb.ServerLiveResponse(live=True)

    @one_status
    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802
        """True while at least one model serves and the server is not draining."""
        return pb.ServerReadyResponse(ready=self.models.is_ready)

    @one_status
    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802
        """Whether a model serves; false for an unknown one."""
        self.models.check(request.name, context.caller)
        try:
            self.models.get(request.name, request.version)
        except ServerError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    @one_status
    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Name, version and supported extensions."""
        return pb.ServerMetadataResponse(
            name="resonnx", version=distribution_version("resonnx-server"), extensions=self._extensions
        )

    @one_status
    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Inputs and outputs, with the batch axis; the versions that serve, or the one that is asked for."""
        model = self._find(request.name, request.version, context)
        return describe.metadata(model, () if request.version else self.models.versions(model.name))

    @one_status
    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:  # noqa: N802
        """The model as a Triton model configuration."""
        return pb.ModelConfigResponse(config=describe.config(self._find(request.name, request.version, context)))

    @one_status
    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Every model of the repository that the caller may use; with `ready`, those that serve.

        Raises:
            NotSupported: A repository is named.
        """
        with self.rejected.counting():
            check_repository(request.repository_name)
        return describe.index(self.models, context.caller, ready=request.ready)

    @one_status
    async def ModelInfer(self, request: InferRequest, context: Context) -> bytes:  # noqa: N802
        """Run one request of any number of rows, and return a ModelInferResponse, serialized."""
        return await self._model_infer(request, deadline_ns(context), context.caller)

    @counted
    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[InferRequest], context: StreamContext
    ) -> None:
        """Run many requests of one stream; one that fails does not end it.

        Answers, of failed requests as well, are sent in the order of their requests, unless a request's parameter
        `preserve_ordering` is false. A failed request's answer has the parameter `reason`, and `retry_after_ms` as in
        vision.proto.
        With the parameter `stream`, a captioner's words are sent as they join the stable prefix.
        """
        deadline = deadline_ns(context)

        async def answer(request: InferRequest, emit: EmitPart) -> bytes:
            try:
                return await self._model_infer(request, deadline, context.caller, emit)
            except Exception as error:  # the boundary of one request of the stream
                # The error holds this frame: kept in it, both would live until garbage is collected.
                return failed(request.message, *outcome_of_part(error, "ModelStreamInfer", context))

        def in_order(request: InferRequest) -> bool:
            return keeps_order(request.message)

        with Charge(self._inference.budget, context.caller.name) as held:
            hold = partial(held.resize, answer=True)
            await pipeline(requests, answer, context, self.models.closing, in_order=in_order, size_of=len, hold=hold)

    async def _model_infer(
        self, given: InferRequest, caller_ns: int | None, caller: Caller, emit: EmitPart | None = None
    ) -> bytes:
        message = given.message

        def encode(inferred: Inferred) -> Awaitable[bytes]:
            return self._answers.answer(message, inferred, streamed=emit is not None)

        def emit_outputs(inferred: Inferred) -> None:
            assert emit is not None
            emit(self._answers.part(message, inferred))

        return await self._serving.run(given, caller_ns, caller, encode, None if emit is None else emit_outputs)

    def _add(self, group: Group) -> None:
        self._extensions += group.extensions
        for name in group.rpcs:
            # The generated class has a method for each.
            setattr(self, name, getattr(group, name))

    def _find(self, name: str, version: str, context: Context) -> Model:
        self.models.check(name, context.caller)
        return self.models.find(name, version, caller=context.caller)
