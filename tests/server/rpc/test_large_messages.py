"""Large messages of every kind: none stops the server for others, and those over the limits are told which one."""

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2

from ..lifecycle.health_prober import asking_health
from .oip import large_models

# Of others' answers, while a large request is served; beside what they take when none is.
MOST_S = 0.05
TRIES = 20
MIB = 1 << 20
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@pytest.fixture(scope="module")
def server(start_server, tmp_path_factory) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("large")
    large_models.write(repository)
    with start_server(repository) as server:
        yield server


@pytest.fixture(scope="module")
def channel(server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc, options=UNLIMITED) as channel:
        yield channel


@pytest.fixture(scope="module")
def infer(channel) -> Any:
    return channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")


def _raw(model: str, datatype: str, shape: list[int], content: bytes, name: str = "x", **top_k: int) -> bytes:
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[content])
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    for output, k in top_k.items():
        request.outputs.add(name=output).parameters["classification"].int64_param = k
    return request.SerializeToString()


def _typed(datatype: str, field: str, values: Any) -> bytes:
    request = pb.ModelInferRequest(model_name=f"copy_{datatype}")
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[1, len(values)])
    getattr(tensor.contents, field).extend(values)
    return request.SerializeToString()


def _made(datatype: str, count: int, **top_k: int) -> bytes:
    return _raw(f"make_{datatype}", "INT64", [1], struct.pack("<q", count), "count", **top_k)


def _wide(rows: int, top_k: int) -> bytes:
    values = np.random.default_rng(0).random((rows, 1000), np.float32)
    return _raw("wide", "FP32", [rows, 1000], values.tobytes(), y=top_k)


_STRINGS = 400_000
_STRING = struct.pack("<I", 3) + b"abc"
KINDS: dict[str, Callable[[], bytes]] = {
    "raw numbers": lambda: _raw("copy_FP32", "FP32", [1, 4 * MIB], bytes(16 * MIB)),
    "raw bytes": lambda: _raw("copy_UINT8", "UINT8", [1, 16 * MIB], bytes(16 * MIB)),
    "raw strings": lambda: _raw("copy_BYTES", "BYTES", [1, _STRINGS], _STRING * _STRINGS),
    "typed bools": lambda: _typed("BOOL", "bool_contents", [True] * 16_000_000),
    "typed integers": lambda: _typed("INT32", "int_contents", [-5] * 1_600_000),
    "typed bytes": lambda: _typed("UINT8", "uint_contents", [200] * 8_000_000),
    "typed floats": lambda: _typed("FP32", "fp32_contents", np.ones(4 * MIB, np.float32)),
    "typed doubles": lambda: _typed("FP64", "fp64_contents", np.ones(2 * MIB)),
    "typed strings": lambda: _typed("BYTES", "bytes_contents", [b"abc"] * _STRINGS),
    "numbers out": lambda: _made("FP32", 8 * MIB),
    "numbers out of many batches": lambda: _raw("spread", "FP32", [200, 1], bytes(800)),
    "strings out": lambda: _made("BYTES", _STRINGS),
    "many outputs": lambda: _raw("many", "FP32", [1, 10_000], bytes(40_000)),
    "best of many classes": lambda: _made("FP32", 16_000_000, y=1_000_000),
    "best of many rows": lambda: _wide(1000, 1000),
    "a picture": lambda: vision_pb2.ClassifyRequest(
        model="wide", image={"encoded": bytes(16 * MIB)}
    ).SerializeToString(),
    "fields beside a picture": lambda: b"\x78\x01" * 4_000_000,
    "no message but fields": lambda: b"\x2a\x00" * 4_000_000,
    "many parameters": lambda: pb.ModelInferRequest(
        parameters={str(number): pb.InferParameter(int64_param=1) for number in range(500_000)}
    ).SerializeToString(),
}


# Kinds that another one is served like, but for the type.
LIKE_OTHERS = ("raw bytes", "typed bytes", "typed doubles", "numbers out", "best of many classes")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in LIKE_OTHERS else kind for kind in KINDS]
)
def test_no_request_holds_up_others(server, channel, infer, kind: str) -> None:
    """Others' longest answer, in the quietest of some tries: a busy machine is late without a large request, too."""
    request = KINDS[kind]()
    ask = channel.unary_unary("/resonnx.v1.Vision/Classify") if "picture" in kind else infer
    beyond = []
    for _ in range(TRIES):
        with asking_health(server.grpc) as quiet:
            infer(_made("FP32", 1), timeout=60)
        with asking_health(server.grpc) as beside:
            code = ask.future(request, timeout=100).code()
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)
        beyond.append(beside[0] - quiet[0])
        if beyond[-1] < MOST_S:
            return
    pytest.fail(f"others waited {[f'{1000 * seconds:.0f} ms' for seconds in beyond]}")


@pytest.mark.parametrize(
    ("request_of", "told"),
    [
        (partial(_wide, 1024, 1000), "classification requests 1024000 classes in total, more than 1000000"),
        (partial(_wide, 1001, 2**40), "classification requests 1001000 classes in total, more than 1000000"),
        (partial(_made, "FP32", 2_000_000, y=1_000_001), "classification requests 1000001 classes in total"),
    ],
)
def test_more_classes_than_may_be_asked_for(infer, request_of: Callable[[], bytes], told: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        infer(request_of(), timeout=60)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert told in refused.value.details()


def test_as_many_classes_as_may_be_asked_for(infer) -> None:
    answer = pb.ModelInferResponse.FromString(infer(_wide(1000, 1000), timeout=60))
    assert [*answer.outputs[0].shape] == [1000, 1000]
    assert answer.raw_output_contents[0].count(b":999") == 1000


@pytest.mark.parametrize(
    ("request_of", "size"),
    [(partial(_made, "FP32", 20_000_000), "80000031"), (partial(_made, "BYTES", 10_000_000), "700000")],
)
def test_an_answer_over_the_limit(server, infer, request_of: Callable[[], bytes], size: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        infer(request_of(), timeout=60)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"the answer has {size}" in refused.value.details()
    assert "max_message_bytes, 67108864" in refused.value.details()
    assert ("grpc-retry-pushback-ms", "-1") in [(key, value) for key, value in refused.value.trailing_metadata()]


@pytest.mark.parametrize("method", ["/inference.GRPCInferenceService/ModelInfer", "/resonnx.v1.Vision/Classify"])
def test_a_request_over_the_limit(channel, method: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(method)(bytes(70 * MIB), timeout=60)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == (
        "the request has 73400320 bytes, more than the server's max_message_bytes, 67108864"
    )


def test_a_request_over_the_limit_ends_its_stream(channel) -> None:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    small = pb.ModelInferRequest.FromString(_made("FP32", 1))
    large = pb.ModelInferRequest(raw_input_contents=[bytes(70 * MIB)])
    answers = stub.ModelStreamInfer(iter([small, large]), timeout=60)
    assert next(answers).infer_response.outputs
    with pytest.raises(grpc.RpcError) as refused:
        next(answers)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "more than the server's max_message_bytes, 67108864" in refused.value.details()


def test_calls_of_names_take_little(channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata")(bytes(2 * MIB), timeout=60)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "2097152 bytes, more than 65536 for this call" in refused.value.details()
