"""Messages that are no protobuf, mutated and random: an answer to each, no crash, and a quiet log.

SECURITY.md: "messages that do not parse, or that mean nothing".
"""

import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.v1 import vision_pb2

from ...conftest import RunningServer
from ...server import bare_graphs

MB = 1 << 20
_TIMEOUT_S = 20
_METHODS: list[MethodDescriptor] = [
    method
    for file in (vision_pb2, pb, health_pb2, reflection_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
_TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 3]}
_SEEDS: dict[str, Message] = {
    "ModelInferRequest": pb.ModelInferRequest(
        model_name="good", id="1", inputs=[_TENSOR], raw_input_contents=[bytes(12)], outputs=[{"name": "y"}]
    ),
    "ClassifyRequest": vision_pb2.ClassifyRequest(
        model="good", image={"raw": {"rgb": bytes(12), "width": 2, "height": 2}}, top_k=3
    ),
    "CaptionRequest": vision_pb2.CaptionRequest(model="good", image={"encoded": b"\xff\xd8\xff\xe0"}),
    "ServerReflectionRequest": reflection_pb2.ServerReflectionRequest(host="x", list_services="*"),
    "HealthCheckRequest": health_pb2.HealthCheckRequest(service="resonnx.v1.Vision"),
}
_SIGNED = {
    getattr(FieldDescriptor, f"TYPE_{kind}") for kind in ("INT32", "INT64", "SINT32", "SINT64", "SFIXED32", "SFIXED64")
}
_OF_32_BITS = {
    getattr(FieldDescriptor, f"TYPE_{kind}") for kind in ("INT32", "SINT32", "SFIXED32", "UINT32", "FIXED32")
}
# The others are of messages that begin as gzip does.
_UNREADABLE = (
    "the request message does not parse",
    "the request message is no valid gzip",
    "the request message is gzip that breaks off",
    "the request message has bytes after its gzip",
)
# Values at which varints, lengths and kinds of fields change.
_ODD = (0x00, 0x01, 0x07, 0x0A, 0x1F, 0x7F, 0x80, 0x8B, 0xFF)


def _oddity(rng: random.Random, field: FieldDescriptor) -> Any:
    """Return an unusual value of a field that is no message."""
    if field.type == field.TYPE_STRING:
        return rng.choice(["", "good", "x", "y", "FP32", "BYTES", "\x00", "a/../b", "€" * rng.randrange(300)])
    if field.type == field.TYPE_BYTES:
        return rng.randbytes(rng.choice([0, 1, 4, 12, 1_000]))
    if field.type == field.TYPE_ENUM:
        return rng.choice([0, 1, 2, 77])
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return rng.choice([0.0, -1.0, 1e30, math.inf, math.nan])
    if field.type == field.TYPE_BOOL:
        return rng.random() < 0.5
    most = (1 << (31 if field.type in _OF_32_BITS else 63)) - 1
    return rng.choice([0, 1, 2, 3, 1000, most, *([-1, -most - 1] if field.type in _SIGNED else [])])


def _make_odd(rng: random.Random, message: Message) -> None:
    """Change one field of a message, or of one inside it."""
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = rng.choice(fields)
    value = getattr(message, field.name)
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    if is_map:
        of = field.message_type.fields_by_name["value"]
        key = rng.choice(["priority", "timeout", "classification", "binary_data", "sequence_id", "x"])
        if of.message_type is None:
            value[key] = _oddity(rng, of)
        else:
            _make_odd(rng, value[key])
    elif field.message_type is not None:
        if field.is_repeated:
            value = rng.choice(value) if value and rng.random() < 0.7 else value.add()
        else:
            value.SetInParent()
        _make_odd(rng, value)
    elif field.is_repeated:
        value.extend(_oddity(rng, field) for _ in range(rng.choice([1, 1, 3, 200])))
    else:
        setattr(message, field.name, _oddity(rng, field))


def _message(rng: random.Random, method: MethodDescriptor) -> bytes:
    """Return an odd request of the method, its bytes mutated, or random bytes."""
    if rng.random() < 0.1:
        return rng.randbytes(rng.choice([1, 3, 20, 300, 5_000]))
    seed = GetMessageClass(method.input_type)()
    if method.input_type.name in _SEEDS:
        seed.CopyFrom(_SEEDS[method.input_type.name])
    for field in method.input_type.fields:
        if field.name in ("name", "model"):
            setattr(seed, field.name, "good")
    if rng.random() < 0.7:
        for _ in range(rng.randrange(1, 4)):
            _make_odd(rng, seed)
        return seed.SerializeToString()
    content = bytearray(seed.SerializeToString() or b"\x0a\x04good")
    for _ in range(rng.randrange(1, 5)):
        at, kind = rng.randrange(len(content) + 1), rng.random()
        if kind < 0.4 and at < len(content):
            content[at] = rng.choice([*_ODD, content[at] ^ 1 << rng.randrange(8)])
        elif kind < 0.6:
            content[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind < 0.8:
            del content[at : at + rng.randrange(1, 9)]
        else:
            content[at:at] = content[: rng.randrange(len(content) + 1)] * rng.randrange(1, 4)
    return bytes(content)


def _parses(message: bytes, method: MethodDescriptor) -> bool:
    try:
        GetMessageClass(method.input_type).FromString(message)
    except DecodeError:
        return False
    return True


def _call(channel: grpc.Channel, method: MethodDescriptor, messages: list[bytes]) -> "grpc.Call | None":
    """Call a method; return its error, or None. Watching for ever is ended by us."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    try:
        if method.client_streaming:
            call = channel.stream_stream(path)(iter(messages), timeout=_TIMEOUT_S)
        elif method.server_streaming:
            call = channel.unary_stream(path)(messages[0], timeout=_TIMEOUT_S)
        else:
            channel.unary_unary(path)(messages[0], timeout=_TIMEOUT_S)
            return None
        for number, _ in enumerate(call):
            if method.name == "Watch" or number > 1_000:
                call.cancel()
                return None
    except grpc.RpcError as error:
        return error  # type: ignore[return-value]
    return None


def _reason(error: Any) -> str:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert next(detail for detail in status.details if detail.Is(info.DESCRIPTOR)).Unpack(info)
    return str(info.reason)


def _send(address: str, seed: int, count: int) -> Counter[str]:
    """Send so many messages over one connection; return how many calls ended with each code."""
    rng, codes = random.Random(seed), Counter[str]()
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        while count > 0:
            method = rng.choice(_METHODS)
            messages = [_message(rng, method) for _ in range(rng.randrange(1, 4) if method.client_streaming else 1)]
            count -= len(messages)
            error: Any = _call(channel, method, messages)
            what = (method.full_name, messages)
            code = grpc.StatusCode.OK if error is None else error.code()
            codes[code.name] += 1
            assert code is not grpc.StatusCode.UNKNOWN, what
            assert code is not grpc.StatusCode.UNAVAILABLE, what
            assert code is not grpc.StatusCode.DEADLINE_EXCEEDED, what
            if all(_parses(message, method) for message in messages):
                assert code is not grpc.StatusCode.INTERNAL, (what, error)
            elif code is grpc.StatusCode.INTERNAL:
                assert error.details() in _UNREADABLE, what
                assert _reason(error) == "MESSAGE_UNREADABLE"
    return codes


@pytest.fixture(params=["core", "aio"])
def server(request: pytest.FixtureRequest, start_server, tmp_path: Path) -> Iterator[RunningServer]:
    (tmp_path / "good/1").mkdir(parents=True)
    (tmp_path / "good/1/model.onnx").write_bytes(bare_graphs.doubling())
    with start_server(tmp_path, environment={"RESONNX_GRPC_FRONT": request.param}) as running:
        yield running


@pytest.mark.parametrize("count", [300, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_every_message_has_its_answer(server: RunningServer, count: int) -> None:
    _send(server.grpc, 0, 200)
    before, lines, began = server.resident_bytes(), len(server.log.read_text().splitlines()), time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        codes = sum(pool.map(lambda seed: _send(server.grpc, seed, count // 4), range(1, 5)), Counter[str]())
    lasted_s = time.monotonic() - began
    print(dict(codes), f"{lasted_s:.0f} s, {(server.resident_bytes() - before) / MB:.0f} MB more")
    assert {"OK", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND"} <= set(codes)
    assert server.process.poll() is None
    assert server.resident_bytes() - before < 64 * MB
    assert len(server.log.read_text().splitlines()) - lines <= 10 * (lasted_s + 1)
    server.ends_well()
