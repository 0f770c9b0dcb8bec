"""A measurement: a sweep of loads or a search."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from resonnx._errors import FailedPrecondition
from resonnx._transport.access import NO_ACCESS, Access
from resonnx.bench.load import Call, Plan, closed_loop, open_loop
from resonnx.bench.search import RateSearch
from resonnx.bench.subject import describe
from resonnx.bench.summary import Result, Tally
from resonnx.bench.traffic import Input, Traffic, tensor_traffic, vision_traffic
from resonnx.bench.transport import sender

# Callers that share a connection or a stream.
_CALLERS_PER_CONNECTION: Final = 16
_OPEN_LOOP_CONNECTIONS: Final = 4

Watch = Callable[[str, Plan, Tally], None]
"""Called when a run starts, with its name, its plan, and the tally that it fills."""


@dataclass(frozen=True)
class Target:
    """The server and model to measure, and the kind of requests.

    Attributes:
        server: HOST:PORT.
        model: Name of the model.
        input: Contents of the requests.
        files: Contents of picture files, for Input.FILE.
        stream: Whether requests are pipelined over streams.
        connections: Number of connections; None for one per 16 callers, or 4 in an open loop.
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
        target: The server and model to measure.
        plan: Plan of every run.
        watch: Called when a run starts.
        access: Key and TLS.

    Attributes:
        best_rate: Result of `search` in requests per second; None if no rate was within the bound.
        subject: The server's and the model's versions, see `describe`; set when the first run starts.
    """

    def __init__(self, target: Target, plan: Plan, watch: Watch, access: Access = NO_ACCESS) -> None:
        self._target = target
        self._access = access
        self._plan = plan
        self._watch = watch
        self._traffic: Traffic | None = None
        self.best_rate: float | None = None
        self.subject: dict[str, Any] = {}

    async def closed(self, concurrencies: tuple[int, ...]) -> AsyncGenerator[Result]:
        """Yield a result for each number of callers. All methods raise ResonnxError."""
        for concurrency in concurrencies:
            yield await self._closed(concurrency, self._plan)

    async def open(self, rates: tuple[float, ...]) -> AsyncGenerator[Result]:
        """Yield a result for each rate, in requests per second."""
        for rate in rates:
            yield await self._open(rate)

    async def search(self, p99_ms: float, concurrency: int) -> AsyncGenerator[Result]:
        """Search for the highest rate whose p99 is within a bound, and yield the results of all runs.

        Args:
            p99_ms: Bound of the 99th percentile over all requests; refused, late and failed ones count as unbounded.
            concurrency: Callers of the closed loop that determines the first rate.
        """
        # Without deadline, to measure the throughput.
        peak = await self._closed(concurrency, replace(self._plan, deadline_s=None))
        yield peak
        if not peak.ok:
            return
        search = RateSearch(0.7 * peak.per_s)
        while (rate := search.propose()) is not None:
            result = await self._open(rate)
            search.record(result.keeps(p99_ms))
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
        async with sender(self._target.server, traffic, connections, self._access, stream=self._target.stream) as call:
            return await run(call)

    async def _requests(self) -> Traffic:
        if self._traffic is None:
            target, seed, access = self._target, self._plan.seed, self._access
            if target.input is Input.TENSOR:
                self._traffic = await tensor_traffic(target.server, target.model, seed, access)
            else:
                self._traffic = await vision_traffic(
                    target.server, target.model, target.files, self._plan.seed, self._access
                )
            if target.stream and self._traffic.stream is None:
                raise FailedPrecondition(
                    f"{target.model} has no stream of pictures: use --input tensor or omit --stream"
                )
            self.subject = await describe(target.server, target.model, access)
        return self._traffic
