"""A second network address for a client of the same machine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


@asynccontextmanager
async def through(address: str, target: str) -> AsyncIterator[str]:
    """Relay connections to `target`, "host:port", which sees them come from `address`; yields where to connect to."""
    host, _, port = target.rpartition(":")
    ends: list[asyncio.StreamWriter] = []
    relays: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                while data := await reader.read(1 << 16):
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relays.append(asyncio.current_task())  # type: ignore[arg-type]
        theirs, ours = await asyncio.open_connection(host, int(port), local_addr=(address, 0))
        ends.extend((ours, writer))
        await asyncio.gather(pump(reader, ours), pump(theirs, writer))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        # Clients keep their connections for some time after a channel's end.
        for end in ends:
            end.close()
        await asyncio.wait_for(asyncio.gather(*relays, return_exceptions=True), 10)
