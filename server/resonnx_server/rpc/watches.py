"""Limits how many health watches are open: they last for days, and each holds memory."""

import asyncio
from collections import Counter, OrderedDict
from typing import Final

from resonnx_server.errors import RateLimited

# Of a connection, and of a caller.
OF_CONNECTION: Final = 64
OF_CALLER: Final = 512
_RETRY_AFTER_MS: Final = 10_000


class Watch:
    """An open watch.

    Attributes:
        caller: Whose it is.
        connection: gRPC's address of its client.
        changed: Set when a status may have changed, or the watch was ended.
        ended: Why it was ended; None while it is open.
    """

    __slots__ = ("caller", "changed", "connection", "ended")

    def __init__(self, caller: str, connection: str) -> None:
        self.caller = caller
        self.connection = connection
        self.changed = asyncio.Event()
        self.ended: RateLimited | None = None


class Watches:
    """All open watches. Event loop only.

    Args:
        most: Most at a time. Beyond, the caller with the most loses its oldest one to a caller that has fewer.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        # Oldest first.
        self._of: dict[str, OrderedDict[Watch, None]] = {}
        self._of_connection: Counter[str] = Counter()

    def begin(self, caller: str, connection: str) -> Watch:
        """Return a new watch, which must be given to `end`.

        Raises:
            RateLimited: The caller or its connection has too many, or there are too many and no caller has more.
        """
        own = len(self._of.get(caller, ()))
        if self._of_connection[connection] >= OF_CONNECTION:
            raise _refusal(f"this connection has {OF_CONNECTION} health watches; end some of them")
        if own >= OF_CALLER:
            raise _refusal(f"this caller has {OF_CALLER} health watches; end some of them")
        if len(self) >= self._most:
            largest = max(self._of.values(), key=len)
            if len(largest) <= own + 1:
                raise _refusal(f"the server has {self._most} health watches, its most")
            oldest = next(iter(largest))
            oldest.ended = _refusal("the server has too many health watches; use Check, or watch again later")
            oldest.changed.set()
            self.end(oldest)
        watch = Watch(caller, connection)
        self._of.setdefault(caller, OrderedDict())[watch] = None
        self._of_connection[connection] += 1
        return watch

    def end(self, watch: Watch) -> None:
        """Forget a watch. Safe to call again."""
        of = self._of.get(watch.caller)
        if of is None or watch not in of:
            return
        del of[watch]
        if not of:
            del self._of[watch.caller]
        self._of_connection[watch.connection] -= 1
        if not self._of_connection[watch.connection]:
            del self._of_connection[watch.connection]

    def notify(self) -> None:
        """Let all look at their statuses."""
        for of in self._of.values():
            for watch in of:
                watch.changed.set()

    def __len__(self) -> int:
        return self._of_connection.total()


def _refusal(message: str) -> RateLimited:
    return RateLimited(message, _RETRY_AFTER_MS)
