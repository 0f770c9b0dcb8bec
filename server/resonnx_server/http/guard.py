"""Lets callers use the pages for which they have the role, and tells the pages who asks."""

import time
from contextvars import ContextVar
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from resonnx_server.access.caller import Caller, Role
from resonnx_server.access.certificates import peer_name
from resonnx_server.access.gate import Gate
from resonnx_server.access.refusal_log import RefusalLog
from resonnx_server.errors import ServerError
from resonnx_server.http.pages import Handler, Pages
from resonnx_server.http.refusals import refused
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.observe.requests.access_log import access_log, caller_of
from resonnx_server.observe.requests.identity import IDENTITY, Identity
from resonnx_server.observe.trace_context import PARENT, STATE, TRACE_CONTEXT, TraceContext, parse

# Who asks for a page that is not open, in the task of the request.
CALLER: Final[ContextVar[Caller]] = ContextVar("CALLER")
# Of a path in the log, in characters.
_LONGEST_PATH: Final = 64
_LEAST_ERROR: Final = 400


def guard(gate: Gate, rejected: RejectedCalls, pages: Pages) -> Middleware:
    """Return a middleware that answers 401 without a known key and 403 without the role.

    Args:
        gate: The port's rules.
        rejected: Counts refused requests by reason.
        pages: The port's pages.
    """
    log = RefusalLog()

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        page = pages.of(request)
        path = request.path[:_LONGEST_PATH] if page is None else page.path
        # The task serves all requests of a connection.
        IDENTITY.set(identity := Identity(request.headers.items(), f"{request.method} {path}"))
        TRACE_CONTEXT.set(_trace_context(request))
        if access_log.is_on and page is not None and page.is_json:
            identity.start_ns = time.monotonic_ns()
        role = Role.READ if page is None else page.role
        if role is not None:
            given = request.headers.getall("Authorization", [])
            try:
                CALLER.set(gate.admit(role, _peer(request), given, _certificate(request)))
            except ServerError as error:
                rejected.count(error)
                log.write(error, request.path[:_LONGEST_PATH], _peer(request))
                if identity.start_ns:
                    identity.reason = error.reason
                    access_log.call_ended(identity, caller_of(error), "")
                return await refused(request, page, error)
        if not identity.start_ns:
            return await handler(request)
        outcome = "CANCELLED"
        try:
            response = await handler(request)
            outcome = "OK" if response.status < _LEAST_ERROR else str(response.status)
            return response
        finally:
            access_log.call_ended(identity, "" if role is None else CALLER.get().name, outcome)

    return guarded


def _trace_context(request: web.Request) -> TraceContext | None:
    headers = request.headers
    if PARENT not in headers or len(parents := headers.getall(PARENT)) > 1:
        return None
    return parse(parents[0], ",".join(headers.getall(STATE, ())))


def _peer(request: web.Request) -> str:
    """Return the client's address as gRPC writes it."""
    host = request.remote or ""
    return f"ipv6:[{host}]:0" if ":" in host else f"ipv4:{host}:0"


def _certificate(request: web.Request) -> str | None:
    return None if request.transport is None else peer_name(request.transport.get_extra_info("peercert"))
