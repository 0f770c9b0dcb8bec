"""Logs failures that are no caller's fault, a few a second at most, each with an id that its caller gets too.

A caller who found a request that fails could otherwise fill the disk with tracebacks.
"""

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from resonnx_server.observe.line_limit import LineLimit

# Failures of one kind are logged once in this time; the others have the id of the logged one.
_INTERVAL_NS: Final = 1_000_000_000
# Lines a second of all kinds together.
_LINES_PER_S: Final = 8
_KEPT_KINDS: Final = 256


@dataclass
class _Kind:
    """The last logged failure of a kind, and how many came since."""

    id: str
    at_ns: int
    unlogged: int = 0


class Incidents:
    """Failures by kind: message, caller, class of the exception and the line that raised it. Thread-safe.

    Args:
        clock: Monotonic ns.
        new_id: Makes an id that tells nothing.
    """

    def __init__(
        self, clock: Callable[[], int] = time.monotonic_ns, new_id: Callable[[], str] = lambda: secrets.token_hex(4)
    ) -> None:
        self._clock = clock
        self._new_id = new_id
        self._lock = threading.Lock()
        self._kinds: OrderedDict[tuple[object, ...], _Kind] = OrderedDict()
        self._lines = LineLimit(_LINES_PER_S, clock)

    def report(
        self,
        logger: logging.Logger,
        message: str,
        error: BaseException,
        caller: str = "",
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Log a failure with its traceback, unless one like it was logged just now.

        Args:
            logger: Gets the line.
            message: What failed; a constant.
            error: The exception. It is not kept.
            caller: The caller's name, if the failure is of one call.
            extra: More fields of the line.

        Returns:
            The incident's id: that of the line in the log that has the traceback of this failure, or of one like it.
        """
        now = self._clock()
        key = (logger.name, message, caller, type(error), *_raised_at(error))
        with self._lock:
            kind = self._kinds.get(key)
            if kind is not None and now - kind.at_ns < _INTERVAL_NS:
                kind.unlogged += 1
                return kind.id
            is_logged = self._lines.admit() is not None
            unlogged = kind.unlogged if kind is not None else 0
            incident = self._new_id()
            self._kinds[key] = _Kind(incident, now, 0 if is_logged else unlogged + 1)
            self._kinds.move_to_end(key)
            if len(self._kinds) > _KEPT_KINDS:
                self._kinds.popitem(last=False)
        if is_logged:
            fields = {"incident": incident, **({"caller": caller} if caller else {}), **(extra or {})}
            if unlogged:
                fields["unlogged_before"] = unlogged
            logger.error(message, exc_info=error, extra=fields)
        return incident


def _raised_at(error: BaseException) -> tuple[str, int]:
    """Return the file and line that raised; the frames themselves would hold requests."""
    trace = error.__traceback__
    if trace is None:
        return "", 0
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno


# As logging's, it is the process's.
report_incident: Final = Incidents().report
