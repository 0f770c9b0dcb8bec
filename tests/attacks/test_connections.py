"""Connections: floods of them, slow ones, and pages asked for without end (SECURITY.md: connections, the HTTP port)."""

import itertools
import resource
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import grpc
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ..certificates import Authority
from ..conftest import RunningServer, StartServer
from ..server import bare_graphs
from .guarded import eventually
from .http2 import Connection

FRONTS = ("core", "aio")
CONNECTIONS = 8
HTTP_CONNECTIONS = 64
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "doubling/1").mkdir(parents=True)
    (folder / "doubling/1/model.onnx").write_bytes(bare_graphs.doubling())
    return folder


@pytest.fixture(scope="module", params=FRONTS)
def server(request: pytest.FixtureRequest, start_server: StartServer, models: Path) -> Iterator[RunningServer]:
    flags = ("--grpc-front", request.param, "--max-connections", str(CONNECTIONS))
    flags += ("--max-http-connections", str(HTTP_CONNECTIONS))
    with start_server(models, *flags) as server:
        yield server


def _connected(address: str, sent: bytes = b"") -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), 10)
    connection.sendall(sent)
    return connection


def _is_closed(connection: socket.socket, within_s: float) -> bool:
    connection.settimeout(within_s)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def _is_live(channel: grpc.Channel) -> bool:
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    return stub.ServerLive(pb.ServerLiveRequest(), timeout=20, wait_for_ready=True).live


def test_connections_beyond_the_limit_are_closed_at_once_and_the_others_stay(server: RunningServer) -> None:
    with grpc.insecure_channel(server.grpc) as good:
        assert _is_live(good)
        with ExitStack() as stack:
            flood = [stack.enter_context(_connected(server.grpc, PREFACE)) for _ in range(4 * CONNECTIONS)]
            closed = sum(_is_closed(connection, 0.05) for connection in flood)
            assert closed >= 3 * CONNECTIONS
            assert _is_live(good)
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(server.grpc, options) as another:
            assert _is_live(another), "there is room again"


def test_slow_connections_of_http_keep_nobody_out(server: RunningServer) -> None:
    before = len(server.descriptors())
    with ExitStack() as stack:
        slow = [stack.enter_context(_connected(server.http, b"GET /livez HTTP/1.1\r\nHost: x")) for _ in range(150)]
        assert server.get("/livez") == (200, "alive\n")
        assert len(server.descriptors()) <= before + HTTP_CONNECTIONS
        assert _is_closed(slow[0], 5)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 413),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"GET /" + b"a" * 4000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 5000 + b"\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 70 + b"\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 4000, 400),
    ],
)
def test_what_probes_do_not_send_is_refused(server: RunningServer, request_: bytes, status: int) -> None:
    with _connected(server.http, request_) as connection:
        connection.settimeout(5)
        received = b""
        try:
            while part := connection.recv(4096):
                received += part
        except ConnectionResetError:
            pass
        # Where too much was sent, the answer may be lost.
        assert received[9:12] == str(status).encode() or (status == 400 and not received)


def test_a_flood_of_metrics_is_served_slowly_and_calls_as_before(server: RunningServer) -> None:
    """Each page costs some ms of the processor: the flood gets 50 a second, of which 5 are made."""
    over = threading.Event()
    pages: list[int] = []

    def flood() -> None:
        while not over.is_set():
            with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as response:
                pages.append(response.status)

    threads = [threading.Thread(target=flood) for _ in range(8)]
    with grpc.insecure_channel(server.grpc) as channel:
        alone = _median(lambda: _is_live(channel))
        began = time.monotonic()
        for thread in threads:
            thread.start()
        beside = _median(lambda: _is_live(channel), 1.2)
        seconds = time.monotonic() - began
        over.set()
        for thread in threads:
            thread.join()
    print(
        f"median alone {alone * 1e3:.2f} ms, beside the flood {beside * 1e3:.2f} ms; {len(pages) / seconds:.0f} pages/s"
    )
    assert len(pages) <= 50 + 50 * (seconds + 1) + len(threads)


def _median(call: Callable[[], object], seconds: float = 0.3) -> float:
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        call()
        times.append(time.monotonic() - began)
    return sorted(times)[len(times) // 2]


def _lack_descriptors(server: RunningServer) -> tuple[int, int]:
    """Let a server open no more files; return its limits as they were."""
    used = server.descriptors()
    before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    first_free = next(number for number in itertools.count() if number not in used)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (first_free, before[1]))
    return before


@pytest.mark.parametrize("front", ["core", pytest.param("aio", marks=pytest.mark.slow)])
def test_without_descriptors_connections_that_are_there_are_served_and_others_afterwards(
    start_server: StartServer, models: Path, front: str
) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with start_server(models, "--grpc-front", front) as server, grpc.insecure_channel(server.grpc, options) as good:
        assert _is_live(good)
        before = _lack_descriptors(server)
        with ExitStack() as stack:
            for address in [server.grpc, server.http] * 3:
                stack.enter_context(_connected(address, PREFACE))
            end = time.monotonic() + 1
            while time.monotonic() < end:
                assert _is_live(good)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
        with grpc.insecure_channel(server.grpc, options) as another:
            assert _is_live(another)
        assert server.get("/livez") == (200, "alive\n")
        log = server.log.read_text()
        assert log.count("cannot accept HTTP connections") == log.count("HTTP connections are accepted again") == 1
        server.ends_well()


@pytest.mark.slow
@pytest.mark.parametrize("front", FRONTS)
def test_a_handshake_that_does_not_come_ends_its_connection(
    start_server: StartServer, models: Path, tmp_path: Path, front: str
) -> None:
    """After ten seconds, with TLS and without; also where a part of it has come."""
    chain, key = Authority().issue("server").write(tmp_path, "server")
    for flags, begun in (
        ((), PREFACE[:10]),
        (("--tls-certificate", str(chain), "--tls-key", str(key)), b"\x16\x03\x01"),
    ):
        with start_server(models, "--grpc-front", front, *flags) as server, ExitStack() as stack:
            slow = [stack.enter_context(_connected(server.grpc, sent)) for sent in (b"", begun)]
            assert not _is_closed(slow[0], 5)
            assert all(_is_closed(connection, 10) for connection in slow)


@pytest.mark.parametrize("front", ["core", pytest.param("aio", marks=pytest.mark.slow)])
def test_a_connection_ends_at_its_age_and_its_calls_go_on(start_server: StartServer, models: Path, front: str) -> None:
    with (
        start_server(models, "--grpc-front", front, "--max-connection-age-s", "0.5") as server,
        closing(Connection(server.grpc)) as idle,
        grpc.insecure_channel(server.grpc) as good,
    ):
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            assert _is_live(good)
        eventually(lambda: idle.is_sent_away)
