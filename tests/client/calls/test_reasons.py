"""Each status and reason of the server has its exception."""

import grpc
import pytest
import resonnx
from resonnx._errors import from_rpc_error, from_stream
from resonnx_proto.v1 import vision_pb2
from resonnx_server import errors
from resonnx_server.rpc.boundary import code_of, rejection


def _kinds(kind: type[errors.ServerError]) -> list[type[errors.ServerError]]:
    return [kind, *(found for each in kind.__subclasses__() for found in _kinds(each))]


# Reasons that say no more than the status.
GENERAL = {
    "INTERNAL": resonnx.Internal,
    "INVALID_INPUT": resonnx.InvalidArgument,
    "ALREADY_EXISTS": resonnx.AlreadyExists,
    "NOT_SUPPORTED": resonnx.Unimplemented,
    "UNAUTHENTICATED": resonnx.Unauthenticated,
    "PERMISSION_DENIED": resonnx.PermissionDenied,
    "UNAVAILABLE": resonnx.Unavailable,
    "DEADLINE_EXCEEDED": resonnx.DeadlineExceeded,
}


@pytest.mark.parametrize("kind", sorted(set(_kinds(errors.ServerError)), key=lambda kind: kind.__name__))
def test_a_reason_of_the_server_is_a_class(kind: type[errors.ServerError]) -> None:
    made = kind.__new__(kind)
    Exception.__init__(made, "why")
    made.message = "why"
    made.field, made.retry_after_ms = "image", 250  # type: ignore[attr-defined]
    code = code_of(made)
    rejected = rejection(made).status
    failure = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*rejected[2]), "why")
    error = from_rpc_error(failure)
    assert (error.reason, error.code, error.message) == (kind.reason, code.name, "why")
    assert isinstance(error, getattr(resonnx, _camel(code.name)))
    if kind.reason in GENERAL:
        assert type(error) is GENERAL[kind.reason]
    else:
        assert type(error).default_reason == kind.reason
    assert error.retry_after_s == (0.25 if isinstance(made, errors.Overloaded) else None)
    of_stream = from_stream(vision_pb2.Error(code=code.name, reason=kind.reason, message="why"))
    assert type(of_stream) is type(error)


def _camel(code: str) -> str:
    return {"RESOURCE_EXHAUSTED": "Overloaded"}.get(code, code.title().replace("_", ""))


def test_a_reason_of_another_status_is_that_of_its_status() -> None:
    """As of a server that gives a reason a new status: who catches the status is not surprised."""
    error = from_stream(vision_pb2.Error(code="NOT_FOUND", reason="QUEUE_FULL"))
    assert type(error) is resonnx.NotFound
    assert error.reason == "QUEUE_FULL"
