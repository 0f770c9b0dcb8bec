"""Half-open streams, idle ones, readers that do not read, and thousands of streams that end at once (SECURITY.md)."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_server.rpc.fronts.buffer import CALL_BYTES

from ..conftest import RunningServer, StartServer
from ..server import bare_graphs
from .guarded import eventually
from .http2 import Connection

STREAM, UNARY = (f"/inference.GRPCInferenceService/{name}" for name in ("ModelStreamInfer", "ModelInfer"))
LIMIT_S = 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "doubling/1").mkdir(parents=True)
    (folder / "doubling/1/model.onnx").write_bytes(bare_graphs.doubling())
    return folder


@pytest.fixture(scope="module")
def server(start_server: StartServer, models: Path) -> Iterator[RunningServer]:
    """A server on the front `core`; grpc.aio does not hold these."""
    flags = ("--max-receive-s", str(LIMIT_S), "--max-stream-idle-s", str(LIMIT_S))
    with start_server(models, "--grpc-front", "core", *flags) as server:
        yield server


def _request(rows: int) -> bytes:
    request = pb.ModelInferRequest(model_name="doubling", raw_input_contents=[np.ones((rows, 3), np.float32).tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 3])
    return request.SerializeToString()


@contextmanager
def _good_client(server: RunningServer) -> Iterator[list[float]]:
    """One call after the other; yields the list of their times in seconds."""
    times: list[float] = []
    over = threading.Event()

    def call() -> None:
        with triton.InferenceServerClient(server.grpc) as client:
            tensor = triton.InferInput("x", [1, 3], "FP32")
            tensor.set_data_from_numpy(np.ones((1, 3), np.float32))
            while not over.is_set():
                began = time.monotonic()
                client.infer("doubling", [tensor])
                times.append(time.monotonic() - began)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        eventually(lambda: times)
        yield times
    finally:
        over.set()
        thread.join()


def _p99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * len(times))]


def _slow_loris(server: RunningServer, connections: int, streams: int, limit_s: float) -> tuple[float, float]:
    """Open streams that bring nothing until all are ended; return the p99 of a good client without and beside them."""
    alone_s = min(limit_s / 3, 10)
    with _good_client(server) as times, ExitStack() as stack:
        time.sleep(alone_s)
        before = _p99(times)
        times.clear()
        opened = [stack.enter_context(closing(Connection(server.grpc))) for _ in range(connections)]
        calls = [(connection, connection.open(STREAM)) for connection in opened for _ in range(streams)]
        # Some hundred are ended in a second.
        end = time.monotonic() + limit_s + 30
        while not all(stream in connection.ended for connection, stream in calls):
            assert time.monotonic() < end, "some streams are not ended"
            time.sleep(0.05)
        beside = _p99(times)
        times.clear()
        time.sleep(alone_s)
        # Other processes may have come or gone meanwhile.
        return max(before, _p99(times)), beside


def test_streams_that_bring_nothing_end_and_health_watches_stay(server: RunningServer) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        alone, beside = _slow_loris(server, 5, 20, LIMIT_S)
        print(f"p99 alone {alone * 1e3:.1f} ms, beside 100 half-open streams {beside * 1e3:.1f} ms")
        assert watch.is_active()
        watch.cancel()


def test_a_half_open_or_idle_stream_is_told_why(server: RunningServer) -> None:
    for messages, reason in (
        ([], f"the request was not complete within {LIMIT_S} s"),
        ([_request(1)], f"the stream brought no message for {LIMIT_S} s (max_stream_idle_s)"),
    ):
        wait = threading.Event()

        def requests(messages: list[bytes] = messages, wait: threading.Event = wait) -> Iterator[bytes]:
            yield from messages
            wait.wait(30)

        with grpc.insecure_channel(server.grpc) as channel:
            call = channel.stream_stream(STREAM)(requests(), timeout=30)
            with pytest.raises(grpc.RpcError) as ended:
                for _ in call:
                    pass
            wait.set()
        assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, reason)


def test_calls_without_a_message_and_readers_that_do_not_read_end(server: RunningServer) -> None:
    with closing(Connection(server.grpc)) as connection:
        half = connection.open(UNARY)
        # Its answer is larger than the window that the client gives.
        unread, request = connection.open(UNARY), _request(8000)
        assert connection.send(unread, len(request), request)
        eventually(lambda: connection.ended >= {half, unread})
    eventually(lambda: server.metric("resonnx_memory_requests_bytes") == 0)


def test_an_answer_of_a_unary_call_is_not_kept_as_long_as_a_stream(start_server: StartServer, models: Path) -> None:
    flags = ("--grpc-front", "core", "--max-receive-s", str(LIMIT_S))
    with start_server(models, *flags) as server, closing(Connection(server.grpc)) as connection:
        unread, request = connection.open(UNARY), _request(8000)
        assert connection.send(unread, len(request), request)
        eventually(lambda: unread in connection.ended)
        eventually(lambda: server.metric("resonnx_memory_requests_bytes") == 0)


def test_streams_that_end_at_once_hold_up_nobody(server: RunningServer) -> None:
    worst = _closing(server, 4, 500)
    print(f"worst call beside 2,000 streams that end at once: {worst * 1e3:.0f} ms")
    assert worst < 0.7


def _closing(server: RunningServer, connections: int, streams: int) -> float:
    """Open streams and close their connections; return the longest call of a good client meanwhile, in seconds."""

    def charged() -> float:
        return server.metric("resonnx_memory_requests_bytes")

    # All its calls are answered, also while the streams come faster than they are accepted.
    with _good_client(server) as times, ExitStack() as stack:
        opened = [stack.enter_context(closing(Connection(server.grpc))) for _ in range(connections)]
        for connection in opened:
            for _ in range(streams):
                connection.open(STREAM)
        eventually(lambda: charged() >= connections * streams * CALL_BYTES)
        times.clear()
        for connection in opened:
            connection.close()
        eventually(lambda: charged() < 100_000)
        eventually(lambda: times)
        return max(times)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_half_open_streams(start_server: StartServer, models: Path) -> None:
    with start_server(models, "--grpc-front", "core", "--max-receive-s", "60") as server:
        began = time.monotonic()
        alone, beside = _slow_loris(server, 50, 200, 60)
        print(f"p99 alone {alone * 1e3:.1f} ms, beside {beside * 1e3:.1f} ms, {time.monotonic() - began:.0f} s")
        assert beside <= 1.2 * alone
        worst = _closing(server, 50, 200)
        print(f"worst call beside 10,000 streams that end at once: {worst * 1e3:.0f} ms")
        assert worst < 1
