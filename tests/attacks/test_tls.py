"""Strangers and eavesdroppers before a port with TLS: rows "unknown callers" and "traffic that is read or changed"."""

import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..certificates import Authority, Pair
from .guarded import FRONTS, Guarded, bearer, eventually, guarded, outcome

LIVE, INFER = (f"/inference.GRPCInferenceService/{method}" for method in ("ServerLive", "ModelInfer"))
SERVERS, CLIENTS, STRANGERS = (Authority(name) for name in ("servers", "clients", "strangers"))
ROBOT = CLIENTS.issue("robot")


def _flags(folder: Path) -> tuple[str, ...]:
    chain, key = SERVERS.issue("server").write(folder, "server")
    return "--tls-certificate", str(chain), "--tls-key", str(key)


@pytest.fixture(scope="module", params=FRONTS)
def server(request: pytest.FixtureRequest, start_server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server with mutual TLS, whose keys file has a key and a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    authority = CLIENTS.write(folder, "clients")
    with guarded(start_server, folder, request.param, *_flags(folder), "--tls-client-ca", str(authority)) as running:
        keys = folder / "keys.toml"
        keys.write_text(f"{keys.read_text()}\n[keys.robots]\ncertificate = 'robot'\nroles = ['read']\n")
        with _channel(running, ROBOT) as channel:
            eventually(lambda: outcome(channel, LIVE)[0] == "OK")
        yield running


def _channel(
    server: Guarded, pair: Pair | None, authority: Authority = SERVERS, *, admin: bool = False
) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(authority.certificate, pair and pair.key, pair and pair.certificate)
    address = server.server.admin if admin else server.server.grpc
    assert address is not None
    return grpc.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


def test_a_client_s_certificate_or_key_decides(server: Guarded) -> None:
    for admin in (False, True):
        with _channel(server, ROBOT, admin=admin) as channel:
            assert outcome(channel, LIVE)[0] == "OK"
            assert outcome(channel, INFER) == ("PERMISSION_DENIED", "ROLE_MISSING")
            assert outcome(channel, INFER, *bearer("infer"))[0] == "NOT_FOUND", "the key goes before the certificate"
            assert outcome(channel, LIVE, *bearer("wrong")) == ("UNAUTHENTICATED", "KEY_UNKNOWN")
    for pair in (CLIENTS.issue("somebody"), CLIENTS.issue("somebody", has_alternative=False)):
        with _channel(server, pair) as channel:
            assert outcome(channel, LIVE) == ("UNAUTHENTICATED", "CERTIFICATE_UNKNOWN")
            assert outcome(channel, LIVE, *bearer("read"))[0] == "OK"
    with _channel(server, CLIENTS.issue("robot", has_alternative=False)) as channel:
        assert outcome(channel, LIVE)[0] == "OK", "a common name alone"


@pytest.mark.parametrize(
    "pair",
    [None, STRANGERS.issue("robot"), CLIENTS.issue("robot", days=-1), Pair(ROBOT.certificate, CLIENTS.issue("a").key)],
    ids=["none", "another authority's", "expired", "another key's"],
)
def test_a_certificate_that_is_not_right_opens_nothing(server: Guarded, pair: Pair | None) -> None:
    with _channel(server, pair) as channel:
        assert outcome(channel, LIVE, *bearer("admin"))[0] == "UNAVAILABLE"


def test_without_tls_nothing_is_read(server: Guarded) -> None:
    with grpc.insecure_channel(server.server.grpc) as channel:
        assert outcome(channel, LIVE, *bearer("admin"))[0] == "UNAVAILABLE"
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://{server.server.http}/livez", timeout=10)


def _page(server: Guarded, path: str, files: tuple[Path, Path] | None = None, key: str = "", authority=SERVERS) -> int:
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    if files is not None:
        context.load_cert_chain(*files)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(f"https://{server.server.http}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code


def _expires_s(server: Guarded, authority: Authority) -> float:
    """When the certificate expires, by the page of metrics."""
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    request = urllib.request.Request(f"https://{server.server.http}/metrics", headers={"Authorization": "Bearer read"})
    with urllib.request.urlopen(request, timeout=10, context=context) as response:
        text = response.read().decode()
    (sample,) = re.findall(r"^resonnx_tls_certificate_expiry_timestamp_seconds (\S+)$", text, re.MULTILINE)
    return float(sample)


def test_pages_take_a_certificate_or_a_key(server: Guarded, tmp_path: Path) -> None:
    assert _page(server, "/livez") == 200
    assert _page(server, "/metrics") == 401
    assert _page(server, "/metrics", key="read") == 200
    assert _page(server, "/metrics", ROBOT.write(tmp_path, "robot")) == 200
    assert _page(server, "/metrics", CLIENTS.issue("somebody").write(tmp_path, "somebody")) == 401
    for pair in (STRANGERS.issue("robot"), CLIENTS.issue("robot", days=-1)):
        with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
            _page(server, "/metrics", pair.write(tmp_path, "wrong"))


def test_certificates_change_without_dropping_calls(server: Guarded, tmp_path: Path) -> None:
    renewed = Authority("renewed servers")
    old_files = [(server.folder / name).read_bytes() for name in ("server.pem", "server.key", "clients.pem")]
    with _channel(server, ROBOT) as old:
        watch: Any = health_pb2_grpc.HealthStub(old).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING

        # Half of a pair: nothing changes, and one line says so.
        pair = renewed.issue("server", days=3)
        (server.folder / "server.pem").write_bytes(pair.certificate)
        eventually(lambda: "the former stay in force" in server.server.log.read_text())
        with _channel(server, ROBOT) as channel:
            assert outcome(channel, LIVE)[0] == "OK"
        assert _page(server, "/livez") == 200
        assert server.server.log.read_text().count("the former stay in force") == 1

        before = _expires_s(server, SERVERS)
        (server.folder / "server.key").write_bytes(pair.key)
        eventually(lambda: _is_known_by(server, ROBOT, renewed))
        assert _expires_s(server, renewed) > before
        assert not _is_known_by(server, ROBOT, SERVERS)
        assert _page(server, "/livez", authority=renewed) == 200

        # Another authority for clients.
        visitors = Authority("visitors")
        visitor = visitors.issue("robot")
        assert not _is_known_by(server, visitor, renewed)
        (server.folder / "clients.pem").write_bytes(visitors.certificate)
        eventually(lambda: _is_known_by(server, visitor, renewed))
        assert not _is_known_by(server, ROBOT, renewed)
        assert _page(server, "/metrics", visitor.write(tmp_path, "visitor"), authority=renewed) == 200
        with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
            _page(server, "/metrics", ROBOT.write(tmp_path, "robot"), authority=renewed)

        assert outcome(old, LIVE)[0] == "OK", "the connection is as it was"
        assert watch.is_active()
        watch.cancel()
    for name, content in zip(("server.pem", "server.key", "clients.pem"), old_files, strict=True):
        (server.folder / name).write_bytes(content)
    eventually(lambda: _is_known_by(server, ROBOT, SERVERS))


def _is_known_by(server: Guarded, pair: Pair, authority: Authority) -> bool:
    with _channel(server, pair, authority) as channel:
        return outcome(channel, LIVE)[0] == "OK"


def test_without_keys_the_authority_decides_on_all_ports(start_server, tmp_path: Path) -> None:
    flags = (*_flags(tmp_path), "--tls-client-ca", str(CLIENTS.write(tmp_path, "clients")))
    with guarded(start_server, tmp_path, "core", *flags, keys=False) as running:
        with _channel(running, CLIENTS.issue("anybody")) as channel:
            assert outcome(channel, LIVE)[0] == "OK"
        with _channel(running, None) as channel:
            assert outcome(channel, LIVE)[0] == "UNAVAILABLE"
        assert (_page(running, "/livez"), _page(running, "/metrics")) == (200, 401)
        assert _page(running, "/metrics", CLIENTS.issue("anybody").write(tmp_path, "anybody")) == 200


@pytest.mark.slow
def test_handshakes_that_do_not_end_are_ended_and_hold_up_nobody(server: Guarded) -> None:
    """The beginning of a handshake, a byte every second, on 100 connections of each port."""
    hello = bytes.fromhex("1603010200010001fc0303")
    slow = [
        socket.create_connection((host, int(port)), 10)
        for host, _, port in (address.rpartition(":") for address in (server.server.grpc, server.server.http))
        for _ in range(100)
    ]
    try:
        for connection in slow:
            connection.setblocking(False)
        began = time.monotonic()
        for byte in hello:
            for connection in slow:
                with suppress(OSError):
                    connection.send(bytes([byte]))
            with _channel(server, ROBOT) as channel:
                asked = time.monotonic()
                assert outcome(channel, LIVE)[0] == "OK"
                assert time.monotonic() - asked < 2
            time.sleep(max(0.0, 1 - (time.monotonic() - asked)))
        eventually(lambda: all(map(_is_ended, slow)))
        assert time.monotonic() - began < 20
    finally:
        for connection in slow:
            connection.close()
    assert _page(server, "/livez") == 200


def _is_ended(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1024)
    except BlockingIOError:
        return False
    except OSError:
        return True
