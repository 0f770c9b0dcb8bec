"""Lets callers with the role `read` read all pages but /livez, and tells the pages who asks."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from resonnx_server.access.caller import Caller, Role
from resonnx_server.access.certificates import peer_name
from resonnx_server.access.gate import Gate
from resonnx_server.access.refusal_log import RefusalLog
from resonnx_server.errors import ServerError, Unauthenticated
from resonnx_server.observe.rejected import RejectedCalls

_OPEN: Final = "/livez"
# Who asks for a page that is not open, in the task of the request.
CALLER: Final[ContextVar[Caller]] = ContextVar("CALLER")
# Of a path in the log, in characters.
_LONGEST_PATH: Final = 64

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def guard(gate: Gate, rejected: RejectedCalls) -> Middleware:
    """Return a middleware that answers 401 without a known key and 403 without the role.

    Args:
        gate: The port's rules.
        rejected: Counts refused requests by reason.
    """
    log = RefusalLog()

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != _OPEN:
            given = request.headers.getall("Authorization", [])
            try:
                CALLER.set(gate.admit(Role.READ, _peer(request), given, _certificate(request)))
            except ServerError as error:
                rejected.count(error)
                log.write(error, request.path[:_LONGEST_PATH], _peer(request))
                return _refusal(error)
        return await handler(request)

    return guarded


def _peer(request: web.Request) -> str:
    """Return the client's address as gRPC writes it."""
    host = request.remote or ""
    return f"ipv6:[{host}]:0" if ":" in host else f"ipv4:{host}:0"


def _certificate(request: web.Request) -> str | None:
    return None if request.transport is None else peer_name(request.transport.get_extra_info("peercert"))


def _refusal(error: ServerError) -> web.Response:
    is_unknown = isinstance(error, Unauthenticated)
    headers = {"WWW-Authenticate": "Bearer"} if is_unknown else {}
    return web.Response(status=401 if is_unknown else 403, text=f"{error.reason}: {error.message}\n", headers=headers)
