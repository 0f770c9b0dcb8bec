"""The end of a real server: what is under way finishes, and nothing that does not end holds it up."""

import asyncio
import logging
import os
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server import lifecycle
from resonnx_server.config import Settings
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.options import PictureOptions
from tritonclient.utils import InferenceServerException

from .. import bare_graphs


async def test_drain_finishes_what_is_under_way(start_server, demo_repository: Path) -> None:
    """SIGTERM in the middle of a load: every call that was sent ends well or is told to go elsewhere; exit 0."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = vision_pb2.Image(raw={"rgb": pixels.tobytes(), "width": 64, "height": 64})
    codes: list[grpc.StatusCode] = []
    with start_server(demo_repository) as server:
        async with grpc.aio.insecure_channel(server.grpc, options=[("grpc.enable_retries", 0)]) as channel:
            vision = vision_pb2_grpc.VisionStub(channel)
            term_at, answered = 200, 0

            async def ask(number: int) -> None:
                nonlocal answered
                if number == term_at:
                    answered = len(codes)
                    server.process.terminate()
                try:
                    await vision.Caption(vision_pb2.CaptionRequest(model="scenes", image=image), timeout=30)
                    codes.append(grpc.StatusCode.OK)
                except grpc.aio.AioRpcError as error:
                    codes.append(error.code())

            async def client(first: int) -> None:
                for number in range(first, 400, 16):
                    await ask(number)

            await asyncio.gather(*(client(first) for first in range(16)))
        assert await asyncio.to_thread(server.process.wait, 60) == 0
        log = server.log.read_text()
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert codes.count(grpc.StatusCode.OK) > answered > 0, "fifteen others were under way, and later ones may be served"
    assert '"level": "error"' not in log


async def test_all_who_watch_hear_of_the_drain(start_server, demo_repository: Path) -> None:
    """Whoever else has left, and of a service that is unknown nothing."""
    answers = health_pb2.HealthCheckResponse
    with start_server(demo_repository) as server:
        async with grpc.aio.insecure_channel(server.grpc) as channel, asyncio.timeout(30):
            watch = health_pb2_grpc.HealthStub(channel).Watch
            services = ("", "resonnx.v1.Vision", "resonnx.v1.Vision/digits")
            staying, leaving = (
                [watch(health_pb2.HealthCheckRequest(service=service)) for service in services] for _ in range(2)
            )
            for call in (*staying, *leaving):
                assert (await call.read()).status == answers.SERVING
            unknown = watch(health_pb2.HealthCheckRequest(service="nobody"))
            assert (await unknown.read()).status == answers.SERVICE_UNKNOWN
            for call in leaving:
                call.cancel()
            later = watch(health_pb2.HealthCheckRequest(service="resonnx.v1.Vision/scenes"))
            assert (await later.read()).status == answers.SERVING
            server.process.terminate()
            for call in (*staying, later):
                assert (await call.read()).status == answers.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await unknown.read()
            assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(server.process.wait, 25) == 0


async def test_idle_streams_do_not_hold_up_the_stop(start_server, demo_repository: Path) -> None:
    """A health watch and an open stream without requests: told to go, and the server ends long before its grace."""
    with start_server(demo_repository) as server:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stream = vision_pb2_grpc.VisionStub(channel).ClassifyStream()
            await stream.write(vision_pb2.ClassifyRequest(model="nobody", id="first"))
            assert (await stream.read()).error.code == "NOT_FOUND"
            started = time.monotonic()
            server.process.terminate()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await stream.read()
            assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(server.process.wait, 25) == 0
            assert time.monotonic() - started < 10, "grace is 30 s"


@pytest.fixture
def wide_repository(tmp_path: Path) -> Path:
    """A bare model whose answer to one number are a million: 4 MB."""
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [1, 1_000_000])],
    )
    (tmp_path / "wide/1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "wide/1/model.onnx")
    return tmp_path


@pytest.mark.parametrize("signals", [1, 2])
async def test_answers_that_wait_for_their_reader_are_sent_before_the_end(
    start_server, wide_repository: Path, signals: int
) -> None:
    """Within the grace; a second signal says not to wait."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1]}
    requests = [
        pb.ModelInferRequest(model_name="wide", id=str(i), inputs=[tensor], raw_input_contents=[bytes(4)])
        for i in range(16)
    ]
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
    with start_server(wide_repository) as server:
        async with grpc.aio.insecure_channel(server.grpc, options=options) as channel, asyncio.timeout(60):
            stream = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(requests))
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            answers = [await stream.read()]
            while server.metric("nv_inference_request_success", model="wide") < len(requests):
                await asyncio.sleep(0.02)
            server.process.terminate()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            if signals == 2:
                server.process.terminate()
                assert await asyncio.to_thread(server.process.wait, 25) == 0, "nothing is read meanwhile"
                return
            while (answer := await stream.read()) is not grpc.aio.EOF:
                answers.append(answer)
                # The reader's pace: slower than the server would end otherwise.
                await asyncio.sleep(0.15)
            assert {answer.infer_response.id for answer in answers} == {request.id for request in requests}
            assert await stream.code() == grpc.StatusCode.OK
            assert await asyncio.to_thread(server.process.wait, 25) == 0


async def test_a_run_that_does_not_end_does_not_hold_up_the_stop(start_server, tmp_path: Path) -> None:
    """A graph that loops as often as it is told, told to loop for weeks: answered by its deadline, and then left."""
    (tmp_path / "loops/1").mkdir(parents=True)
    (tmp_path / "loops/1/model.onnx").write_bytes(bare_graphs.counting())
    with start_server(tmp_path, "--grace-s", "1") as server, triton.InferenceServerClient(server.grpc) as client:

        def loop(times: int, timeout_s: float) -> triton.InferResult:
            tensor = triton.InferInput("times", [1], "INT64")
            tensor.set_data_from_numpy(np.array([times]))
            return client.infer("loops", [tensor], client_timeout=timeout_s)

        assert loop(7, 20).as_numpy("y") == 7
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
            await asyncio.to_thread(loop, 10**15, 1)
        server.process.terminate()
        assert await asyncio.to_thread(server.process.wait, 20) == 1
        assert "does not end" in server.log.read_text()


async def test_a_picture_that_does_not_end_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No known file takes so long, so a codec does that waits for the test."""
    began, may_end = threading.Event(), threading.Event()
    statuses: list[int] = []
    monkeypatch.setattr(images, "check", lambda *_: None)
    monkeypatch.setattr(images, "load", lambda *_, **__: (began.set(), may_end.wait(20)))
    monkeypatch.setattr(lifecycle, "_LAST_JOB_S", 0.05)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    monkeypatch.setattr(os, "_exit", statuses.append)
    server = lifecycle.Server(Settings(repository=tmp_path, cache_dir=Path("none")))
    picture = asyncio.ensure_future(server.parts.decoder.load(b"", PictureOptions(ImageInput()), "image", 4))
    assert await asyncio.to_thread(began.wait, 20)
    await server._stop()
    assert statuses == [1]
    assert "does not end" in caplog.text
    may_end.set()
    await picture
