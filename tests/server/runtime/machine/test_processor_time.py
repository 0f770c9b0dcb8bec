"""What was measured while something else held the processors is known by the processor time that was received."""

import os
import threading
from pathlib import Path

import pytest
from resonnx_server.runtime.machine.processor_time import ProcessorTime
from resonnx_server.scheduling.measurement import measure

MS = 1_000_000


@pytest.mark.parametrize(
    ("received", "is_disturbed"),
    [
        # Nothing is told, or nothing was done.
        (ProcessorTime(), False),
        (ProcessorTime(run_ns=1000 * MS), False),
        # 1,500 runs of threads that wake each other, each 20 us later than it could.
        (ProcessorTime(run_ns=200 * MS, waited_ns=30 * MS, turns=1500), False),
        # A tenth of the time, and a little less or more than that, at another's.
        (ProcessorTime(run_ns=900 * MS, waited_ns=99 * MS, turns=10), False),
        (ProcessorTime(run_ns=900 * MS, waited_ns=103 * MS, turns=10), True),
        # Another program of the same priority on each core.
        (ProcessorTime(run_ns=554 * MS, waited_ns=616 * MS, turns=1855), True),
        # A few turns, each of which waited for another's time slice.
        (ProcessorTime(run_ns=10 * MS, waited_ns=130 * MS, turns=310), True),
        # A hypervisor that has others to serve.
        (ProcessorTime(run_ns=900 * MS, stolen_ns=90 * MS), False),
        (ProcessorTime(run_ns=900 * MS, stolen_ns=110 * MS), True),
    ],
)
def test_company_is_told_from_waking_up(received: ProcessorTime, is_disturbed: bool) -> None:
    assert received.is_disturbed == is_disturbed
    assert 0 <= received.lost < 1


def test_all_threads_and_our_processors_count(tmp_path: Path) -> None:
    ours = min(os.sched_getaffinity(0))
    tasks, processors = tmp_path / "task", tmp_path / "stat"
    for thread, text in {"1": "10 20 3\n", "2": "100 200 30\n", "ended": "", "odd": "a b c"}.items():
        (tasks / thread).mkdir(parents=True)
        (tasks / thread / "schedstat").write_text(text)
    (tasks / "gone").mkdir()
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    processors.write_text(f"cpu  1 1 1 1 1 1 1 50 0 0\ncpu{ours} 1 1 1 1 1 1 1 7 0 0\ncpu99999 1 1 1 1 1 1 1 40 0 0\n")
    assert ProcessorTime.now(tasks, processors) == ProcessorTime(110, 220, 33, 7 * tick_ns)


def test_where_nothing_is_told_nothing_is_known(tmp_path: Path) -> None:
    assert ProcessorTime.now(tmp_path / "none", tmp_path / "none") == ProcessorTime()


def test_since() -> None:
    before, after = ProcessorTime(1, 20, 300, 4000), ProcessorTime(5, 70, 900, 5000)
    assert after.since(before) == ProcessorTime(4, 50, 600, 1000)


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not tell")
@pytest.mark.parametrize("callers", [1, 3])
def test_what_is_measured_is_what_its_callers_got(callers: int) -> None:
    """Callers' threads end with the measurement; what they got must not be lost with them."""

    def run(_: int) -> None:
        sum(range(200_000))

    received = measure(run, (1,), callers).received
    # Eleven runs and one more for each caller, of more than a millisecond each.
    assert received.run_ns > 12 * callers * MS
    assert received.turns > 0


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the system does not tell")
def test_company_of_our_own_making_is_seen() -> None:
    """Eight threads that compute, without the interpreter's lock, on one processor."""
    import hashlib

    processors = os.sched_getaffinity(0)
    data, over = bytes(1 << 20), threading.Event()

    def compute() -> None:
        while not over.is_set():
            hashlib.sha256(data).digest()

    try:
        os.sched_setaffinity(0, {min(processors)})
        others = [threading.Thread(target=compute) for _ in range(7)]
        for thread in others:
            thread.start()
        received = measure(lambda _: hashlib.sha256(data).digest(), (1, 2)).received
    finally:
        over.set()
        for thread in others:
            thread.join()
        os.sched_setaffinity(0, processors)
    assert received.is_disturbed
    assert received.lost > 0.5
