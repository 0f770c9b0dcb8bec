"""Latency tables: measured at load, cached between starts, and measured again while they are doubtful."""

import json
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.config import ModelSettings
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository import warming
from resonnx_server.repository.latency_cache import LatencyCache
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.repository.version import Version
from resonnx_server.runtime.machine.processor_time import ProcessorTime
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.session import CPU, Candidate
from resonnx_server.scheduling import measurement
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import Measured, Measurement

SIZES = measurement.sizes_up_to(16)
USUAL = {size: Measured(1000.0 * size, 10.0) for size in SIZES}


class Machine:
    """Measures what it is told to, in place of a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
        self.takes = dict(USUAL)
        self.waits_ns = 0
        self.measured: list[tuple[int, ...]] = []
        self.ran: list[int] = []
        self._folder = folder
        monkeypatch.setattr(warming, "measure", self._measure)

    def _measure(self, run: object, sizes: list[int], callers: int, _: int) -> Measurement:
        self.measured.append(tuple(sizes))
        received = ProcessorTime(run_ns=10**9, waited_ns=self.waits_ns)
        return Measurement({size: self.takes[size] for size in sizes}, received)

    def start(self, wait_alone: Callable[[], object] = lambda: None) -> LatencyTable:
        """Load the model once; it serves with one batch at a time."""
        unused: Any = None
        folder = ModelFolder("m", 1, Path())
        self.progress = Progress(wait_alone=wait_alone)
        version = Version(folder, ModelSettings(), Metrics(), unused, 2, LatencyCache(self._folder, 2), self.progress)
        session: Any = SimpleNamespace(
            candidate=Candidate(CPU, pb.PRECISION_FP32), threads=1, spinning=False, view=None
        )
        files = VersionFiles("", {"model.onnx": b"graph"}, pb.Manifest())
        self.measured.clear()
        self.ran.clear()
        warms = warming.Warming(version, files, "model.onnx", lambda _, rows: self.ran.append(rows))
        self.again = partial(warms.costs, session, SIZES)
        return self.again()


def test_a_second_start_measures_nothing_but_still_warms_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, tmp_path)
    first = machine.start().snapshot()
    assert machine.measured == [SIZES]
    second = machine.start().snapshot()
    assert machine.measured == []
    assert machine.ran == [16]
    assert first == second
    assert second[4].spread_ns == pytest.approx(10)


def test_a_session_for_lone_and_concurrent_batches_is_warmed_up_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, tmp_path)
    machine.start()
    machine.again(2)
    machine.start()
    machine.again(2)
    assert machine.measured == []
    assert machine.ran == [16]


def test_who_measures_has_the_cores_alone_and_others_do_not_wait(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine, asked = Machine(monkeypatch, tmp_path), []
    machine.start(lambda: asked.append(len(machine.measured)))
    assert asked == [0], "before the first measurement"
    machine.again(2)
    assert asked == [0], "and then to the end"
    machine.start(lambda: asked.append(1))
    assert asked == [0]


def test_what_another_load_has_measured_meanwhile_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine, other = Machine(monkeypatch, tmp_path), Machine(monkeypatch, tmp_path)
    machine.start(other.start)
    assert (other.measured, machine.measured) == ([SIZES], [])


def test_a_size_that_was_disturbed_is_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When it is measured, and whenever it comes out of the cache: a disturbance must not last."""
    machine = Machine(monkeypatch, tmp_path)
    machine.takes[12] = Measured(1e5, 10.0)
    assert machine.start().padded_batch_size(12) == 16
    assert machine.measured == [SIZES, (12,)]
    machine.takes = dict(USUAL)
    assert machine.start().padded_batch_size(12) == 12
    assert machine.measured == [(12,)]
    machine.start()
    assert machine.measured == [], "what came of it is kept"


def _table(size: object) -> str:
    """A file that is sound but for one size's costs."""
    costs = {str(each): [1000, 10] for each in SIZES} | {"16": size}
    return json.dumps({"costs": costs, "doubts": 0})


def test_a_table_that_is_sound_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, tmp_path)
    machine.start()
    (file,) = tmp_path.glob("latency-*.json")
    file.write_text(_table([1000, 10]))
    machine.start()
    assert machine.measured == []


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"costs": [], "doubts": 0}', '{"costs": {"1": [5, 1]}, "doubts": 0}']
    + [_table(size) for size in (5, [0, 0], [5, -1], ["a", 1], [math.inf, 0], [5, math.nan])]
    + [_table([1000, 10]).replace(" 0}", doubts) for doubts in (" -1}", ' "x"}', " null}")],
)
def test_a_cache_that_cannot_be_read_is_measured_anew(
    content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, tmp_path)
    machine.start()
    (file,) = tmp_path.glob("latency-*.json")
    file.write_text(content)
    machine.start()
    assert machine.measured == [SIZES]


def test_what_was_measured_in_company_is_measured_again_at_the_next_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, tmp_path)
    machine.waits_ns = 10**9
    machine.takes = {size: Measured(3 * cost.median_ns, 10.0) for size, cost in USUAL.items()}
    assert machine.start().cost_ns(8) == pytest.approx(24_000), "until then it serves"
    assert machine.progress.is_doubtful
    machine.waits_ns = 0
    machine.takes = dict(USUAL)
    assert machine.start().cost_ns(8) == pytest.approx(8_000)
    assert machine.measured == [SIZES]
    assert not machine.progress.is_doubtful
    machine.start()
    assert machine.measured == [], "it is not doubted any more"


def test_where_there_is_always_company_starts_do_not_measure_for_ever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Company makes runs longer, never shorter: the least of three is kept."""
    machine = Machine(monkeypatch, tmp_path)
    machine.waits_ns = 10**9
    for factor, is_doubtful in ((3, True), (2, True), (4, False)):
        machine.takes = {size: Measured(factor * cost.median_ns, 10.0) for size, cost in USUAL.items()}
        table = machine.start()
        assert machine.measured == [SIZES]
        assert machine.progress.is_doubtful == is_doubtful, "what is told as measured again at the next start will be"
    assert table.cost_ns(8) == pytest.approx(16_000)
    assert machine.start().cost_ns(8) == pytest.approx(16_000)
    assert machine.measured == []


def test_a_quiet_measurement_takes_the_place_of_doubtful_ones_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even where it took longer: the machine may have become slower."""
    machine = Machine(monkeypatch, tmp_path)
    machine.waits_ns = 10**9
    machine.start()
    machine.waits_ns = 0
    machine.takes = {size: Measured(2 * cost.median_ns, 10.0) for size, cost in USUAL.items()}
    assert machine.start().cost_ns(8) == pytest.approx(16_000)


@pytest.mark.parametrize("callers", [1, 2, 3])
def test_what_is_measured_runs_at_once(callers: int) -> None:
    """No run ends before so many have begun."""
    meeting = threading.Barrier(callers, timeout=30)
    assert measurement.measure(lambda _: meeting.wait(), (1, 2), callers).costs.keys() == {1, 2}


def test_median_and_spread_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    def run(size: int) -> None:
        nonlocal now
        now += 20_000_000 * size

    monkeypatch.setattr(time, "perf_counter_ns", lambda: now)
    assert measurement.measure(run, (1, 2)).costs == {1: Measured(2e7, 0.0), 2: Measured(4e7, 0.0)}
    assert measurement._measured([100, 300, 800]) == Measured(300.0, pytest.approx(700 / 3))
