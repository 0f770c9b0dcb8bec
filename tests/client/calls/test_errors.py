"""How a gRPC status becomes an exception."""

import pickle

import grpc
import pytest
import resonnx
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from resonnx._errors import from_rpc_error, from_unreadable


class Failure(grpc.RpcError):
    """A failed call."""

    def __init__(self, code: grpc.StatusCode, details: str | None = None, trailers=()) -> None:
        self._code = code
        self._details = details
        self._trailers = trailers

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str | None:
        return self._details

    def trailing_metadata(self):
        return self._trailers


def status(*details) -> bytes:
    message = status_pb2.Status()
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        message.details.append(packed)
    return message.SerializeToString()


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_every_code_has_its_class(code: grpc.StatusCode) -> None:
    error = from_rpc_error(Failure(code, "said so"))
    named = {
        "INVALID_ARGUMENT": resonnx.InvalidArgument,
        "NOT_FOUND": resonnx.NotFound,
        "ALREADY_EXISTS": resonnx.AlreadyExists,
        "FAILED_PRECONDITION": resonnx.FailedPrecondition,
        "UNIMPLEMENTED": resonnx.Unimplemented,
        "RESOURCE_EXHAUSTED": resonnx.Overloaded,
        "UNAVAILABLE": resonnx.Unavailable,
        "DEADLINE_EXCEEDED": resonnx.DeadlineExceeded,
        "INTERNAL": resonnx.Internal,
        "CANCELLED": resonnx.Cancelled,
        "UNAUTHENTICATED": resonnx.Unauthenticated,
        "PERMISSION_DENIED": resonnx.PermissionDenied,
    }
    assert type(error) is named.get(code.name, resonnx.ResonnxError)
    assert (error.code, error.reason) == (code.name, code.name)
    assert (error.message, str(error)) == ("said so", "said so")
    assert (error.field, error.retry_after_s, error.request_id) == (None, None, None)


def test_details_are_read() -> None:
    details = status(
        error_details_pb2.ErrorInfo(reason="BAD_IMAGE", domain="resonnx"),
        error_details_pb2.BadRequest(field_violations=[error_details_pb2.BadRequest.FieldViolation(field="image")]),
        error_details_pb2.RetryInfo(retry_delay={"seconds": 1, "nanos": 500_000_000}),
        error_details_pb2.RequestInfo(request_id="r-1"),
    )
    trailers = [("grpc-status-details-bin", details)]
    error = from_rpc_error(Failure(grpc.StatusCode.INVALID_ARGUMENT, "no", trailers))
    told = (error.reason, error.field, error.retry_after_s, error.request_id)
    assert told == ("BAD_IMAGE", "image", 1.5, "r-1")


def test_another_domain_does_not_name_our_reason() -> None:
    details = status(error_details_pb2.ErrorInfo(reason="PROXY", domain="proxy.example"))
    trailers = [("grpc-status-details-bin", details)]
    assert from_rpc_error(Failure(grpc.StatusCode.INTERNAL, "", trailers)).reason == "INTERNAL"


@pytest.mark.parametrize(
    ("code", "details", "trailers", "raised"),
    [
        ("INTERNAL", "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))", (), resonnx.Unavailable),
        ("INTERNAL", "Received RST_STREAM with error code 2", None, resonnx.Unavailable),
        ("INTERNAL", "Received RST_STREAM with error code 2", [("grpc-status-details-bin", b"")], resonnx.Internal),
        ("INTERNAL", "Received RST_STREAM with error code 11", (), resonnx.Internal),
        ("UNKNOWN", "Received RST_STREAM with error code 2", (), resonnx.ResonnxError),
    ],
)
def test_a_stream_that_a_proxy_resets_is_unavailable(code: str, details: str, trailers, raised: type) -> None:
    """Text and trailers are those behind nginx; tests/replicas kills a server there."""
    error = from_rpc_error(Failure(grpc.StatusCode[code], details, trailers))
    assert type(error) is raised
    assert error.code == (raised.default_code if raised is not resonnx.ResonnxError else code)
    assert error.message == details


@given(junk=st.binary(max_size=40))
def test_junk_details_do_no_harm(junk: bytes) -> None:
    trailers = [("grpc-status-details-bin", junk)]
    error = from_rpc_error(Failure(grpc.StatusCode.NOT_FOUND, None, trailers))
    assert (error.code, error.message) == ("NOT_FOUND", "NOT_FOUND")


@pytest.mark.parametrize("trailers", [None, ()])
def test_a_failure_without_trailers(trailers) -> None:
    assert from_rpc_error(Failure(grpc.StatusCode.INTERNAL, "", trailers)).retry_after_s is None


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("1500", 1.5), ("-1", None), ("soon", None), ("", None)])
def test_pushback(value: str, seconds: float | None) -> None:
    failure = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "", [("grpc-retry-pushback-ms", value)])
    assert from_rpc_error(failure).retry_after_s == seconds


def test_an_unreadable_file_reads_like_the_servers_refusal() -> None:
    error = from_unreadable(FileNotFoundError(2, "No such file or directory", "x.jpg"))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "IMAGE_UNREADABLE")
    assert error.message == "No such file or directory"
    assert from_unreadable(ValueError("an array must be …")).message == "an array must be …"


def test_errors_survive_pickling() -> None:
    error = resonnx.NotFound("no model", reason="MODEL_NOT_FOUND", field="model")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is resonnx.NotFound
    assert vars(copy) == vars(error)
