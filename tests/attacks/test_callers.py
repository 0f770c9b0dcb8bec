"""Calls without a key, with a wrong one, or beyond a key's roles: rows "unknown callers" and "admin methods"."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_server.access.caller import Role
from resonnx_server.rpc.roles import HEALTH, ROLES

from .guarded import FRONTS, KEYS, Guarded, bearer, eventually, guarded, keys_file, outcome
from .http2 import Connection

TENSORS = "/inference.GRPCInferenceService"
CLOSED = [path for path in ROLES if not path.startswith(f"/{HEALTH}/")]
OPEN = [f"/{HEALTH}/Check"]


@pytest.fixture(scope="module", params=FRONTS)
def server(request: pytest.FixtureRequest, start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(start_server, tmp_path_factory.mktemp("guarded"), request.param) as running:
        yield running


@pytest.fixture(scope="module")
def main(server: Guarded) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.server.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def admin(server: Guarded) -> Iterator[grpc.Channel]:
    assert server.server.admin is not None
    with grpc.insecure_channel(server.server.admin) as channel:
        yield channel


def test_no_method_but_health_is_open(main: grpc.Channel, admin: grpc.Channel) -> None:
    for channel in (main, admin):
        for path in CLOSED:
            assert outcome(channel, path) == ("UNAUTHENTICATED", "KEY_MISSING"), path
            assert outcome(channel, path, *bearer("wrong")) == ("UNAUTHENTICATED", "KEY_UNKNOWN"), path
        for path in OPEN:
            assert outcome(channel, path)[0] == "OK"


@pytest.mark.parametrize(
    "metadata",
    [
        [("authorization", "infer")],
        [("authorization", "Basic infer")],
        [("authorization", "Bearer INFER")],
        [("authorization", "Bearer infer"), ("authorization", "Bearer admin")],
        [("authorization-bin", b"Bearer infer")],
        [("x-authorization", "Bearer infer")],
        [("grpc-authorization", "Bearer infer")],
    ],
)
def test_a_key_in_another_form_is_none(main: grpc.Channel, metadata: list[Any]) -> None:
    assert outcome(main, f"{TENSORS}/ModelInfer", *metadata)[0] in ("UNAUTHENTICATED", "UNAVAILABLE", "INTERNAL")


@pytest.mark.parametrize("key", KEYS)
def test_a_key_opens_the_methods_of_its_roles_only(main: grpc.Channel, admin: grpc.Channel, key: str) -> None:
    for path, role in ROLES.items():
        code, reason = outcome(main, path, *bearer(key))
        if role is Role.ADMIN:
            assert (code, reason) == ("PERMISSION_DENIED", "ADMIN_PORT_ONLY"), path
        elif path in CLOSED and role not in KEYS[key]:
            assert (code, reason) == ("PERMISSION_DENIED", "ROLE_MISSING"), path
        else:
            assert code not in ("PERMISSION_DENIED", "UNAUTHENTICATED"), path
    for path in (path for path, role in ROLES.items() if role is Role.ADMIN):
        code, reason = outcome(admin, path, *bearer(key))
        if key == "admin":
            assert code not in ("PERMISSION_DENIED", "UNAUTHENTICATED"), path
        else:
            assert (code, reason) == ("PERMISSION_DENIED", "ROLE_MISSING"), path


@pytest.mark.parametrize(
    "path",
    [
        f"/{TENSORS}/ModelInfer",
        f"{TENSORS}/ModelInfer/",
        f"{TENSORS}/modelinfer",
        f"{TENSORS}//ModelInfer",
        f"{TENSORS}/./ModelInfer",
        f"{TENSORS}/ModelInfer?x",
        f"{TENSORS}/%4dodelInfer",
        "/GRPCInferenceService/ModelInfer",
        "inference.GRPCInferenceService/ModelInfer",
        "/grpc.health.v1.Health/../inference.GRPCInferenceService/ModelInfer",
        "/grpc.channelz.v1.Channelz/GetServers",
        "/grpc.reflection.v1alpha.ServerReflection/serverReflectionInfo",
    ],
)
def test_no_alternate_path_reaches_a_method(main: grpc.Channel, path: str) -> None:
    request = pb.ModelInferRequest(model_name="doubling").SerializeToString()
    for key in (None, "admin"):
        assert outcome(main, path, *bearer(key), message=request)[0] in ("UNIMPLEMENTED", "CANCELLED", "INTERNAL")


def test_pages_need_the_role_read_but_for_livez(server: Guarded) -> None:
    running = server.server
    for path in ("/metrics", "/readyz", "/nothing", "//metrics", "/livez/../metrics"):
        assert running.get(path)[0] == 401
        assert running.get(path, key="wrong")[0] == 401
        assert running.get(path, key="infer")[0] == 403
    for path in ("/metrics", "/readyz"):
        assert running.get(path, key="read")[0] == 200
    assert running.get("/livez") == (200, "alive\n")
    assert running.get("/")[0] == 200, "the files of the page tell nothing of this server"


def test_refusals_are_counted_by_reason_and_fill_no_log(server: Guarded, main: grpc.Channel) -> None:
    def count(reason: str) -> float:
        text = server.server.get("/metrics", key="read")[1]
        (line,) = (each for each in text.splitlines() if f'resonnx_rejected_calls_total{{reason="{reason}"' in each)
        return float(line.split()[-1])

    def lines() -> int:
        return server.server.log.read_text().count('"refused a call"')

    before, logged = count("KEY_UNKNOWN"), lines()
    for _ in range(200):
        outcome(main, f"{TENSORS}/ModelInfer", *bearer("guess"))
    eventually(lambda: count("KEY_UNKNOWN") == before + 200)
    assert lines() <= logged + 10, "one a second"
    assert "guess" not in server.server.log.read_text()


@pytest.mark.parametrize("header", [(b"authorization", b"Bearer \xff"), (b"x-any", b"\xff"), (b"x-\xff", b"any")])
def test_headers_that_are_no_text_fill_no_log(server: Guarded, main: grpc.Channel, header: tuple[bytes, bytes]) -> None:
    before = len(server.server.log.read_text())
    connection = Connection(server.server.grpc)
    streams = {connection.open(f"{TENSORS}/ServerLive", header) for _ in range(20)}
    for stream in streams:
        connection.send(stream, 0, b"")
    eventually(lambda: streams <= connection.ended)
    connection.close()
    assert server.server.log.read_text()[before:].count("\n") <= 10
    assert outcome(main, f"{TENSORS}/ServerLive", *bearer("read"))[0] == "OK"


def test_a_key_that_is_no_text_is_unknown_to_pages(server: Guarded) -> None:
    host, _, port = server.server.http.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1.1 401")
    assert "Error handling request" not in server.server.log.read_text()


def test_keys_change_while_the_server_runs(server: Guarded, main: grpc.Channel) -> None:
    file = server.folder / "keys.toml"
    live = f"{TENSORS}/ServerLive"

    def code(key: str) -> str:
        return outcome(main, live, *bearer(key))[0]

    keys_file(file, **{**KEYS, "late": ["read"]})
    eventually(lambda: code("late") == "OK")
    file.write_text("[keys.broken")
    eventually(lambda: "the former stay in force" in server.server.log.read_text())
    assert code("late") == code("read") == "OK"
    fresh = keys_file(server.folder / "fresh.toml", **KEYS)
    fresh.replace(file)
    eventually(lambda: code("late") == "UNAUTHENTICATED")
    assert code("read") == "OK"


def test_a_call_is_refused_before_its_message_is_received(server: Guarded, main: grpc.Channel) -> None:
    """On core. On aio, gRPC has received the message of a unary call before the server hears of the call."""
    done = threading.Event()

    def nothing() -> Iterator[bytes]:
        done.wait(30)
        yield b""

    calls: list[Any] = [main.stream_stream(f"{TENSORS}/ModelStreamInfer")(nothing(), timeout=20)]
    if server.front == "core":
        calls.append(main.stream_unary(f"{TENSORS}/ModelInfer").future(nothing(), timeout=20))
    try:
        assert [call.code() for call in calls] == [grpc.StatusCode.UNAUTHENTICATED] * len(calls)
    finally:
        done.set()


def test_admin_methods_on_the_main_port_where_they_are_wanted_there(start_server, tmp_path: Path) -> None:
    with (
        guarded(start_server, tmp_path, "core", "--admin-on-main") as running,
        grpc.insecure_channel(running.server.grpc) as channel,
    ):
        for path in (path for path, role in ROLES.items() if role is Role.ADMIN):
            assert outcome(channel, path, *bearer("admin"))[0] not in ("PERMISSION_DENIED", "UNAUTHENTICATED"), path
            assert outcome(channel, path, *bearer("infer")) == ("PERMISSION_DENIED", "ROLE_MISSING"), path
            assert outcome(channel, path) == ("UNAUTHENTICATED", "KEY_MISSING"), path
