"""Between SIGTERM and the end of connections, a real server serves on and says that it is not ready."""

import asyncio
import signal
import socket
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from .. import bare_graphs
from ..http.rest.asking_http import ask

_TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 3]}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model that doubles three numbers."""
    (tmp_path / "double/1").mkdir(parents=True)
    (tmp_path / "double/1/model.onnx").write_bytes(bare_graphs.doubling())
    return tmp_path


def _request(name: str = "") -> pb.ModelInferRequest:
    content = np.full(3, 2, np.float32).tobytes()
    return pb.ModelInferRequest(model_name="double", id=name, inputs=[_TENSOR], raw_input_contents=[content])


def _connects(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 10).close()
    except ConnectionRefusedError:
        return False
    return True


async def test_new_calls_are_served_until_a_second_signal(start_server, repository: Path) -> None:
    """Over new connections, too, by gRPC and HTTP; a stream goes on; then both ports refuse connections."""
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with start_server(repository, "--drain-delay-s", "600") as server:
        async with (
            grpc.aio.insecure_channel(server.grpc, options=options) as before,
            grpc.aio.insecure_channel(server.grpc, options=options) as after,
            asyncio.timeout(50),
        ):
            watch = health_pb2_grpc.HealthStub(before).Watch(health_pb2.HealthCheckRequest(service=""))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(before)
            stream = stub.ModelStreamInfer()
            await stream.write(_request("1"))
            assert (await stream.read()).infer_response.id == "1"
            server.process.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert server.get("/readyz")[0] == 503
            assert server.get("/livez")[0] == 200
            assert not (await stub.ServerReady(pb.ServerReadyRequest())).ready

            await stream.write(_request("2"))
            assert (await stream.read()).infer_response.id == "2"
            for channel in (before, after):
                answer = await grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(_request())
                assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [4] * 3
            body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}'
            asked = await asyncio.to_thread(ask, server.http, "/v2/models/double/infer", body)
            assert asked.json["outputs"][0]["data"] == [2, 4, 6]
            assert asked.headers["Connection"] == "close", "the next request may go to another server"

            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await stream.read()
            assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(server.process.wait, 25) == 0
        assert not _connects(server.grpc)
        assert not _connects(server.http)


async def test_a_long_call_is_answered_after_the_delay(start_server, tmp_path: Path) -> None:
    """While no more connections are taken, and beside one that only watches health."""
    (tmp_path / "loops/1").mkdir(parents=True)
    (tmp_path / "loops/1/model.onnx").write_bytes(bare_graphs.counting())
    tensor = {"name": "times", "datatype": "INT64", "shape": [1]}
    content = np.array([600_000], np.int64).tobytes()
    request = pb.ModelInferRequest(model_name="loops", inputs=[tensor], raw_input_contents=[content])
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with start_server(tmp_path) as server:
        async with (
            grpc.aio.insecure_channel(server.grpc, options=options) as busy,
            grpc.aio.insecure_channel(server.grpc, options=options) as idle,
            asyncio.timeout(50),
        ):
            watch = health_pb2_grpc.HealthStub(idle).Watch(health_pb2.HealthCheckRequest(service=""))
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            call = grpc_service_pb2_grpc.GRPCInferenceServiceStub(busy).ModelInfer(request)
            while not server.metric("resonnx_requests_in_progress", model="loops"):
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            while _connects(server.grpc):
                await asyncio.sleep(0.01)
            assert not call.done(), "its connection is left alone"
            assert (await call).model_name == "loops"
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await watch.read()
            assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
            assert await asyncio.to_thread(server.process.wait, 25) == 0


@pytest.mark.parametrize(("number", "least_s", "most_s"), [(signal.SIGTERM, 0.8, 20), (signal.SIGINT, 0, 20)])
def test_the_delay_ends_by_itself_and_ctrl_c_does_not_wait(
    start_server, repository: Path, number: signal.Signals, least_s: float, most_s: float
) -> None:
    delay_s = "0.8" if number == signal.SIGTERM else "600"
    with start_server(repository, "--drain-delay-s", delay_s) as server:
        began = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(most_s) == 0
        assert time.monotonic() - began >= least_s
