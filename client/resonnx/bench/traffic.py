"""Serialised requests for a model: picture files, raw pixels, or tensors of the Open Inference Protocol."""

import math
import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import grpc
from resonnx_proto.inference import grpc_service_pb2, grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2

from resonnx._clients.client import AsyncClient
from resonnx._errors import FailedPrecondition, from_rpc_error
from resonnx._messages import named_version
from resonnx._tasks import task_of
from resonnx._tasks.task import StreamCall
from resonnx._transport.access import NO_ACCESS, Access
from resonnx._transport.channel import targets
from resonnx.bench.summary import OK

# Different contents, so that no cache of the processor or the server shortens the work.
_VARIANTS: Final = 16
# Of the calls before the load.
_TIMEOUT_S: Final = 10.0


class Input(StrEnum):
    """Contents of a request."""

    FILE = "file"
    PIXELS = "pixels"
    TENSOR = "tensor"


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests, and the methods that take them.

    Attributes:
        path: Path of the method that takes one request.
        requests: Serialised.
        stream: The method that takes a stream of them, or None.
    """

    path: str
    requests: tuple[bytes, ...]
    stream: StreamCall | None = None


async def vision_traffic(
    server: str, model: str, files: Sequence[bytes], seed: int, access: Access = NO_ACCESS
) -> Traffic:
    """Make requests of the Vision service from `files`, or from random pixels of the model's input size.

    Raises:
        ResonnxError: The model is not available, takes no pictures, or has a task that is unknown here.
    """
    async with AsyncClient.of(server, access, _TIMEOUT_S) as client:
        info = await client.model(model)
    if info.manifest is None:
        raise FailedPrecondition(f"{model} is a bare ONNX file, which takes no pictures: use --input tensor")
    task = task_of(info.summary)
    if task is None:
        raise FailedPrecondition(f"{model} is of a task that this client does not know: {info.summary.task}")
    if files:
        images = [vision_pb2.Image(encoded=file) for file in files]
    else:
        rng = random.Random(seed)
        width, height = info.manifest.input.width, info.manifest.input.height
        raws = (vision_pb2.Image.Raw(rgb=rng.randbytes(width * height * 3), width=width, height=height)
                for _ in range(_VARIANTS))  # fmt: skip
        images = [vision_pb2.Image(raw=raw) for raw in raws]
    requests = tuple(task.request(model, image).SerializeToString() for image in images)
    return Traffic(task.path, requests, task.stream)


async def tensor_traffic(server: str, model: str, seed: int, access: Access = NO_ACCESS) -> Traffic:
    """Make tensor requests of one row of random values, as the model's metadata describes its inputs.

    Raises:
        ResonnxError: The model is not available, or an input has a variable shape or an unsupported type.
    """
    name, number, label = named_version(model, None)
    version = label or (str(number) if number else "")
    async with access.aio_channel(targets(server)[0]) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            asked = grpc_service_pb2.ModelMetadataRequest(name=name, version=version)
            metadata = await stub.ModelMetadata(
                asked, timeout=_TIMEOUT_S, wait_for_ready=False, metadata=access.metadata
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        optional = await _optional_inputs(stub, name, version, access)
    filled = [tensor for tensor in metadata.inputs if tensor.name not in optional]
    if not filled:
        # Alternative inputs: the first that can be filled with random values.
        filled = [tensor for tensor in metadata.inputs if tensor.datatype in _RANDOM][:1]
    rng = random.Random(seed)
    requests = []
    for _ in range(_VARIANTS):
        request = grpc_service_pb2.ModelInferRequest(model_name=name, model_version=version)
        for tensor in filled:
            # A variable first axis is the batch.
            shape = [1 if i == 0 and size == -1 else size for i, size in enumerate(tensor.shape)]
            if -1 in shape or tensor.datatype not in _RANDOM:
                raise FailedPrecondition(
                    f"bench makes tensors of fixed shapes and the types {', '.join(_RANDOM)}; "
                    f"{tensor.name!r} of {model} is {tensor.datatype} {list(tensor.shape)}"
                )
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
            request.raw_input_contents.append(_RANDOM[tensor.datatype](rng, math.prod(shape)))
        requests.append(request.SerializeToString())
    return Traffic("/inference.GRPCInferenceService/ModelInfer", tuple(requests), _TENSOR_STREAM)


async def _optional_inputs(stub: Any, model: str, version: str, access: Access) -> set[str]:
    """Return the names of inputs that requests may omit, if the server tells them."""
    try:
        answer = await stub.ModelConfig(
            grpc_service_pb2.ModelConfigRequest(name=model, version=version),
            timeout=_TIMEOUT_S,
            metadata=access.metadata,
        )
    except grpc.RpcError:
        # Triton's extension, which other servers lack.
        return set()
    return {tensor.name for tensor in answer.config.input if tensor.optional}


def _floats(rng: random.Random, count: int) -> bytes:
    return array("f", (rng.random() for _ in range(count))).tobytes()


_RANDOM: Final[dict[str, Callable[[random.Random, int], bytes]]] = {
    "UINT8": random.Random.randbytes,
    "FP32": _floats,
}


def _numbered_tensor(id: str, left_s: float | None) -> bytes:
    request = grpc_service_pb2.ModelInferRequest(id=id)
    if left_s is not None:
        request.parameters["timeout"].int64_param = max(1, int(left_s * 1e6))
    return request.SerializeToString()


def _tensor_outcome(answer: bytes) -> tuple[str, str, str]:
    message = grpc_service_pb2.ModelStreamInferResponse.FromString(answer)
    # The protocol has no status code for errors on a stream.
    return message.infer_response.id, "STREAM_ERROR" if message.error_message else OK, message.error_message


_TENSOR_STREAM: Final = StreamCall(
    "/inference.GRPCInferenceService/ModelStreamInfer", _numbered_tensor, _tensor_outcome
)
