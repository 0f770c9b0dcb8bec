"""Lets callers use the pages for which they have the role, and tells the pages who asks."""

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
from resonnx_server.observe.requests.identity import IDENTITY, Identity

# Who asks for a page that is not open, in the task of the request.
CALLER: Final[ContextVar[Caller]] = ContextVar("CALLER")
# Of a path in the log, in characters.
_LONGEST_PATH: Final = 64


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
        # The task serves all requests of a connection.
        IDENTITY.set(Identity(request.headers.items()))
        page = pages.of(request)
        role = Role.READ if page is None else page.role
        if role is not None:
            given = request.headers.getall("Authorization", [])
            try:
                CALLER.set(gate.admit(role, _peer(request), given, _certificate(request)))
            except ServerError as error:
                rejected.count(error)
                log.write(error, request.path[:_LONGEST_PATH], _peer(request))
                return await refused(request, page, error)
        return await handler(request)

    return guarded


def _peer(request: web.Request) -> str:
    """Return the client's address as gRPC writes it."""
    host = request.remote or ""
    return f"ipv6:[{host}]:0" if ":" in host else f"ipv4:{host}:0"


def _certificate(request: web.Request) -> str | None:
    return None if request.transport is None else peer_name(request.transport.get_extra_info("peercert"))
