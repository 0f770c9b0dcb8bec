"""Sends requests in a closed loop (each caller waits for its answer) or in an open loop (on a schedule).

A closed loop measures the maximum throughput. It hides the latency of independent callers, as it sends nothing while
the server stalls. An open loop sends on schedule regardless of answers, and measures from when a request was due.
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
"""Sends the request of a number with seconds until its deadline; returns the gRPC status code's name and message."""

# A caller pauses after a failure.
_PAUSE_AFTER_FAILURE_S: Final = 0.01
# asyncio wakes on whole milliseconds: requests due within half a millisecond are sent at once.
_TICK_S: Final = 0.0005
# Bounds this process's memory if a server does not answer.
_MAX_IN_FLIGHT: Final = 4096
_NOT_SENT: Final = "NOT_SENT"
# A run raises TimeoutError if an answer is missing this long after its end.
_PATIENCE_S: Final = 40.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to send.

    Attributes:
        warmup_s: Warm-up, not counted.
        seconds: Measured time after the warm-up.
        deadline_s: Seconds until the deadline of each request; None for no deadline.
        seed: Seed of an open loop's schedule.
    """

    warmup_s: float
    seconds: float
    deadline_s: float | None = None
    seed: int = 0


async def closed_loop(call: Call, concurrency: int, plan: Plan, tally: Tally) -> Result:
    """Let each of `concurrency` callers send its next request when the previous one is answered.

    Requests that end within the measured time are counted in `tally`.
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
    """Send Poisson arrivals at `rate` per second, regardless of answers.

    Requests that are due within the measured time are counted in `tally`; all are waited for.
    """
    start = perf_counter()
    in_flight = 0

    async def one(number: int, due: float) -> None:
        nonlocal in_flight
        sent = perf_counter()
        due = min(due, sent)
        left = None if plan.deadline_s is None else plan.deadline_s - (sent - due)
        if left is not None and left <= 0:
            code, message = LATE, ""
        elif in_flight >= _MAX_IN_FLIGHT:
            code, message = _NOT_SENT, f"{_MAX_IN_FLIGHT} requests were in flight"
        else:
            in_flight += 1
            code, message = await call(number, left)
            in_flight -= 1
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
