"""What the caller of a request that ran out of time in a queue is told: what is the case, and why. Pure."""

from typing import Any

from resonnx_server.errors import DeadlineExceeded, DeadlineUnreachable, ServerError, WaitTooLong, milliseconds
from resonnx_server.scheduling.queue import Entry


def lateness(entry: Entry[Any], now_ns: int, *, takes_ns: float, quickest_ns: float, drain_ns: float) -> ServerError:
    """Return the error of a request whose turn has come too late.

    Args:
        entry: With a deadline.
        now_ns: Monotonic time.
        takes_ns: Expected time of its rows.
        quickest_ns: The same on an idle device, as quick as batches often are. Had it been run when it came and been in
            time, waiting for others is the reason, unless there were none.
        drain_ns: Expected time until all that waits is done.
    """
    assert entry.deadline_ns is not None
    left_ns = entry.deadline_ns - now_ns
    if left_ns <= 0:
        return DeadlineExceeded("the deadline passed while the request waited")
    would_be_late = f"the request would take {milliseconds(takes_ns)} and is wanted within {milliseconds(left_ns)}"
    if not entry.found_idle and entry.arrival_ns + quickest_ns <= entry.deadline_ns:
        return WaitTooLong.for_ns(f"after its wait {would_be_late}", drain_ns)
    return DeadlineUnreachable(would_be_late)
