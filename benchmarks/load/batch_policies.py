"""Compares when a second batch begins beside a running one, in seconds: a discrete-event simulation of the server.

    PYTHONPATH=benchmarks python benchmarks/load/batch_policies.py [--callers 1,4,16,64] [--seconds 20] [--file FILE]

The simulated server is the real queue, batcher and engine (tensors/engine.py) under a simulated clock. Simulated are
what they wait for: the event loop, which does one thing at a time and goes before batches, as its thread has the higher
priority; the clients' own work; and batches, which share the cores that are left. Times of batches are measured: those
below, or with --file now, by ONNX Runtime alone. Compared are rules for how many rows a batch needs that begins beside
another one:

    server       as many as make it efficient; any batch that begins alone gets all cores (the server as it is)
    efficient    the same number, but all cores only if no other rows are expected, as in all rules below
    any          any
    N            as many as make it efficient, N at most
    like-others  as many as make it efficient, at most as many as the running batches have on average

Callers are a closed loop: each sends its next request when the last one is answered. notes/batch_policies.md says what
was found, and why the server has none of the others.
"""

import argparse
import asyncio
import heapq
import itertools
import random
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import numpy as np
from load.batch_rules import RULES, Rule, SimulatedEngine, SimulatedGroup, rows_of
from resonnx_server.observe.stats import ModelStats
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to, smooth
from resonnx_server.scheduling.session_pool import SessionPool
from resonnx_server.tensors.engine import TensorCost
from resonnx_server.tensors.jobs import TensorJob
from rich.console import Console
from rich.table import Table

_LARGEST: Final = 16
# From an answer on, until the caller's next request is on the event loop: its own work, and both ends of the network.
_CLIENT_US: Final = 150.0
# Work of the event loop: for a request that has come, for a batch that has ended, for each answer.
_ARRIVE_US: Final = 70.0
_ENDED_US: Final = 30.0
_ANSWER_US: Final = 45.0
# What a lane adds to a run: its wake-up, joining rows, dividing outputs.
_LANE_US: Final = 100.0
# Runs vary by so much (a standard deviation, as a share).
_SPREAD: Final = 0.08


@dataclass(frozen=True)
class Machine:
    """Run times in us: of `rows` on a thread of its own beside another such run, and of one row on all cores."""

    single: Mapping[int, float]
    spinning: float
    cores: int = 2


# ResNet-18 at 32x32 in fp32, two cores: AMD with AVX-512 (docs: notes/small-model.md), and a slower Intel guest.
MACHINES: Final = {
    "AMD": Machine({rows: 170 + 345 * rows for rows in sizes_up_to(_LARGEST)}, 240),
    "Intel guest": Machine({rows: 500 + 1000 * rows for rows in sizes_up_to(_LARGEST)}, 750),
}


class _Clock:
    def __init__(self) -> None:
        self.us = 0.0

    def __call__(self) -> int:
        return int(self.us * 1000)


@dataclass(eq=False)
class _Run:
    job: TensorJob
    left_us: float
    is_on_all: bool
    began_us: float


class Simulation:
    """A server and its callers.

    Args:
        machine: Run times.
        callers: Number of callers.
        rule: The rows that a batch needs beside a running one; None for the server's own rule.
        seed: Of the variation of runs.

    Attributes:
        engine: The server's part that decides.
        latencies_us: From request to answer.
        rows: Of each batch.
    """

    def __init__(self, machine: Machine, callers: int, rule: Rule | None, seed: int = 0) -> None:
        self._machine, self._rng = machine, random.Random(seed)
        self._clock = _Clock()
        self._device = Device("simulated", 0, self._clock)
        self._device.lanes = machine.cores
        self._device.idle_lanes = lambda: machine.cores - len(self._runs)  # type: ignore[method-assign]
        spinning = {rows: max(machine.spinning, us * 0.62) for rows, us in machine.single.items()}
        alone = SessionPool(self._no_run, self._table(spinning), has_all_cores=True)
        group = SimulatedGroup(alone, SessionPool(self._no_run, self._table(machine.single)), machine.cores)
        self._spinning = spinning
        self.engine = group.engine = SimulatedEngine(group, self._device, ModelStats(), max_queue_rows=10_000)
        self.engine.rule = rule
        self._runs: list[_Run] = []
        # Work of the event loop: its duration in us, and the function called at its end.
        self._loop_work: deque[tuple[float, Callable[[], None]]] = deque()
        self._loop_left_us = 0.0
        # Clients that come back.
        self._returns: list[tuple[float, int]] = []
        self._sent_us = dict.fromkeys(range(callers), 0.0)
        self.latencies_us: list[float] = []
        self.rows: list[int] = []
        for caller in range(callers):
            heapq.heappush(self._returns, (self._rng.uniform(0, 1000), caller))

    def run(self, seconds: float) -> None:
        """Simulate; the first tenth is not counted."""
        ends_us = seconds * 1e6
        counted = False
        while self._clock.us < ends_us:
            self._step()
            if not counted and self._clock.us > ends_us / 10:
                counted = True
                self.latencies_us.clear()
                self.rows.clear()

    def _step(self) -> None:
        """Go on to the next event."""
        self._begin_batches()
        speed = self._speed()
        times = [run.left_us / speed for run in self._runs] if speed else []
        if self._loop_work:
            times.append(self._loop_left_us)
        if self._returns:
            times.append(self._returns[0][0] - self._clock.us)
        at = self._ready_us()
        if at is not None and at > self._clock.us:
            times.append(at - self._clock.us)
        passed = max(0.0, min(times))
        self._clock.us += passed
        for run in self._runs:
            run.left_us -= passed * speed
        if self._loop_work:
            self._loop_left_us -= passed
            if self._loop_left_us <= 1e-6:
                self._loop_work.popleft()[1]()
                self._loop_left_us = self._loop_work[0][0] if self._loop_work else 0.0
        while self._returns and self._returns[0][0] <= self._clock.us + 1e-6:
            _, caller = heapq.heappop(self._returns)
            self._on_loop(_ARRIVE_US, partial(self._submit, caller))
        for run in [run for run in self._runs if run.left_us <= 1e-6]:
            self._end(run)

    def _speed(self) -> float:
        """Return the share of a core that each run has: the event loop goes first."""
        free = self._machine.cores - bool(self._loop_work)
        wanted = sum(self._machine.cores if run.is_on_all else 1 for run in self._runs)
        return min(1.0, free / wanted) if wanted else 1.0

    def _ready_us(self) -> float | None:
        if len(self._runs) >= self._machine.cores:
            return None
        with self._device.lock:
            at = self.engine.ready_at_ns()
        return None if at is None else at / 1000

    def _begin_batches(self) -> None:
        while (at := self._ready_us()) is not None and at <= self._clock.us + 1e-3:
            with self._device.lock:
                job = self.engine.take(self._clock(), None)
            if job is None:
                break
            rows = rows_of(job)
            size = next(size for size in self._machine.single if size >= rows)
            us = self._spinning[size] if job.has_all_cores else self._machine.single[size]
            us = us * max(0.5, self._rng.gauss(1, _SPREAD)) + _LANE_US
            self._runs.append(_Run(job, us, job.has_all_cores, self._clock.us))
            self.rows.append(rows)

    def _end(self, run: _Run) -> None:
        self._runs.remove(run)
        with self._device.lock:
            self.engine._ended(run.job)
            run.job.pool.table.record(run.job._batch.size, int((self._clock.us - run.began_us) * 1000))
        callers: list[Any] = [entry.payload.inputs for entry in run.job.entries]
        self._on_loop(_ENDED_US, lambda: None)
        for (caller,) in callers:
            self._on_loop(_ANSWER_US, partial(self._answered, caller))

    def _on_loop(self, us: float, act: Callable[[], None]) -> None:
        if not self._loop_work:
            self._loop_left_us = us
        self._loop_work.append((us, act))

    def _submit(self, caller: int) -> None:
        with self._device.lock, self.engine._admit(TensorCost(1), None, 2, None, "") as reservation:
            entry = self.engine._entry({"x": np.zeros((1, 1), np.float32)}, reservation)
            entry.payload.inputs = (caller,)  # type: ignore[assignment]  # nothing is run
            self.engine._queue.push(entry, reservation)

    def _answered(self, caller: int) -> None:
        self.latencies_us.append(self._clock.us - self._sent_us[caller])
        self._sent_us[caller] = self._clock.us
        us = self._rng.uniform(0.7, 1.3) * _CLIENT_US
        heapq.heappush(self._returns, (self._clock.us + us, caller))

    def _table(self, us: Mapping[int, float]) -> LatencyTable:
        return LatencyTable({rows: each * 1000 for rows, each in us.items()}, clock=self._clock)

    @staticmethod
    def _no_run(feeds: Any) -> Any:
        raise AssertionError("nothing is run here")


def _measured(file: Path) -> Machine:
    from floor.ways import Way, measure
    from resonnx_server.runtime.session import CPU

    sizes = sizes_up_to(_LARGEST)
    ways = [Way(rows, 2, 1, False) for rows in sizes] + [Way(1, 1, 2, True)]
    *single, spinning = measure(file, CPU, "fp32", ways, 1.0)
    smoothed = smooth({each.way.batch: each.run_ms * 1000 for each in single})
    return Machine(smoothed, spinning.run_ms * 1000)


async def _simulate(machines: Mapping[str, Machine], callers: list[int], seconds: float) -> Table:
    table = Table("machine", "callers", "rule", "answers/s", "of server", "p50 ms", "p99 ms", "rows a batch")
    for (name, machine), count in itertools.product(machines.items(), callers):
        first = None
        for rule, needs in RULES.items():
            simulation = Simulation(machine, count, needs)
            simulation.run(seconds)
            found = simulation.latencies_us
            rate = len(found) / (0.9 * seconds)
            first = first or rate
            cuts = quantiles(found, n=100)
            rows = sum(simulation.rows) / len(simulation.rows)
            cells = [f"{rate:,.0f}", f"{rate / first:.2f}", f"{cuts[49] / 1000:.2f}", f"{cuts[98] / 1000:.2f}"]
            table.add_row(name, str(count), rule, *cells, f"{rows:.1f}")
    return table


def main() -> None:
    """Simulate and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", default="1,4,16,64")
    parser.add_argument("--seconds", type=float, default=20.0, help="simulated")
    parser.add_argument("--file", type=Path, help="an ONNX file to measure")
    given = parser.parse_args()
    machines = MACHINES if given.file is None else {"this": _measured(given.file)}
    callers = [int(count) for count in given.callers.split(",")]
    Console(width=120, file=sys.stdout).print(asyncio.run(_simulate(machines, callers, given.seconds)))


if __name__ == "__main__":
    main()
