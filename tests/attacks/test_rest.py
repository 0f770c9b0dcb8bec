"""The REST side: bodies that are huge, slow, deep or packed, callers without rights, and clients that go away."""

import gzip
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ..conftest import RunningServer, StartServer
from ..server import bare_graphs
from ..server.http.rest.asking_http import ask, infer_json
from .guarded import Guarded, eventually, guarded

INFER = "/v2/models/doubling/infer"
INPUT = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
BODY = json.dumps({"inputs": [INPUT]}).encode()


@pytest.fixture(scope="module")
def server(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server that receives requests for a second."""
    folder = tmp_path_factory.mktemp("models")
    for name, graph in (("doubling", bare_graphs.doubling()), ("counting", bare_graphs.counting())):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1/model.onnx").write_bytes(graph)
    with start_server(folder, "--max-receive-s", "1", "--max-message-bytes", str(4 << 20)) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(start_server, tmp_path_factory.mktemp("keyed"), "core") as running:
        yield running


def _post(address: str, head: bytes, body: bytes = b"") -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), 10)
    connection.sendall(b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body)
    return connection


def _answer(connection: socket.socket) -> bytes:
    """Return all that comes until the connection is closed, or half a second passes."""
    received = b""
    connection.settimeout(5)
    try:
        while part := connection.recv(65536):
            received += part
            connection.settimeout(0.5)
    except OSError:
        pass
    return received


def _serves(server: RunningServer) -> None:
    assert infer_json(server.http, "doubling", INPUT).json["outputs"][0]["data"] == [2, 4, 6]
    eventually(lambda: server.metric("resonnx_memory_requests_bytes") == 0)


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(server: RunningServer) -> None:
    for size in (b"4194305", b"9" * 18):
        with _post(server.http, b"Content-Length: " + size) as connection:
            answer = _answer(connection)
        assert answer.startswith(b"HTTP/1.1 413"), answer
        assert b"MESSAGE_TOO_LARGE" in answer
    _serves(server)


def test_what_pages_of_other_sites_post_is_refused(server: RunningServer) -> None:
    for site in ("cross-site", "same-site"):
        for path in (INFER, "/v1/classify/doubling", "/v2/repository/index"):
            answer = ask(server.http, path, BODY, Sec_Fetch_Site=site)
            assert (answer.status, "another site" in answer.json["error"]) == (403, True), path
    for site in ("same-origin", "none"):
        assert ask(server.http, INFER, BODY, Sec_Fetch_Site=site).status == 200
    # No answer lets other sites read it.
    answer = ask(server.http, "/v1/models", Origin="https://other.example")
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_chunks_without_end_are_cut_off(server: RunningServer) -> None:
    with _post(server.http, b"Transfer-Encoding: chunked") as connection:
        chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
        sent = 0
        try:
            for _ in range(512):
                connection.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
        assert sent < 512 * len(chunk)
    with _post(server.http, b"Transfer-Encoding: chunked", b"zz\r\n") as connection:
        assert _answer(connection)[8:13] == b" 400 "
    _serves(server)


def test_slow_bodies_end_in_time_and_hold_what_they_have_sent(server: RunningServer) -> None:
    slow = [_post(server.http, b"Content-Length: 4000000", bytes(1000)) for _ in range(20)]
    try:
        began = time.monotonic()
        assert server.metric("resonnx_memory_requests_bytes") < 20 << 19
        _ = [_answer(connection) for connection in slow[:1]]
        assert _[0].startswith(b"HTTP/1.1 408"), _[0]
        assert time.monotonic() - began < 4
    finally:
        for connection in slow:
            connection.close()
    _serves(server)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 3_000_000,
        b'{"inputs":' * 300_000,
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":' + b"[" * 3_000_000,
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[' + b'"' * 3_000_000,
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[' + b"1," * 1_500_000 + b"1]}]}",
        b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,3],"data":[' + b"1" * 3_000_000 + b"]}]}",
        b'{"id":"' + b"\\" * 3_000_000,
        b'{"inputs":[' + b"{}," * 1_000_000 + b"{}]}",
    ],
    ids=["arrays", "objects", "deep", "quotes", "many", "long", "escapes", "inputs"],
)
def test_json_that_is_deep_or_long_is_refused(server: RunningServer, body: bytes) -> None:
    assert ask(server.http, INFER, body).status == 400
    _serves(server)


def test_gzip_bombs_unpack_to_the_limit_at_most(server: RunningServer) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    answer = ask(server.http, INFER, bomb, Content_Encoding="gzip")
    assert (answer.status, answer.json["reason"]) == (413, "MESSAGE_TOO_LARGE")
    for broken in (bomb[:1000], b"no gzip", bomb + b"more"):
        assert ask(server.http, INFER, broken, Content_Encoding="gzip").status in (400, 413)
    _serves(server)


def test_forms_of_many_parts_are_refused(server: RunningServer) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n\r\n'
    answer = ask(server.http, "/v1/classify/doubling", part * 20_000, Content_Type="multipart/form-data; boundary=x")
    assert (answer.status, "more than 256" in answer.json["error"]) == (400, True)
    _serves(server)


def test_requests_in_a_row_without_waiting_are_limited(server: RunningServer) -> None:
    head = b"Content-Length: %d" % len(BODY)
    flood = (b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + BODY) * 2000
    with _post(server.http, head, BODY) as connection:
        with suppress(OSError):
            connection.sendall(flood)
        _answer(connection)
    _serves(server)


def test_a_client_that_goes_away_cancels_its_request(server: RunningServer) -> None:
    given = {"name": "times", "datatype": "INT64", "shape": [1], "data": [1 << 50]}
    body = json.dumps({"inputs": [given]}).encode()
    host, _, port = server.http.rpartition(":")
    before = server.metric("nv_inference_request_failure", model="counting", reason="CANCELED")
    with socket.create_connection((host, int(port)), 10) as connection:
        head = f"POST /v2/models/counting/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        eventually(lambda: server.metric("resonnx_requests_in_progress", model="counting") == 1)
    eventually(lambda: server.metric("resonnx_requests_in_progress", model="counting") == 0)
    assert server.metric("nv_inference_request_failure", model="counting", reason="CANCELED") == before + 1
    _serves(server)


@pytest.mark.parametrize(
    ("path", "key", "status", "reason"),
    [
        (INFER, None, 401, "KEY_MISSING"),
        (INFER, "guess", 401, "KEY_UNKNOWN"),
        (INFER, "read", 403, "ROLE_MISSING"),
        (INFER, "infer", 200, None),
        ("/v1/classify/doubling", None, 401, "KEY_MISSING"),
        ("/v1/caption/doubling", "read", 403, "ROLE_MISSING"),
        ("/v1/classify-video/doubling", None, 401, "KEY_MISSING"),
        ("/v1/classify-video/doubling", "read", 403, "ROLE_MISSING"),
        ("/v2", None, 401, "KEY_MISSING"),
        ("/v2/models/doubling", "infer", 403, "ROLE_MISSING"),
        ("/v2/models/doubling", "read", 200, None),
        ("/v2/health/live", None, 200, None),
        ("/v2/health/ready", None, 200, None),
        ("/v2/models/doubling/ready", None, 200, None),
        ("/v2/none", None, 401, "KEY_MISSING"),
    ],
)
def test_pages_need_the_role(keyed: Guarded, path: str, key: str | None, status: int, reason: str | None) -> None:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    is_post = path.endswith("/infer") or path.startswith("/v1/")
    answer = ask(keyed.server.http, path, BODY if is_post else None, **headers)
    assert (answer.status, answer.json.get("reason")) == (status, reason)
    assert ("WWW-Authenticate" in answer.headers) == (status == 401)


def test_a_caller_without_a_key_sends_no_body(keyed: Guarded) -> None:
    """Neither is it asked to go on, nor read."""
    with _post(keyed.server.http, b"Expect: 100-continue\r\nContent-Length: 4000000") as connection:
        assert _answer(connection).startswith(b"HTTP/1.1 401")
    head = b"Expect: 100-continue\r\nAuthorization: Bearer infer\r\nContent-Length: %d" % len(BODY)
    with _post(keyed.server.http, head) as connection:
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        assert connection.recv(64).startswith(b"HTTP/1.1 200")


def test_without_rest_the_port_has_metrics_and_probes_only(start_server, tmp_path: Path) -> None:
    with guarded(start_server, tmp_path, "core", "--no-rest", keys=False) as running:
        assert ask(running.server.http, INFER, BODY).status == 404
        assert ask(running.server.http, "/v2").status == 404
        assert running.server.get("/livez")[0] == 200
