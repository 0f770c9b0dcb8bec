"""Which front is chosen, with each part of gRPC's private module missing, failing or wrong."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from inspect import isfunction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_server.rpc.fronts.aio.server import AioFront
from resonnx_server.rpc.fronts.choose import FrontUnavailable, choose
from resonnx_server.rpc.fronts.core import check as checking
from resonnx_server.rpc.fronts.core import operations as ops
from resonnx_server.rpc.fronts.core.server import CoreFront

from ... import bare_graphs

REAL = ops.cygrpc
FUNCTIONS = [name for name, value in vars(ops).items() if isfunction(value) and value.__module__ == ops.__name__]
METHODS = [(name, method) for name, methods in ops._USED.items() for method in methods]
# Types that gRPC itself makes, and no method: what is done with them fails in other ways below.
GIVEN = ("Call", "CompletionType", "RequestCallEvent", "auth_context")
REPLACEABLE = [(name, method) for name, method in METHODS if name not in GIVEN]


def _nothing() -> None:
    """Take note of no unknown method."""


def _fail(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("broken on purpose")


async def _why_aio(caplog: pytest.LogCaptureFixture) -> str:
    """Hold that grpc.aio is chosen, with one line in the log; return the reason."""
    with caplog.at_level(logging.INFO):
        assert isinstance(await choose("auto", [], _nothing), AioFront)
    (line,) = caplog.records
    assert line.getMessage() == "using gRPC front aio, as core does not work"
    why: str = vars(line)["why"]
    return why


def _replace(monkeypatch: pytest.MonkeyPatch, name: str, replacement: Any) -> None:
    """Put something in the place of one class of gRPC's module."""
    classes = {used: getattr(REAL, used) for used in ops._USED} | {name: replacement}
    monkeypatch.setattr(ops, "cygrpc", SimpleNamespace(**{key: value for key, value in classes.items() if value}))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A check that fails need not take ten seconds."""
    monkeypatch.setattr(checking.check, "__defaults__", (0.5,))
    monkeypatch.setattr(checking, "_LAST_STOP_S", 0.1)
    return monkeypatch


async def test_core_is_chosen_where_it_works(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert isinstance(await choose("auto", [], _nothing), CoreFront)
        assert isinstance(await choose("core", [], _nothing), CoreFront)
        assert isinstance(await choose("aio", [], _nothing), AioFront)
    assert not caplog.records


async def test_a_check_takes_milliseconds() -> None:
    loop = asyncio.get_running_loop()
    times = []
    for _ in range(5):
        begin = loop.time()
        await checking.check()
        times.append(loop.time() - begin)
    assert min(times) < 0.2, "servers start no later for it"


async def test_a_module_that_cannot_be_imported(
    impatient: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    impatient.setitem(sys.modules, checking.__name__, None)
    assert "import" in await _why_aio(caplog)


@pytest.mark.parametrize(("name", "method"), [*((name, "") for name in ops._USED), *METHODS])
async def test_each_part_missing(
    impatient: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, method: str
) -> None:
    others = {other: None for other in ops._USED[name] if other != method}
    _replace(impatient, name, type(name, (), others) if method else None)
    assert f"{name}.{method}".rstrip(".") in await _why_aio(caplog)


@pytest.mark.parametrize("name", FUNCTIONS)
async def test_each_operation_failing(
    impatient: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    impatient.setattr(ops, name, _fail)
    assert await _why_aio(caplog) == "broken on purpose"


async def test_a_batch_of_operations_failing(impatient: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    impatient.setattr(ops.PendingOperations, "start", _fail)
    assert await _why_aio(caplog) == "broken on purpose"


@pytest.mark.parametrize(("name", "method"), [*((name, "__init__") for name, _ in REPLACEABLE), *REPLACEABLE])
async def test_each_part_failing(
    impatient: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, method: str
) -> None:
    _replace(impatient, name, type(name, (getattr(REAL, name),), {method: _fail}))
    assert await _why_aio(caplog) == "broken on purpose"


WRONG: dict[str, Callable[..., Any]] = {
    "deadline_s": lambda event: 0.0,
    "tls": lambda event: {},
    "peer": lambda event: "ipv4:198.51.100.1:1",
    "metadata": lambda event: (),
    "received": lambda event: event.batch_operations[0].message() and b"0",
    "is_cancelled": lambda event: False,
    "is_shutdown": lambda event: False,
    "send_headers": lambda: REAL.ReceiveMessageOperation(0),
    "send_message": lambda message: REAL.SendMessageOperation(message[:5], 0),
    "send_status": lambda code, details, trailers: REAL.SendStatusFromServerOperation((), 0, details, 0),
}


@pytest.mark.parametrize("name", WRONG)
async def test_operations_that_do_something_else(
    impatient: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    impatient.setattr(ops, name, WRONG[name])
    assert await _why_aio(caplog)


async def test_core_that_is_wanted_and_does_not_work(impatient: pytest.MonkeyPatch) -> None:
    impatient.setattr(ops, "new_queue", _fail)
    with pytest.raises(FrontUnavailable, match=r"^grpc_front=core does not work with grpcio \S+: broken on purpose$"):
        await choose("core", [], _nothing)
    assert isinstance(await choose("aio", [], _nothing), AioFront), "it is not checked"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "models" / "doubling" / "1").mkdir(parents=True)
    (tmp_path / "models" / "doubling" / "1" / "model.onnx").write_bytes(bare_graphs.doubling())
    return tmp_path / "models"


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python whose grpcio lacks a class."""
    (tmp_path / "sitecustomize.py").write_text("from grpc._cython import cygrpc\ndel cygrpc.SendMessageOperation\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))}


def test_a_server_serves_where_core_does_not_work(start_server, repository: Path, broken: dict[str, str]) -> None:
    with start_server(repository, "--grpc-front", "auto", environment=broken) as server:
        with grpc.insecure_channel(server.grpc) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            assert stub.ModelReady(pb.ModelReadyRequest(name="doubling"), timeout=20).ready
        assert server.stop() == 0
        log = server.log.read_text()
    assert log.count("using gRPC front aio") == 1
    assert "grpc._cython.cygrpc has no SendMessageOperation" in log


def test_a_server_told_to_use_core_ends_where_it_does_not_work(repository: Path, broken: dict[str, str]) -> None:
    command = [sys.executable, "-m", "resonnx_server", "--repository", str(repository), "--port", "0"]
    command += ["--http-port", "0", "--grpc-front", "core"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **broken})
    assert done.returncode == 1
    assert done.stderr.startswith("resonnx-server: grpc_front=core does not work with grpcio ")
    assert done.stderr.count("\n") == 1
