"""Memory: half messages, gzip ids, watches' names, unread answers, large pictures (SECURITY.md: memory).

Each attack takes several times the budget if it is not held. The process may take the budget and 128 MB beyond its idle
memory meanwhile, and 64 MB after 10 s.
"""

import gzip
import io
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

from ...conftest import RunningServer, StartServer
from ...server import bare_graphs
from ..guarded import eventually
from ..http2 import Connection
from .held import BEYOND, BUDGET, MB, Attacked, held

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

CLASSIFY = "/resonnx.v1.Vision/Classify"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture(scope="module", params=["core", pytest.param("aio", marks=pytest.mark.slow)])
def server(
    request: pytest.FixtureRequest,
    start_server: StartServer,
    demo_repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Attacked]:
    repository = tmp_path_factory.mktemp("models")
    shutil.copytree(demo_repository / "digits", repository / "digits")
    (repository / "doubles/1").mkdir(parents=True)
    (repository / "doubles/1/model.onnx").write_bytes(bare_graphs.doubling_any())
    environment = {"RESONNX_GRPC_FRONT": request.param, "RESONNX_MEMORY_BUDGET_BYTES": str(BUDGET)}
    with start_server(repository, environment=environment) as server:
        yield Attacked.idle_now(server, request.param, lambda: _is_served(server))


def _picture(side: int, format: str = "JPEG", **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").resize((side, side)).save(buffer, format, **options)
    return buffer.getvalue()


SMALL = _picture(32)


def _classify(channel: grpc.Channel, file: bytes = SMALL) -> vision_pb2.ClassifyResponse:
    request = vision_pb2.ClassifyRequest(model="digits", image=vision_pb2.Image(encoded=file))
    return vision_pb2_grpc.VisionStub(channel).Classify(request, timeout=60)


def _is_served(server: RunningServer) -> bool:
    with grpc.insecure_channel(server.grpc) as channel:
        return bool(_classify(channel).predictions)


def _at_once(count: int, work: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _connections(stack: ExitStack, server: Attacked, count: int) -> list[Connection]:
    """Connect from so many addresses, each of which is a caller."""
    return [stack.enter_context(closing(Connection(server.grpc, f"127.0.0.{i + 2}"))) for i in range(count)]


def test_half_messages(server: Attacked) -> None:
    """Twelve callers begin messages of 60 MB, send 50 and stop."""
    with held(server), ExitStack() as stack:
        connections = _connections(stack, server, 12)
        _at_once(12, lambda i: connections[i].send(connections[i].open(CLASSIFY), 60 * MB, bytes(50 * MB)))


def test_large_pictures_of_many_callers(server: Attacked) -> None:
    """24 callers send files of 60 MB, each complete."""
    file = _picture(32, "PNG") + bytes(60 * MB)
    request = vision_pb2.ClassifyRequest(model="digits", image=vision_pb2.Image(encoded=file)).SerializeToString()
    with held(server), ExitStack() as stack:
        connections = _connections(stack, server, 24)
        _at_once(24, lambda i: connections[i].send(connections[i].open(CLASSIFY), len(request), request))


def test_ids_in_gzip(server: Attacked) -> None:
    """Sixteen callers send a request whose id unpacks to 60 MB."""
    request = vision_pb2.ClassifyRequest(model="digits", id="x" * (60 * MB)).SerializeToString()
    packed = gzip.compress(request, 1)
    with held(server), ExitStack() as stack:
        connections = _connections(stack, server, 16)
        streams = [connection.open(CLASSIFY) for connection in connections]
        # At once, as each takes a tenth of a second to unpack.
        _at_once(16, lambda i: connections[i].send(streams[i], len(packed), packed))
        for connection, stream in zip(connections, streams, strict=True):
            eventually(lambda connection=connection, stream=stream: stream in connection.ended)


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_names_of_watches(server: Attacked, count: int) -> None:
    """Health watches of unknown services with names of 60 kB."""
    request = health_pb2.HealthCheckRequest(service="x" * 60_000).SerializeToString()
    codes: set[grpc.StatusCode] = set()
    with held(server), ExitStack() as stack:
        # gRPC itself would refuse more streams of a connection.
        for _ in range(count // 1000):
            channel = stack.enter_context(grpc.insecure_channel(server.grpc, OPTIONS))
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
            calls = [watch(request, timeout=60) for _ in range(1000)]
            codes |= {call.code() for call in calls}
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}


def _doubles(nbytes: int) -> bytes:
    """A request whose answer has as many bytes as itself."""
    rows = np.zeros((1, nbytes // 4), np.float32)
    tensor = triton.InferInput("x", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    request: bytes = triton._utils._get_inference_request(
        model_name="doubles", inputs=[tensor], model_version="", request_id="", outputs=None, sequence_id=0,
        sequence_start=False, sequence_end=False, priority=0, timeout=None, parameters=None,
    ).SerializeToString()  # fmt: skip
    return request


@pytest.mark.parametrize("count", [32, pytest.param(200, marks=pytest.mark.slow)])
def test_answers_that_nobody_reads(server: Attacked, count: int) -> None:
    """Eight streams ask for answers of 8 MB each and read none."""
    request = _doubles(8 * MB)

    def ask(connection: Connection) -> None:
        stream = connection.open("/inference.GRPCInferenceService/ModelStreamInfer")
        for _ in range(count):
            if not connection.send(stream, len(request), request, patience_s=1):
                return

    # grpc.aio keeps copies of what it sends.
    with held(server, on_aio=2 * BEYOND), ExitStack() as stack:
        connections = _connections(stack, server, 8)
        _at_once(8, lambda i: ask(connections[i]))


@pytest.mark.parametrize("count", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_pictures_of_48_megapixels(server: Attacked, count: int) -> None:
    file = _picture(6928, quality=30)
    codes: set[grpc.StatusCode] = set()
    with held(server), grpc.insecure_channel(server.grpc, OPTIONS) as channel:

        def classify(_: int) -> None:
            try:
                _classify(channel, file)
            except grpc.RpcError as error:
                codes.add(error.code())

        _at_once(count, classify)
    assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_watches_that_are_never_closed(server: Attacked) -> None:
    """Eight callers open 400 health watches each, and leave them open: most are refused, and another still gets one."""
    message = health_pb2.HealthCheckRequest().SerializeToString()
    path = "/grpc.health.v1.Health/Watch"
    with held(server), ExitStack() as stack:
        connections = _connections(stack, server, 8)
        for connection in connections:
            streams = [connection.open(path) for _ in range(400)]
            for stream in streams:
                connection.send(stream, len(message), message)
        eventually(lambda: all(len(connection.ended) >= 400 - 64 for connection in connections))
        assert server.server.metric("resonnx_memory_requests_bytes") <= 8 * 64 * 32_768 + 2 * MB
        with grpc.insecure_channel(server.grpc, OPTIONS) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()
    eventually(lambda: server.server.metric("resonnx_memory_requests_bytes") == 0)


def _post(server: Attacked, caller: int, body: bytes, *, sent: int | None = None, packed: bool = False) -> bytes:
    """Post the first bytes of a body from an address, wait for the answer, and return its first line."""
    host, _, port = server.server.http.rpartition(":")
    path = "/v1/classify/digits"
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Encoding: gzip\r\n" * packed
    source = (f"127.0.0.{caller + 2}", 0)
    with socket.create_connection((host, int(port)), 20, source) as connection:
        with suppress(OSError):
            connection.sendall(head.encode() + b"\r\n")
            connection.sendall(memoryview(body)[:sent])
        # Of half a body, the answer comes only if the server ends the wait.
        connection.settimeout(2 if sent is not None else 30)
        with suppress(OSError):
            return connection.recv(4096).partition(b"\r\n")[0]
    return b""


def test_bodies_of_http_against_the_budget(server: Attacked) -> None:
    """Twelve callers announce bodies of 60 MB and send 50; then twelve send them whole."""
    body = _picture(32, "PNG") + bytes(60 * MB)
    with held(server):
        _at_once(12, lambda i: _post(server, i, body, sent=50 * MB))
        answers: list[bytes] = []
        _at_once(12, lambda i: answers.append(_post(server, i, body)))
    print(*sorted(set(answers)))
    # A client that goes on sending may lose the answer.
    assert {answer.split(b" ")[1] for answer in answers if answer} <= {b"200", b"400", b"429", b"503"}


def test_bodies_of_http_that_unpack_to_a_thousand_times_their_size(server: Attacked) -> None:
    packed = gzip.compress(_picture(32, "PNG") + bytes(60 * MB), 1)
    answers: list[bytes] = []
    with held(server):
        _at_once(16, lambda i: answers.append(_post(server, i, packed, packed=True)))
    assert len(answers) == 16
    assert {answer.split(b" ")[1] for answer in answers if answer} <= {b"200", b"400", b"429", b"503"}
