"""Runs candidates in turns until the sequential test has settled which is chosen, or its time is over."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

from resonnx_server.repository.choosing.sequential import Race
from resonnx_server.runtime.machine.processor_time import ProcessorTime
from resonnx_server.scheduling.measurement import ENOUGH_NS

# Turns that are taken however long they take.
_LEAST_TURNS: Final = 2
# A candidate repeats short runs in its turn for about so long, so that the start of its threads weighs little.
_TURN_NS: Final = 2_000_000
_MOST_REPEATS: Final = 8


@dataclass(frozen=True)
class Effort:
    """What is spent on measurements.

    Attributes:
        longest_s: A race ends unsettled after this time, or after two turns if they take longer.
        most_turns: It also ends after so many turns, with which the medians are known well enough.
        error: Probability that a settled winner is more than 3 % slower than the best, at most.
        of_each_size_ns: A batch size of a latency table is not run again after this time in total.
        asks_cache: Sound tables and choices of earlier measurements are taken.
    """

    longest_s: float
    most_turns: int = 200
    error: float = 0.05
    of_each_size_ns: int = ENOUGH_NS
    asks_cache: bool = True


AT_LOAD: Final = Effort(longest_s=2.0)
WHEN_IDLE: Final = Effort(longest_s=10.0)
ON_DEMAND: Final = Effort(longest_s=30.0, most_turns=2000, error=0.01, of_each_size_ns=10 * ENOUGH_NS, asks_cache=False)


@dataclass(frozen=True)
class Raced:
    """The result of a race.

    Attributes:
        order: The chosen candidate, then the others that could run, fastest first.
        scores: Median score by candidate; infinite if it did not run.
        behind: Each candidate's median ratio to the chosen one, measured in the same turns; infinite if it did not run.
        turns: Number of turns.
        is_settled: The test has ended within the time, or after so many turns that the medians decide.
        received: Processor time that the process received meanwhile.
    """

    order: tuple[int, ...]
    scores: tuple[float, ...]
    behind: tuple[float, ...]
    turns: int
    is_settled: bool
    received: ProcessorTime

    @property
    def is_doubtful(self) -> bool:
        """Whether to measure again: others held the processors, or the time did not suffice."""
        return self.received.is_disturbed or not self.is_settled


def race(
    candidates: Sequence[Callable[[], float]],
    effort: Effort,
    exclude: Callable[[int, Exception], None] | None = None,
    received: Callable[[], ProcessorTime] = ProcessorTime.now,
) -> Raced:
    """Let candidates take turns until the choice is settled.

    Args:
        candidates: Each takes a turn and returns the logarithm of its time; in the order of preference.
        effort: The time, and the probability of an error.
        exclude: Called with a candidate that raised, which is left out; None lets it raise.
        received: Returns the processor time of the process so far.

    Returns:
        The result; `order` is empty if no candidate could run.
    """
    test, began_s, before = Race(len(candidates), effort.error), time.perf_counter(), received()
    failed: set[int] = set()
    while test.left and test.winner is None and test.rounds < effort.most_turns:
        if test.rounds >= _LEAST_TURNS and time.perf_counter() - began_s >= effort.longest_s:
            break
        scores = {}
        # To and fro, so that nobody always follows the same one.
        for one in test.left[:: -1 if test.rounds % 2 else 1]:
            try:
                scores[one] = candidates[one]()
            except Exception as error:  # ONNX Runtime's errors share no base class
                if exclude is None:
                    raise
                exclude(one, error)
                failed.add(one)
        for one in failed & {*test.left}:
            test.leave_out(one)
        test.add(scores)
    ran = [one for one in range(len(candidates)) if one not in failed]
    chosen = test.leader if test.left else None
    behind = {one: math.exp(test.ratio(one, chosen)) for one in ran if chosen is not None and test.rounds}
    return Raced(
        order=tuple(sorted(ran, key=lambda one: (one != chosen, behind.get(one, 1.0)))),
        scores=tuple(test.median(one) for one in range(len(candidates))),
        behind=tuple(behind.get(one, math.inf) for one in range(len(candidates))),
        turns=test.rounds,
        is_settled=test.winner is not None or test.rounds >= effort.most_turns,
        received=received().since(before),
    )


def log_ns(run: Callable[[], object]) -> float:
    """Take a turn of repeated runs; returns the logarithm of the ns of one."""
    # The other candidates have used the caches since, and its threads sleep.
    run()
    start, repeats, taken_ns = time.perf_counter_ns(), 0, 0
    while repeats < _MOST_REPEATS and taken_ns < _TURN_NS:
        run()
        repeats += 1
        taken_ns = time.perf_counter_ns() - start
    return math.log(max(1.0, taken_ns / repeats))


class Callers:
    """Threads that run the same at once. Use as a context manager.

    Attributes:
        count: Number of threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count)
        self._together = threading.Barrier(count)
        self._repeats: dict[int, int] = {}

    def __enter__(self) -> "Callers":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def log_ns_a_row(self, run: Callable[[int], object], size: int) -> float:
        """Run batches of `size` in all threads; returns the logarithm of the ns that a row takes, all together."""
        repeats = self._repeats.get(size, 1)

        def timed(_: int) -> int:
            self._together.wait()
            start = time.perf_counter_ns()
            for _ in range(repeats):
                run(size)
            return time.perf_counter_ns() - start

        times = list(self._pool.map(timed, range(self.count)))
        each_ns = max(1.0, sum(times) / len(times) / repeats)
        self._repeats[size] = max(1, min(_MOST_REPEATS, int(_TURN_NS / each_ns)))
        return math.log(each_ns / (self.count * size))


class Run(NamedTuple):
    """What a candidate does in its turn.

    Attributes:
        run: Runs a batch of the given size. Thread-safe.
        sizes: Batch sizes.
        callers: Concurrent batches.
    """

    run: Callable[[int], object]
    sizes: tuple[int, ...]
    callers: int

    def score(self, threads: Callers, penalty: float = 0.0) -> float:
        """Take a turn; returns `penalty` and the mean logarithm of the ns that a row takes, over all sizes."""
        # As in log_ns.
        self.run(self.sizes[0])
        return penalty + math.fsum(threads.log_ns_a_row(self.run, size) for size in self.sizes) / len(self.sizes)
