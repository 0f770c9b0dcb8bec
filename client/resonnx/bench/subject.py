"""Says what is measured: the server, and how it runs the model, as it tells itself."""

from contextlib import suppress
from typing import Any, Final

import grpc
from resonnx_proto.inference import grpc_service_pb2, grpc_service_pb2_grpc

from resonnx._async_client import AsyncClient
from resonnx._errors import ResonnxError
from resonnx._results import ModelInfo

_TIMEOUT_S: Final = 10.0


async def describe(server: str, model: str) -> dict[str, Any]:
    """Ask the server for its name and version, and for the model's. Any server will do.

    Returns:
        For JSON: "model" as it was asked for; where the server tells it, "server" with "name" and "version"; of a
        resonnx server also the model's "version", "task", "identity", "verified", and "sessions", one for each ONNX
        file, with "file", "provider", "precision" and "instances".
    """
    told: dict[str, Any] = {"model": model}
    async with grpc.aio.insecure_channel(server) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with suppress(grpc.RpcError):
            itself = await stub.ServerMetadata(grpc_service_pb2.ServerMetadataRequest(), timeout=_TIMEOUT_S)
            told["server"] = {"name": itself.name, "version": itself.version}
    async with AsyncClient(server, timeout_s=_TIMEOUT_S) as client:
        with suppress(ResonnxError):
            told |= _model(await client.model(model))
    return told


def _model(info: ModelInfo) -> dict[str, Any]:
    return {
        "version": info.summary.version,
        "task": info.summary.task,
        "identity": info.identity,
        "verified": info.verified,
        "sessions": [
            {"file": x.file, "provider": x.provider, "precision": x.precision, "instances": x.instances}
            for x in info.sessions
        ],
    }
