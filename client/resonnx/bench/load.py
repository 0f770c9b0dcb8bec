"""Sends requests: as fast as a number of callers gets answers (closed loop), or when they are due (open loop).

A closed loop finds out what a server can do at most. It hides how callers fare who do not wait for each other: while
the server stalls, nothing is sent that could suffer. An open loop sends on schedule whatever happens, and measures
from the moment at which a request was due.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from resonnx.bench.schedule import poisson
from resonnx.bench.summary import LATE, OK, Result, Tally, summarise

Call = Callable[[int, float | None], Awaitable[tuple[str, str]]]
"""Sends the request of that number with that many seconds to live; returns the gRPC status code's name and message."""

# A caller who was refused does not hammer.
_PAUSE_AFTER_FAILURE_S: Final = 0.01
# asyncio wakes on whole milliseconds: what is due within half of one is sent now, not half of one late on average.
_TICK_S: Final = 0.0005
# Bounds this process's memory where a server answers nothing.
_MOST_UNDER_WAY: Final = 4096
_NOT_SENT: Final = "NOT_SENT"
# An answer that is still missing so long after the last request ends the run with TimeoutError.
_PATIENCE_S: Final = 40.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to send; what is sent during the warm-up does not count.

    Attributes:
        deadline_s: For each request, or None.
        seed: Of an open loop's schedule.
    """

    warmup_s: float
    seconds: float
    deadline_s: float | None = None
    seed: int = 0


async def closed_loop(call: Call, concurrency: int, plan: Plan, tally: Tally) -> Result:
    """Let `concurrency` callers each send its next request when the last is answered.

    A request counts if it ends within the measured time. `tally` is filled as the run goes.
    """
    begin = perf_counter() + plan.warmup_s
    end = begin + plan.seconds
    numbers = itertools.count()

    async def caller() -> None:
        while (sent := perf_counter()) < end:
            code, message = await call(next(numbers), plan.deadline_s)
            done = perf_counter()
            if begin <= done < end:
                tally.add(code, done - sent, message)
            if code != OK:
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_S)

    async with _limit(plan), asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(caller())
    return summarise(tally, plan.seconds, concurrency=concurrency)


async def open_loop(call: Call, rate: float, plan: Plan, tally: Tally) -> Result:
    """Send at random moments, `rate` a second on average, whatever the answers do.

    A request counts if it was due within the measured time, and all are waited for.
    """
    start = perf_counter()
    under_way = 0

    async def one(number: int, due: float) -> None:
        nonlocal under_way
        sent = perf_counter()
        due = min(due, sent)
        left = None if plan.deadline_s is None else plan.deadline_s - (sent - due)
        if left is not None and left <= 0:
            code, message = LATE, ""
        elif under_way >= _MOST_UNDER_WAY:
            code, message = _NOT_SENT, f"{_MOST_UNDER_WAY} requests were under way"
        else:
            under_way += 1
            code, message = await call(number, left)
            under_way -= 1
        if due >= start + plan.warmup_s:
            tally.add(code, perf_counter() - due, message)
            tally.add_lag(sent - due)

    async with _limit(plan), asyncio.TaskGroup() as group:
        for number, offset in enumerate(poisson(rate, plan.warmup_s + plan.seconds, plan.seed)):
            ahead = start + offset - perf_counter()
            await asyncio.sleep(ahead if ahead > _TICK_S else 0)
            group.create_task(one(number, start + offset))
    return summarise(tally, plan.seconds, rate=rate)


def _limit(plan: Plan) -> asyncio.Timeout:
    return asyncio.timeout(plan.warmup_s + plan.seconds + _PATIENCE_S)
