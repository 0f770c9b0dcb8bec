"""One measurement from connect to last result: a sweep of loads, or a search."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from resonnx._errors import FailedPrecondition
from resonnx.bench.load import Call, Plan, closed_loop, open_loop
from resonnx.bench.search import RateSearch
from resonnx.bench.subject import describe
from resonnx.bench.summary import Result, Tally
from resonnx.bench.traffic import Input, Traffic, tensor_traffic, vision_traffic
from resonnx.bench.transport import sender

# What one connection, or one stream, carries well.
_CALLERS_PER_CONNECTION: Final = 16
_OPEN_LOOP_CONNECTIONS: Final = 4

Watch = Callable[[str, Plan, Tally], None]
"""Told of each run as it begins: its name, its plan, and the tally that fills while it goes on."""


@dataclass(frozen=True)
class Target:
    """Whom to ask, for what, and how.

    Attributes:
        server: HOST:PORT.
        files: Contents of picture files, for Input.FILE.
        stream: Pipeline requests over streams.
        connections: None for one to each 16 callers, and 4 for an open loop.
    """

    server: str
    model: str
    input: Input
    files: tuple[bytes, ...] = ()
    stream: bool = False
    connections: int | None = None


class Session:
    """Measures one target.

    Args:
        target: What to measure.
        plan: Of every run.
        watch: Told of each run.

    Attributes:
        best_rate: See `search`.
        subject: What `describe` found, once a run has begun.
    """

    def __init__(self, target: Target, plan: Plan, watch: Watch) -> None:
        self._target = target
        self._plan = plan
        self._watch = watch
        self._traffic: Traffic | None = None
        self.best_rate: float | None = None
        self.subject: dict[str, Any] = {}

    async def closed(self, concurrencies: tuple[int, ...]) -> AsyncGenerator[Result]:
        """Yield a result for each number of callers. Raises ResonnxError, as the others do."""
        for concurrency in concurrencies:
            yield await self._closed(concurrency, self._plan)

    async def open(self, rates: tuple[float, ...]) -> AsyncGenerator[Result]:
        """Yield a result for each number of requests a second."""
        for rate in rates:
            yield await self._open(rate)

    async def search(self, p99_ms: float, concurrency: int) -> AsyncGenerator[Result]:
        """Yield results while looking for the highest rate that keeps p99; the answer is then in `best_rate`.

        Args:
            p99_ms: The bound, over all requests: one that is refused, late or failed breaks it like a slow one.
            concurrency: Of the closed loop that finds out where to begin.
        """
        # The throughput is wanted, whatever the deadline.
        peak = await self._closed(concurrency, replace(self._plan, deadline_s=None))
        yield peak
        if not peak.ok:
            return
        search = RateSearch(0.7 * peak.per_s)
        while (rate := search.propose()) is not None:
            result = await self._open(rate)
            search.tell(result.keeps(p99_ms))
            self.best_rate = search.best
            yield result

    async def _closed(self, concurrency: int, plan: Plan) -> Result:
        connections = self._target.connections or -(-concurrency // _CALLERS_PER_CONNECTION)
        tally = Tally(plan.deadline_s)

        async def run(call: Call) -> Result:
            return await closed_loop(call, concurrency, plan, tally)

        return await self._run(f"{concurrency} callers", connections, plan, tally, run)

    async def _open(self, rate: float) -> Result:
        tally = Tally(self._plan.deadline_s)

        async def run(call: Call) -> Result:
            return await open_loop(call, rate, self._plan, tally)

        connections = self._target.connections or _OPEN_LOOP_CONNECTIONS
        return await self._run(f"{rate:.4g}/s", connections, self._plan, tally, run)

    async def _run(
        self, name: str, connections: int, plan: Plan, tally: Tally, run: Callable[[Call], Awaitable[Result]]
    ) -> Result:
        traffic = await self._requests()
        self._watch(name, plan, tally)
        async with sender(self._target.server, traffic, connections, stream=self._target.stream) as call:
            return await run(call)

    async def _requests(self) -> Traffic:
        if self._traffic is None:
            target = self._target
            if target.input is Input.TENSOR:
                self._traffic = await tensor_traffic(target.server, target.model, self._plan.seed)
            else:
                self._traffic = await vision_traffic(target.server, target.model, target.files, self._plan.seed)
            if target.stream and self._traffic.stream is None:
                raise FailedPrecondition("captions of many pictures are streamed as tensors only: use --input tensor")
            self.subject = await describe(target.server, target.model)
        return self._traffic
