"""RepositoryModelLoad and -Unload over a control that tests drive."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_server.access.caller import Caller, Role
from resonnx_server.config import ModelSettings
from resonnx_server.errors import ModelRefused, NotFound, NotSupported, Unavailable
from resonnx_server.inference.registry import Models
from resonnx_server.inference.repository_control import RepositoryControl, VersionState
from resonnx_server.rpc.oip.extensions.repository import RepositoryRpcs

LOAD, UNLOAD = pb.RepositoryModelLoadRequest, pb.RepositoryModelUnloadRequest


class Driven(RepositoryControl):
    """Notes what is asked of it, and does it when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.done: list[tuple[str, str]] = []
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.error: Exception | None = None

    async def load(self, name: str, settings: ModelSettings | None = None) -> None:
        assert settings is None
        await self._act("load", name)

    async def unload(self, name: str) -> None:
        await self._act("unload", name)

    def states(self) -> list[VersionState]:
        return []

    async def _act(self, kind: str, name: str) -> None:
        self.asked.append((kind, name))
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        self.done.append((kind, name))


class Called:
    """The context of a call, which keeps its status."""

    def __init__(self, models: frozenset[str] | None = None) -> None:
        self.caller = Caller("key:me", frozenset(Role), models=models)
        self.code, self.details, self.reason = grpc.StatusCode.OK, "", ""

    def set_status(self, code: grpc.StatusCode, details: str, trailers: Any = ()) -> None:
        self.code, self.details = code, details
        info = error_details_pb2.ErrorInfo()
        packed = dict(trailers)["grpc-status-details-bin"]
        assert status_pb2.Status.FromString(packed).details[0].Unpack(info)
        self.reason = info.reason


@pytest.fixture
def driven() -> Driven:
    return Driven()


async def _call(driven: RepositoryControl | None, request: Any, context: Called | None = None) -> Called:
    context = context or Called()
    rpcs = RepositoryRpcs(Models(control=driven), is_explicit=True)
    method: Callable[..., Any] = rpcs.RepositoryModelLoad if isinstance(request, LOAD) else rpcs.RepositoryModelUnload
    await method(request, context)
    return context


def _unload(**parameters: bool) -> pb.RepositoryModelUnloadRequest:
    request = UNLOAD(model_name="m")
    for name, value in parameters.items():
        request.parameters[name].bool_param = value
    return request


async def test_models_are_loaded_and_unloaded(driven: Driven) -> None:
    for request in (LOAD(model_name="m"), _unload(), _unload(unload_dependents=True)):
        assert (await _call(driven, request)).code is grpc.StatusCode.OK
    assert driven.done == [("load", "m"), ("unload", "m"), ("unload", "m")]


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (NotFound("there is none"), grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
        (ModelRefused("it is damaged"), grpc.StatusCode.FAILED_PRECONDITION, "MODEL_REFUSED"),
        (NotSupported("control_mode"), grpc.StatusCode.UNIMPLEMENTED, "NOT_SUPPORTED"),
        (Unavailable("it stops"), grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    ],
)
async def test_errors_become_statuses(driven: Driven, error: Exception, code: grpc.StatusCode, reason: str) -> None:
    driven.error = error
    for request in (LOAD(model_name="m"), _unload()):
        called = await _call(driven, request)
        assert (called.code, called.reason, called.details) == (code, reason, str(error))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"config": {"string_param": "{}"}}, "parameters['config']: configuration and files are those of the model's"),
        ({"file:1/model.onnx": {"bytes_param": b"x"}}, "parameters['file:1/model.onnx']: configuration and files are"),
        ({"colour": {"string_param": "red"}}, "parameters['colour']: is not a parameter"),
    ],
)
async def test_overrides_are_refused(driven: Driven, parameters: dict[str, Any], message: str) -> None:
    request = LOAD(model_name="m")
    for name, value in parameters.items():
        request.parameters[name].CopyFrom(pb.ModelRepositoryParameter(**value))
    called = await _call(driven, request)
    assert called.code is grpc.StatusCode.INVALID_ARGUMENT
    assert called.details.startswith(message)
    assert not driven.asked


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (LOAD(repository_name="other", model_name="m"), grpc.StatusCode.UNIMPLEMENTED),
        (UNLOAD(repository_name="other", model_name="m"), grpc.StatusCode.UNIMPLEMENTED),
        (LOAD(), grpc.StatusCode.INVALID_ARGUMENT),
        (UNLOAD(), grpc.StatusCode.INVALID_ARGUMENT),
        (_unload(force=True), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_is_not_understood_is_refused(driven: Driven, request_: Any, code: grpc.StatusCode) -> None:
    assert (await _call(driven, request_)).code is code
    assert not driven.asked


async def test_a_key_of_other_models_loads_none(driven: Driven) -> None:
    for request in (LOAD(model_name="m"), _unload()):
        called = await _call(driven, request, Called(models=frozenset({"other"})))
        assert (called.code, called.reason) == (grpc.StatusCode.PERMISSION_DENIED, "MODEL_NOT_ALLOWED")
    assert not driven.asked


async def test_without_a_control_models_are_not_loaded() -> None:
    models, called = Models(), Called()
    method: Callable[..., Any] = RepositoryRpcs(models, is_explicit=True).RepositoryModelLoad
    await method(LOAD(model_name="m"), called)
    assert (called.code, called.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_SUPPORTED")
    assert models.rejected.counts["NOT_SUPPORTED"] == sum(models.rejected.counts.values()) == 1


async def test_a_load_goes_on_without_its_caller(driven: Driven) -> None:
    driven.may_end.clear()
    call = asyncio.create_task(_call(driven, LOAD(model_name="m")))
    while not driven.asked:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    driven.may_end.set()
    while not driven.done:
        await asyncio.sleep(0)


def test_the_extension_is_told_where_it_works() -> None:
    for is_explicit in (True, False):
        rpcs = RepositoryRpcs(Models(), is_explicit=is_explicit)
        assert ("model_repository" in rpcs.extensions) == is_explicit
