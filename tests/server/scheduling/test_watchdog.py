"""Runs that do not end are interrupted, then given up; nothing else is."""

import threading
from dataclasses import dataclass

import pytest
from resonnx_server.runtime.interruption import Interruption
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.watchdog import RunLimit, UnderWay, Watchdog

from ..waiting import Clock

TICK_NS = 250_000_000
LIMIT_NS = 5_000_000_000
THREAD = 7


@dataclass
class Job:
    """A job whose runs may take 5 s each."""

    moved_ns: int = 0

    def limit_ns(self) -> int:
        return LIMIT_NS


class Watched:
    """A watchdog under the test's clock, and one busy lane."""

    def __init__(self) -> None:
        self.clock, self.job, self.runs = Clock(), Job(), Interruption()
        self.given_up: list[int] = []
        under_way = {THREAD: UnderWay(self.job, 0, 1e6, self.runs)}

        def give_up(thread: int) -> None:
            del under_way[thread]
            self.given_up.append(thread)

        self._watchdog = Watchdog("cpu", threading.RLock(), self.clock, under_way, give_up)

    def watch(self, ns: int, step_ns: int = TICK_NS) -> None:
        for _ in range(ns // step_ns):
            self.clock.ns += step_ns
            self._watchdog.look()


def test_a_run_beyond_its_limit_is_interrupted_and_given_up_a_second_later() -> None:
    watched = Watched()
    watched.watch(LIMIT_NS)
    assert not watched.runs.is_over
    watched.watch(2 * TICK_NS)
    assert watched.runs.is_over
    assert watched.runs.options.terminate
    assert not watched.given_up
    watched.watch(1_000_000_000)
    assert watched.given_up == [THREAD]


def test_each_run_of_a_job_has_the_time_of_one() -> None:
    watched = Watched()
    for turn in range(1, 5):
        watched.watch(LIMIT_NS - TICK_NS)
        watched.job.moved_ns = turn
    assert not watched.runs.is_over


@pytest.mark.parametrize("standstill_ns", [5_000_000_000, 3600 * 1_000_000_000])
def test_a_standstill_of_the_process_is_no_run_that_hangs(standstill_ns: int) -> None:
    """As of SIGSTOP, or a machine that is suspended: the watchdog stood still, too."""
    watched = Watched()
    watched.watch(TICK_NS)
    watched.watch(standstill_ns, standstill_ns)
    watched.watch(4 * TICK_NS)
    assert not watched.runs.is_over


def test_the_limit_follows_the_latencies() -> None:
    """20 times the 99th percentile, but not less than 5 s, or 60 s where the time is not known."""
    quick, slow = LatencyTable({1: 1e6}), LatencyTable({1: 1e9, 4: 2e9}, {1: 0.0, 4: 0.25})
    guess = LatencyTable({1: 1e6}, is_measured=False)
    derived = RunLimit()
    assert derived.of(quick, 1) == 5e9
    assert derived.of(slow, 1) == 20e9
    assert derived.of(slow, 3) == 20 * 2e9 * 2
    assert derived.of(slow, 5) == 20 * 3e9 * 2
    assert derived.of(quick, 1, is_known=False) == derived.of(guess, 1) == 60e9
    assert derived.of(slow, 3, is_known=False) == 80e9
    assert RunLimit(0.5).of(slow, 1) == RunLimit(0.5).of(guess, 1) == 0.5e9
