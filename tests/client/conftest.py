"""A Vision server that answers as a test scripts it, and calls through either client."""

# ruff: noqa: N802  (gRPC names the methods)

import asyncio
import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from resonnx import AsyncClient, Client
from resonnx._rpcs import (
    CHECK_HEALTH,
    COMPARISONS,
    LOAD_MODEL,
    PROMOTE,
    REPOSITORY_INDEX,
    ROLLBACK,
    START_COMPARISON,
    UNLOAD_MODEL,
    WATCH_HEALTH,
)
from resonnx.cli import app
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc
from typer.testing import CliRunner

Script = Callable[[Any, grpc.ServicerContext], Any]


class ScriptedVision(vision_pb2_grpc.VisionServicer):
    """Runs `script[method](request, context)`, and keeps the requests that it got."""

    def __init__(self) -> None:
        self.address = ""
        self.script: dict[str, Script] = {}
        self.requests: list[Any] = []

    def _run(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        self.requests.append(request)
        return self.script[method](request, context)

    def Classify(self, request, context):
        return self._run("Classify", request, context)

    def ClassifyStream(self, request_iterator, context):
        yield from self.script["ClassifyStream"](request_iterator, context)

    def Caption(self, request, context):
        return self._run("Caption", request, context)

    def StreamCaption(self, request, context):
        yield from self._run("StreamCaption", request, context)

    def ClassifyVideo(self, request, context):
        return self._run("ClassifyVideo", request, context)

    def ClassifyVideoStream(self, request_iterator, context):
        yield from self.script["ClassifyVideoStream"](request_iterator, context)

    def ListModels(self, request, context):
        return self._run("ListModels", request, context)

    def GetModel(self, request, context):
        return self._run("GetModel", request, context)

    @staticmethod
    def fail(
        context: grpc.ServicerContext,
        code: grpc.StatusCode,
        message: str,
        *details: Message,
        pushback: str | None = None,
    ) -> Any:
        """End the call with a status, google.rpc details and a pushback, as the server does."""
        status = status_pb2.Status(code=code.value[0], message=message)
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        trailers: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", status.SerializeToString())]
        if pushback is not None:
            trailers.append(("grpc-retry-pushback-ms", pushback))
        context.set_trailing_metadata(tuple(trailers))
        context.abort(code, message)


class Others(grpc.GenericRpcHandler):
    """The scripted methods of other services, as those of Vision."""

    def __init__(self, vision: ScriptedVision) -> None:
        self._script = vision.script
        self._run = vision._run
        comparing = (START_COMPARISON, PROMOTE, ROLLBACK, COMPARISONS)
        others = (REPOSITORY_INDEX, LOAD_MODEL, UNLOAD_MODEL, CHECK_HEALTH, WATCH_HEALTH, *comparing)
        self._rpcs = {rpc.path: rpc for rpc in others}

    def service(self, handler_call_details: Any) -> Any:
        rpc = self._rpcs.get(handler_call_details.method)
        if rpc is None or (name := rpc.path.rpartition("/")[2]) not in self._script:
            return None
        handler: Any = grpc.unary_stream_rpc_method_handler if name == "Watch" else grpc.unary_unary_rpc_method_handler
        return handler(partial(self._run, name), rpc.request.FromString, rpc.response.SerializeToString)


@pytest.fixture
def vision() -> Iterator[ScriptedVision]:
    servicer = ScriptedVision()
    limit = 64 * 2**20
    with ThreadPoolExecutor(32) as pool:
        server = grpc.server(pool, options=[("grpc.max_receive_message_length", limit)])
        vision_pb2_grpc.add_VisionServicer_to_server(servicer, server)
        server.add_generic_rpc_handlers((Others(servicer),))
        servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield servicer
        server.stop(grace=None).wait()


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, vision: ScriptedVision) -> Callable[..., Any]:
    """`call(method, *args, **kwargs)` through one of the twins; iterators come back as lists."""

    def sync_call(method: str, *args: Any, **kwargs: Any) -> Any:
        with Client(vision.address, timeout_s=20.0) as client:
            answer = getattr(client, method)(*args, **kwargs)
            return list(answer) if inspect.isgenerator(answer) else answer

    def async_call(method: str, *args: Any, **kwargs: Any) -> Any:
        async def ask() -> Any:
            async with AsyncClient(vision.address, timeout_s=20.0) as client:
                answer = getattr(client, method)(*args, **kwargs)
                if inspect.isasyncgen(answer):
                    return [item async for item in answer]
                return await answer

        return asyncio.run(ask())

    return sync_call if request.param == "sync" else async_call


@pytest.fixture
def answer() -> vision_pb2.ClassifyResponse:
    """A classifier's answer, with scores that float32 holds exactly."""
    return vision_pb2.ClassifyResponse(
        model="digits",
        version=3,
        predictions=[
            vision_pb2.Prediction(label="seven", index=7, score=0.75),
            vision_pb2.Prediction(label="one", index=1, score=0.25),
        ],
        timing=vision_pb2.Timing(decode_us=1500, queue_us=250, compute_us=2000, batch_size=4),
    )


@pytest.fixture
def sentence() -> vision_pb2.CaptionResponse:
    """A captioner's answer."""
    words = [
        vision_pb2.Word(text="a", token=4, log_prob=-0.25),
        vision_pb2.Word(text="circle", token=9, log_prob=-0.5),
    ]
    return vision_pb2.CaptionResponse(
        model="scenes",
        version=1,
        captions=[vision_pb2.Caption(text="a circle", log_prob=-1.0, words=words, score=-0.5)],
        timing=vision_pb2.Timing(batch_size=1),
    )


@pytest.fixture
def run(vision, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., object]:
    """Run the command in a folder of its own, with the scripted server as its default."""
    monkeypatch.setenv("RESONNX_SERVER", vision.address)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """Forty files that hold their own names."""
    names = [f"{i:02}.jpg" for i in range(40)]
    for name in names:
        (tmp_path / name).write_text(name)
    return names


@pytest.fixture
def named(vision) -> None:
    """A classifier that answers with what the file holds, and cannot read a file that says junk."""

    def script(request, context):
        content = request.image.encoded.decode()
        if content == "junk":
            vision.fail(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "image: an HTML page; taken are\nJPEG and PNG files",
                error_details_pb2.ErrorInfo(reason="BAD_IMAGE", domain="resonnx"),
            )
        return vision_pb2.ClassifyResponse(
            model=request.model,
            version=3,
            predictions=[{"label": content, "index": 7, "score": 0.5}],
        )

    vision.script["Classify"] = script
