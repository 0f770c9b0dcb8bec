"""Time limits of HTTP connections, which are fractions of a second here, and a lack of descriptors."""

import asyncio
import errno
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from resonnx_server.access.gate import Gate
from resonnx_server.http import connection, listener
from resonnx_server.http.probes import Probes
from resonnx_server.inference.registry import Models
from resonnx_server.observe.metrics import Metrics

from ...certificates import Authority

_REQUEST_S, _IDLE_S = 0.3, 0.9
_HEAD = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
Open = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (connection, listener):
        monkeypatch.setattr(module, "REQUEST_S", _REQUEST_S)
    monkeypatch.setattr(connection, "IDLE_S", _IDLE_S)
    monkeypatch.setattr(listener, "_SWEEP_S", 0.02)
    monkeypatch.setattr(listener, "_RETRY_S", 0.02)


@asynccontextmanager
async def _served(tls: ssl.SSLContext | None = None) -> AsyncIterator[Open]:
    """A server without models; yields what connects to it."""
    probes = Probes(Models(loading=False), Metrics(), Gate(None, admits_admin=False), tls)
    port = await probes.start("127.0.0.1", 0)
    writers: list[asyncio.StreamWriter] = []

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    try:
        yield connect
    finally:
        for writer in writers:
            writer.close()
        await probes.stop()


async def _closes_after(reader: asyncio.StreamReader) -> float:
    """Return after how many seconds the server closes a connection."""
    began = time.monotonic()
    async with asyncio.timeout(10):
        try:
            while await reader.read(1000):
                pass
        except ConnectionResetError:
            pass
    return time.monotonic() - began


async def _answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return await reader.readuntil(b"alive\n")


@pytest.mark.parametrize("sent", [b"", b"GET /li", _HEAD])
async def test_a_request_that_does_not_come_ends_its_connection(sent: bytes) -> None:
    async with _served() as connect:
        reader, writer = await connect()
        writer.write(sent)
        assert _REQUEST_S * 0.9 <= await _closes_after(reader) < _IDLE_S


async def test_bytes_that_trickle_in_gain_no_time() -> None:
    async with _served() as connect:
        reader, writer = await connect()

        async def trickle() -> None:
            for byte in _HEAD * 10:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        assert await _closes_after(reader) < _IDLE_S
        trickling.cancel()


async def test_a_connection_is_kept_between_requests_for_its_idle_time_and_not_in_one() -> None:
    async with _served() as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(_HEAD + b"\r\n")
            assert (await _answer(reader)).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(_REQUEST_S * 1.3)
        writer.write(b"GET /li")
        assert await _closes_after(reader) < _IDLE_S, "a request has begun"
        reader, writer = await connect()
        writer.write(_HEAD + b"\r\n")
        await _answer(reader)
        assert await _closes_after(reader) >= _IDLE_S * 0.9


async def test_a_body_is_not_waited_for() -> None:
    async with _served() as connect:
        reader, writer = await connect()
        writer.write(_HEAD + b"Content-Length: 1000\r\n\r\nabc")
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 413")


async def test_a_handshake_of_tls_that_does_not_come_ends_its_connection(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority().issue("server").write(tmp_path, "server"))
    async with _served(context) as connect:
        for sent in (b"", b"\x16\x03\x01\x02\x00\x01\x00"):
            reader, writer = await connect()
            writer.write(sent)
            assert _REQUEST_S * 0.9 <= await _closes_after(reader) < _IDLE_S


async def test_without_descriptors_one_connection_makes_room_and_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    accept, lacking = loop.sock_accept, False

    async def accept_or_fail(listening: Any) -> Any:
        if lacking:
            raise OSError(errno.EMFILE, "Too many open files")
        return await accept(listening)

    monkeypatch.setattr(loop, "sock_accept", accept_or_fail)
    caplog.set_level("INFO")
    async with _served() as connect:
        reader, writer = await connect()
        writer.write(_HEAD + b"\r\n")
        await _answer(reader)
        lacking = True
        # One more is accepted, as its acceptance was awaited already.
        await connect()
        assert await _closes_after(reader) < _IDLE_S
        later, writer = await connect()
        await asyncio.sleep(0.1)
        lacking = False
        writer.write(_HEAD + b"\r\n")
        assert (await _answer(later)).startswith(b"HTTP/1.1 200"), "it is accepted once there are some again"
    said = [record.message for record in caplog.records if record.name == listener.__name__]
    assert said == ["cannot accept HTTP connections", "HTTP connections are accepted again"]
