"""A request's id, the same in lines of the log, in details of errors and in traces."""

import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Final, Self

# The header, or key of metadata, in which a caller may give it.
HEADER: Final = "x-request-id"
LONGEST: Final = 64
# Whatever could change a line of a log or a page that shows it.
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._:/@+=-]")


class Identity:
    """What a request is called: by its message, else by its call's headers, else by an id made when it is needed.

    Args:
        headers: Names and values of the call's headers.
        call: That of the whole call, if the request is one of several of a stream.

    Attributes:
        given: The message's own id, as its caller wrote it; empty if it has none.
    """

    __slots__ = ("_call", "_headers", "_id", "given")

    def __init__(self, headers: Iterable[tuple[str, str | bytes]] = (), call: Self | None = None) -> None:
        self._headers = headers
        self._call = call
        self._id = ""
        self.given = ""

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

    def _of_headers(self) -> str:
        for name, value in self._headers:
            if name.lower() == HEADER and isinstance(value, str):
                return _cleaned(value)
        return ""


def _cleaned(text: str) -> str:
    return _FOREIGN.sub("_", text[:LONGEST])


# That of the call, or of the request of a stream, which the current task serves.
IDENTITY: Final[ContextVar[Identity | None]] = ContextVar("IDENTITY", default=None)


def ids_of(identities: Iterable[Identity | None]) -> list[str]:
    """Return the ids of requests that are served together, for the log."""
    return [identity.id for identity in identities if identity is not None]
