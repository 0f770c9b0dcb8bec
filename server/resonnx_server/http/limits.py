"""Refuses requests with bodies and of other methods than GET and HEAD, and spreads those of one address over time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from resonnx_server.access.caller import address_name
from resonnx_server.http.listener import Listener
from resonnx_server.http.pace import Paces

# Requests of one address for one page, a second and at once. More wait.
_PER_S: Final = 50.0
_AT_ONCE: Final = 50
# Requests that would wait longer are refused.
_MOST_DELAY_S: Final = 2.0
_METHODS: Final = ("GET", "HEAD")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def limits(listener: Callable[[], Listener | None]) -> Middleware:
    """Return the outermost middleware of a port, whose listener it tells which connections wait for an answer."""
    paces = Paces(_PER_S, _AT_ONCE)

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


async def _answer(request: web.Request, handler: Handler, paces: Paces) -> web.StreamResponse:
    if request.method not in _METHODS:
        return _refusal(405, "use GET or HEAD", {"Allow": ", ".join(_METHODS)})
    if request.can_read_body:
        return _refusal(413, "send no body")
    # Unknown pages are one.
    page = request.path if request.match_info.http_exception is None else ""
    delay_s = paces.of((_address(request), page)).delay_s(asyncio.get_running_loop().time(), _MOST_DELAY_S)
    if delay_s > _MOST_DELAY_S:
        return _refusal(429, f"at most {_PER_S:g} requests a second", {"Retry-After": "1"})
    if delay_s:
        await asyncio.sleep(delay_s)
    return await handler(request)


def _address(request: web.Request) -> str:
    host = request.remote or ""
    return address_name(f"ipv6:[{host}]:0" if ":" in host else f"ipv4:{host}:0")


def _refusal(status: int, text: str, headers: dict[str, str] | None = None) -> web.Response:
    """Return an answer after which the connection is closed, as the rest of the request is not read."""
    response = web.Response(status=status, text=f"{text}\n", headers=headers)
    response.force_close()
    return response
