"""When a request is wanted, in both protocols: its priority, and a timeout of its own beside the call's deadline."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from resonnx_server.errors import DeadlineExceeded, InvalidInput, WaitTooLong
from resonnx_server.scheduling.batcher import DEFAULT_PRIORITY, PRIORITY_LEVELS

T = TypeVar("T")


def checked_priority(priority: int, field: str) -> int:
    """Return a request's priority, 1 (first) to PRIORITY_LEVELS; 0 is Triton's word for the default.

    Raises:
        InvalidInput: There is no such priority; names `field`.
    """
    if priority > PRIORITY_LEVELS:
        raise InvalidInput(field, f"{priority} is not within 0..{PRIORITY_LEVELS}")
    return priority or DEFAULT_PRIORITY


def earlier_ns(deadline_ns: int | None, now_ns: int, timeout_us: int) -> int | None:
    """Return the earlier of the caller's deadline and the request's timeout (from now; 0 is none), monotonic ns."""
    if not timeout_us:
        return deadline_ns
    timeout_ns = now_ns + timeout_us * 1000
    return timeout_ns if deadline_ns is None else min(timeout_ns, deadline_ns)


async def within(seconds: float, work: Awaitable[T], timeout_us: int = 0) -> T:
    """Wait for `work`.

    Args:
        seconds: How long.
        work: What fails by itself if it finds that time does not suffice.
        timeout_us: The request parameter that says how long, if one does: errors name it with its unit, as many clients
            mean seconds.

    Raises:
        DeadlineExceeded: It takes longer.
    """
    try:
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError:
            raise DeadlineExceeded("the request's timeout passed before the answer was there") from None
    except (DeadlineExceeded, WaitTooLong) as error:
        if timeout_us:
            error.message += f" (the parameter 'timeout' is {timeout_us} µs, {timeout_us / 1000:g} ms)"
        raise
