"""Refuses requests with bodies and of other methods than GET and HEAD, and spreads those of one address over time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from resonnx_server.access.caller import address_name
from resonnx_server.http.listener import Listener
from resonnx_server.pace import Paces

# Requests of one address for one page, a second and at once. More wait.
_PER_S: Final = 50.0
_AT_ONCE: Final = 50
# Requests that would wait longer are refused.
_MOST_DELAY_NS: Final = 2_000_000_000
_METHODS: Final = ("GET", "HEAD")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def limits(listener: Callable[[], Listener | None]) -> Middleware:
    """Return the outermost middleware of a port, whose listener it tells which connections wait for an answer."""
    paces = Paces[tuple[str, str]]()

    @web.middleware
    async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
        port = listener()
        connection = None if port is None else port.connection_of(request.protocol)
        if connection is None:
            return await _answer(request, handler, paces)
        connection.begin()
        try:
            return await _answer(request, handler, paces)
        finally:
            connection.finish()

    return limited


async def _answer(request: web.Request, handler: Handler, paces: Paces[tuple[str, str]]) -> web.StreamResponse:
    if request.method not in _METHODS:
        return _refusal(405, "use GET or HEAD", {"Allow": ", ".join(_METHODS)})
    if request.can_read_body:
        return _refusal(413, "send no body")
    # Unknown pages are one.
    page = request.path if request.match_info.http_exception is None else ""
    pace = paces.of((_address(request), page), _PER_S, _AT_ONCE)
    delay_ns = pace.delay_ns(time.monotonic_ns(), _MOST_DELAY_NS)
    if delay_ns > _MOST_DELAY_NS:
        return _refusal(429, f"at most {_PER_S:g} requests a second", {"Retry-After": "1"})
    if delay_ns:
        await asyncio.sleep(delay_ns / 1e9)
    return await handler(request)


def _address(request: web.Request) -> str:
    host = request.remote or ""
    return address_name(f"ipv6:[{host}]:0" if ":" in host else f"ipv4:{host}:0")


def _refusal(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    """Return an answer after which the connection is closed, as the rest of the request is not read."""
    response = web.Response(status=status, text=f"{text}\n", headers=headers)
    response.force_close()
    return response
