"""The limits of accepted connections hold for those that are closed at once as well."""

import asyncio

import pytest
from aiohttp import web
from resonnx_server.http.connection import Stage
from resonnx_server.http.listener import Listener
from resonnx_server.pace import Pace


async def _never(request: web.BaseRequest) -> web.StreamResponse:
    raise NotImplementedError


async def test_a_flood_of_connections_beside_requests_that_run_is_accepted_at_the_usual_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Accepting is as fast as clients are, and does not yield to the event loop while some are waiting."""
    server = web.Server(_never)
    listener = Listener(server, most=1)
    monkeypatch.setattr(listener, "_accepts", Pace(1e-6, 4))
    port = await listener.start("127.0.0.1", 0)
    running, own = await asyncio.open_connection("127.0.0.1", port)
    # Accepted in the listener's task.
    while not listener._open:
        await asyncio.sleep(0)
    (connection,) = listener._open.values()
    connection.infer()
    assert connection.stage is Stage.INFERS

    others = [await asyncio.open_connection("127.0.0.1", port) for _ in range(12)]
    reads = [asyncio.create_task(reader.read()) for reader, _ in others]
    closed, waiting = await asyncio.wait(reads, timeout=0.2)
    assert (len(closed), len(waiting)) == (4, 8)
    assert {read.result() for read in closed} == {b""}
    assert not running.at_eof()

    for read in waiting:
        read.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for _, writer in [*others, (running, own)]:
        writer.close()
    await listener.stop()
    await server.shutdown()
