"""A request's id, the same in lines of the log, in details of errors and in traces."""

import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final, Self

from resonnx_server.observe.spans.tracer import CallSpan, RequestSpan

# The header, or key of metadata, in which a caller may give it.
HEADER: Final = "x-request-id"
LONGEST: Final = 64
# Whatever could change a line of a log or a page that shows it.
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._:/@+=-]")


class Identity:
    """What a request is called: by its message, else by its call's headers, else by an id made when it is needed.

    There is one for each call: what few calls need is set when it is.

    Args:
        headers: Names and values of the call's headers.
        method: The called method or page, for the access log.

    Attributes:
        given: The message's own id, as its caller wrote it; empty if it has none.
        call_span: The span of its call; None if that is not recorded.
        span: Its own.
        start_ns: When its call began, monotonic; 0 if nobody asks for it.
        reason: Why its call failed; empty if it did not.
        is_told: The access log has a line of it, or of one of the call's requests.
    """

    given = ""
    call_span: CallSpan | None = None
    span: RequestSpan | None = None
    start_ns = 0
    reason = ""
    is_told = False
    _id = ""
    _call: "Identity | None" = None

    def __init__(self, headers: Iterable[tuple[str, str | bytes]] = (), method: str = "") -> None:
        self._headers = headers
        self.method = method

    @classmethod
    def within(cls, call: "Identity | None") -> Self:
        """Return the identity of one of several requests of a call."""
        own = cls()
        if call is not None:
            own._call, own.method, own.call_span = call, call.method, call.call_span
        return own

    @property
    def id(self) -> str:
        """The id: 1 to 64 characters, letters, digits and `._:/@+=-`; others that were given are replaced by `_`."""
        if self.given:
            return _cleaned(self.given)
        if self._call is not None:
            return self._call.id
        if not self._id:
            self._id = self._of_headers() or secrets.token_hex(8)
        return self._id

    def mark_told(self) -> None:
        """Note that the access log has a line of it."""
        self.is_told = True
        if self._call is not None:
            self._call.is_told = True

    def _of_headers(self) -> str:
        for name, value in self._headers:
            if name.lower() == HEADER and isinstance(value, str):
                return _cleaned(value)
        return ""


def _cleaned(text: str) -> str:
    return _FOREIGN.sub("_", text[:LONGEST])


# That of the call, or of the request of a stream, which the current task serves.
IDENTITY: Final[ContextVar[Identity | None]] = ContextVar("IDENTITY", default=None)


def spans_of(identities: Iterable[Identity | None]) -> list[RequestSpan | None]:
    """Return the spans of requests that are served together."""
    return [None if identity is None else identity.span for identity in identities]


def ids_of(identities: Iterable[Identity | None]) -> list[str]:
    """Return the ids of requests that are served together, for the log."""
    return [identity.id for identity in identities if identity is not None]
