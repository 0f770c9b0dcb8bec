"""Ready-made requests for a model, as bytes: picture files, raw pixels, or tensors of the Open Inference Protocol."""

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

from resonnx._async_client import AsyncClient
from resonnx._errors import FailedPrecondition, from_rpc_error
from resonnx.bench.summary import OK

# Different contents, so that no cache of a processor or a server answers in the model's place.
_VARIANTS: Final = 16
# Of the one question that is asked before the load.
_TIMEOUT_S: Final = 10.0


class Input(StrEnum):
    """What a request carries."""

    FILE = "file"
    PIXELS = "pixels"
    TENSOR = "tensor"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What to send, and where to.

    Attributes:
        unary: The path of the method that takes one request.
        stream: The path of the bidirectional one, or None.
        requests: Serialised.
        numbered: Given an id and seconds to live (None: for ever), what to append to a serialised request for a
            stream: messages merge when their bytes are joined.
        outcome: Given an answer of the stream, its id, gRPC status code, and what it says of a failure.
    """

    unary: str
    stream: str | None
    requests: tuple[bytes, ...]
    numbered: Callable[[str, float | None], bytes]
    outcome: Callable[[bytes], tuple[str, str, str]]


async def vision_traffic(server: str, model: str, files: Sequence[bytes], seed: int) -> Traffic:
    """Make requests of the Vision service: `files`, or pixels of the model's own size where none are given.

    Raises:
        ResonnxError: The server or the model cannot be had, or pixels are wanted of a bare model.
    """
    async with AsyncClient(server, timeout_s=_TIMEOUT_S) as client:
        info = await client.model(model)
    if info.manifest is None:
        raise FailedPrecondition(f"{model} is a bare ONNX file, which takes no pictures: send tensors")
    if files:
        images = [vision_pb2.Image(encoded=file) for file in files]
    else:
        rng = random.Random(seed)
        width, height = info.manifest.input.width, info.manifest.input.height
        raws = (vision_pb2.Image.Raw(rgb=rng.randbytes(width * height * 3), width=width, height=height)
                for _ in range(_VARIANTS))  # fmt: skip
        images = [vision_pb2.Image(raw=raw) for raw in raws]
    if info.summary.task == "captioner":
        captions = [vision_pb2.CaptionRequest(model=model, image=image) for image in images]
        return _vision("Caption", None, tuple(request.SerializeToString() for request in captions))
    requests = [vision_pb2.ClassifyRequest(model=model, image=image) for image in images]
    return _vision("Classify", "ClassifyStream", tuple(request.SerializeToString() for request in requests))


def _vision(unary: str, stream: str | None, requests: tuple[bytes, ...]) -> Traffic:
    service = "/resonnx.v1.Vision/"
    return Traffic(service + unary, stream and service + stream, requests, _numbered_picture, _picture_outcome)


def _numbered_picture(id: str, left_s: float | None) -> bytes:
    # A picture of a stream has no deadline of its own.
    return vision_pb2.ClassifyRequest(id=id).SerializeToString()


def _picture_outcome(answer: bytes) -> tuple[str, str, str]:
    message = vision_pb2.ClassifyStreamResponse.FromString(answer)
    return message.id, message.error.code if message.HasField("error") else OK, message.error.message


async def tensor_traffic(server: str, model: str, seed: int) -> Traffic:
    """Make tensor requests of one row, of whatever type and shape the model says it takes; any server will do.

    Raises:
        ResonnxError: The server or the model cannot be had, or an input's shape is not fixed.
    """
    async with grpc.aio.insecure_channel(server) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            asked = grpc_service_pb2.ModelMetadataRequest(name=model)
            metadata = await stub.ModelMetadata(asked, timeout=_TIMEOUT_S, wait_for_ready=False)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        optional = await _optional_inputs(stub, model)
    filled = [tensor for tensor in metadata.inputs if tensor.name not in optional]
    if not filled:
        # One of several ways to say the same: the first that can be made up.
        filled = [tensor for tensor in metadata.inputs if tensor.datatype in _RANDOM][:1]
    rng = random.Random(seed)
    requests = []
    for _ in range(_VARIANTS):
        request = grpc_service_pb2.ModelInferRequest(model_name=model)
        for tensor in filled:
            # The first axis is the batch's where it is free.
            shape = [1 if i == 0 and size == -1 else size for i, size in enumerate(tensor.shape)]
            if -1 in shape or tensor.datatype not in _RANDOM:
                raise FailedPrecondition(
                    f"bench makes tensors of fixed shapes and the types {', '.join(_RANDOM)}; "
                    f"{tensor.name!r} of {model} is {tensor.datatype} {list(tensor.shape)}"
                )
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
            request.raw_input_contents.append(_RANDOM[tensor.datatype](rng, math.prod(shape)))
        requests.append(request.SerializeToString())
    service = "/inference.GRPCInferenceService/"
    return Traffic(
        service + "ModelInfer", service + "ModelStreamInfer", tuple(requests), _numbered_tensor, _tensor_outcome
    )


async def _optional_inputs(stub: Any, model: str) -> set[str]:
    """Return which inputs a request may leave out, as far as the server says so."""
    try:
        answer = await stub.ModelConfig(grpc_service_pb2.ModelConfigRequest(name=model), timeout=_TIMEOUT_S)
    except grpc.RpcError:
        # An extension, that other servers do not have.
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
    # The protocol tells only a text of what went wrong on a stream.
    return message.infer_response.id, "STREAM_ERROR" if message.error_message else OK, message.error_message
