"""Refuses bodies and other methods than GET and HEAD where none are wanted, and spreads reads of an address over time.

Browsers tell whose page sends a request: what other sites' pages post is refused, as they would use their visitor's
address or certificate. They cannot read answers anyway, since no answer permits it.

Requests that infer are limited by rules of their own: the caller's limits and the memory budget.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from resonnx_server.access.caller import Role, host_name
from resonnx_server.http.connection import CONNECTION
from resonnx_server.http.listener import Listener
from resonnx_server.http.pages import Handler, Page, Pages
from resonnx_server.http.refusals import closed, is_json
from resonnx_server.http.rest.body import DISCARDED_BYTES
from resonnx_server.http.rest.failures import json_response
from resonnx_server.pace import Paces

# Requests of one address for one page, a second and at once. More wait.
_PER_S: Final = 50.0
_AT_ONCE: Final = 50
# Requests that would wait longer are refused.
_MOST_DELAY_NS: Final = 2_000_000_000
_METHODS: Final = ("GET", "HEAD")
# Values of the header that browsers set, of pages of another origin.
_OTHERS: Final = ("cross-site", "same-site")


def limits(listener: Callable[[], Listener | None], pages: Pages) -> Middleware:
    """Return the outermost middleware of a port.

    Args:
        listener: Is told which connections wait for an answer.
        pages: Of the port.
    """
    paces = Paces[tuple[str, str]]()

    @web.middleware
    async def limited(request: web.Request, handler: Handler) -> web.StreamResponse:
        port, page = listener(), pages.of(request)
        connection = None if port is None else port.connection_of(request.protocol)
        if connection is None:
            return await _answer(request, handler, page, paces)
        if page is None or not page.most_bytes:
            connection.begin()
        else:
            connection.begin_body(_body_bytes(request, page))
            CONNECTION.set(connection)
        try:
            return await _answer(request, handler, page, paces)
        finally:
            connection.finish()

    return limited


def _body_bytes(request: web.Request, page: Page) -> int:
    """Return how many bytes a request may bring beside its head."""
    announced = request.content_length
    if announced is None:
        # With what chunks add.
        return page.most_bytes + page.most_bytes // 8
    return announced if announced <= page.most_bytes else DISCARDED_BYTES


async def _answer(
    request: web.Request, handler: Handler, page: Page | None, paces: Paces[tuple[str, str]]
) -> web.StreamResponse:
    unknown = request.match_info.http_exception
    is_posted = page is not None and bool(page.most_bytes)
    if is_posted and request.headers.get("Sec-Fetch-Site") in _OTHERS:
        return closed(request, page, 403, "sent by the page of another site (Sec-Fetch-Site)")
    if page is not None and is_posted and page.role is Role.INFER:
        return await handler(request)
    if not is_posted and request.method not in _METHODS:
        if unknown is not None and unknown.status == 404:
            return closed(request, page, 404, "there is no such page")
        allowed = unknown.headers.get("Allow") if unknown is not None else None
        return closed(request, page, 405, "use GET or HEAD", {"Allow": allowed or ", ".join(_METHODS)})
    if not is_posted and request.can_read_body:
        return closed(request, page, 413, "send no body")
    # Unknown pages are one, and those of all models.
    name = page.path if page is not None else ""
    pace = paces.of((_address(request), name), _PER_S, _AT_ONCE)
    delay_ns = pace.delay_ns(time.monotonic_ns(), _MOST_DELAY_NS)
    if delay_ns > _MOST_DELAY_NS:
        return closed(request, page, 429, f"at most {_PER_S:g} requests a second", {"Retry-After": "1"})
    if delay_ns:
        await asyncio.sleep(delay_ns / 1e9)
    try:
        return await handler(request)
    except web.HTTPException as missing:
        if not is_json(request, page):
            raise
        headers = {name: value for name, value in missing.headers.items() if name == "Allow"}
        return json_response({"error": missing.reason}, missing.status, headers)


def _address(request: web.Request) -> str:
    return host_name(request.remote or "")
