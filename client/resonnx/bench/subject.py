"""Describes the measured server and model."""

from contextlib import suppress
from typing import Any, Final

import grpc
from resonnx_proto.inference import grpc_service_pb2, grpc_service_pb2_grpc

from resonnx._clients.client import AsyncClient
from resonnx._errors import ResonnxError
from resonnx._results import ModelInfo
from resonnx._transport.access import NO_ACCESS, Access
from resonnx._transport.channel import targets

_TIMEOUT_S: Final = 10.0


async def describe(server: str, model: str, access: Access = NO_ACCESS) -> dict[str, Any]:
    """Return the names and versions of a server and a model as JSON values.

    Returns:
        "model", the given name; if the server implements the Open Inference Protocol, "server" with "name" and
        "version"; of a resonnx server also the model's "version", "task", "identity", "verified" and "sessions", one
        per ONNX file, with "file", "provider", "precision" and "instances".
    """
    found: dict[str, Any] = {"model": model}
    async with access.aio_channel(targets(server)[0]) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        with suppress(grpc.RpcError):
            itself = await stub.ServerMetadata(
                grpc_service_pb2.ServerMetadataRequest(), timeout=_TIMEOUT_S, metadata=access.metadata
            )
            found["server"] = {"name": itself.name, "version": itself.version}
    async with AsyncClient.of(server, access, _TIMEOUT_S) as client:
        with suppress(ResonnxError):
            found |= _model(await client.model(model))
    return found


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
