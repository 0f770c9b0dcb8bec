"""What a call uses of the protocol: its method, and each field, parameter, setting and header of its request."""

import json
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, urlsplit

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from resonnx_proto.inference import grpc_service_pb2
from resonnx_proto.v1 import repository_pb2, vision_pb2

from .http1 import Request
from .http2 import Call

SERVICES = {
    service.full_name: service
    for service in (
        vision_pb2.DESCRIPTOR.services_by_name["Vision"],
        repository_pb2.DESCRIPTOR.services_by_name["Repository"],
        grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
        health_pb2.DESCRIPTOR.services_by_name["Health"],
        reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    )
}
# Its messages are those of v1alpha.
SERVICES["grpc.reflection.v1.ServerReflection"] = SERVICES["grpc.reflection.v1alpha.ServerReflection"]
# This server has no memory of GPUs: it says so.
_REFUSED = "/inference.GRPCInferenceService/CudaSharedMemoryRegister"
_UNIMPLEMENTED = 12
# Headers that mean something to the server: of calls and of requests.
CALL_HEADERS = ("authorization", "grpc-encoding", "grpc-timeout")
REQUEST_HEADERS = ("accept", "accept-encoding", "authorization", "content-encoding", "grpc-timeout")


def kind_of(path: str) -> Descriptor:
    """Return the request's message of a method, by the method's path."""
    _, service, method = path.split("/")
    return SERVICES[service].methods_by_name[method].input_type


def of_call(call: Call) -> Iterator[tuple[str, str]]:
    """Return path and use of what a call uses: "" for its method, otherwise a field or header; none if it failed."""
    if not (call.has_answer or (call.path == _REFUSED and call.status == _UNIMPLEMENTED)):
        return
    yield call.path, ""
    message_type = GetMessageClass(kind_of(call.path))
    for content in call.asked.messages():
        for use in of_message(message_type.FromString(content)):
            yield call.path, use
    for name in CALL_HEADERS:
        value = call.asked.headers.get(name, "identity")
        if value != "identity":
            yield call.path, f"{name}: {value}" if name == "grpc-encoding" else f"{name}:"


def of_message(message: Message, before: str = "") -> Iterator[str]:
    """Return the fields of a message that have values, with the keys of maps and the names of datatypes."""
    for field, value in message.ListFields():
        name = before + field.name
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            yield from (f"{name}[{key}]" for key in value)
        elif field.message_type is not None:
            yield name
            for each in value if field.is_repeated else (value,):
                yield from of_message(each, f"{name}.")
        else:
            yield f"{name}={value}" if field.name == "datatype" else name


def of_request(request: Request, paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Return path and use of what an HTTP request uses; none if it failed.

    Args:
        request: The request.
        paths: Those that are served, each with its method, as `GET /v2/models/{name}`.
    """
    target = urlsplit(request.target)
    found = [path for path in paths if _fits(path, f"{request.method} {target.path}")]
    if request.status >= 300 or not found:
        return
    path = found[0]
    yield path, ""
    for name, _ in parse_qsl(target.query, keep_blank_values=True):
        yield path, f"?{name}"
    headers = request.message.headers
    for name in REQUEST_HEADERS:
        for value in headers.get(name, "").split(","):
            if value:
                yield path, f"{name}:" if name in ("authorization", "grpc-timeout") else f"{name}: {value.strip()}"
    if headers.get("content-type", "").startswith("multipart/"):
        yield path, "content-type: multipart/form-data"
    if path.endswith("/infer"):
        size = headers.get("inference-header-content-length")
        body = request.message.unpacked
        head = json.loads(body if size is None else body[: int(size)])
        yield from ((path, use) for use in _of_json(head))


def _of_json(head: dict) -> Iterator[str]:
    for name, value in head.items():
        if value is None:
            continue
        if name in ("inputs", "outputs"):
            for each in value:
                yield from (f"{name}.{use}" for use in _of_json(each))
        elif name == "parameters":
            yield from (f"parameters[{key}]" for key, given in value.items() if given is not None)
        else:
            yield f"{name}={value}" if name == "datatype" else name


def _fits(path: str, target: str) -> bool:
    parts, given = path.split("/"), target.split("/")
    return len(parts) == len(given) and all(a == b or a.startswith("{") for a, b in zip(parts, given, strict=True))
