"""What is measured at load, kept between starts, and doubted."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.config import ModelSettings
from resonnx_server.engine import measurement
from resonnx_server.engine.latency import LatencyTable
from resonnx_server.engine.measurement import Measured
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository import version as module
from resonnx_server.repository.cache import TableCache
from resonnx_server.repository.version import Version
from resonnx_server.runtime.manifest import VersionFiles
from resonnx_server.runtime.session import CPU, Candidate

SIZES = measurement.sizes_up_to(16)
USUAL = {size: Measured(1000.0 * size, 10.0) for size in SIZES}


class Machine:
    """Measures what it is told to, in place of a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
        self.takes = dict(USUAL)
        self.measured: list[tuple[int, ...]] = []
        self.ran: list[int] = []
        self._folder = folder
        monkeypatch.setattr(module, "measure", self._measure)

    def _measure(self, run: object, sizes: list[int], callers: int) -> dict[int, Measured]:
        self.measured.append(tuple(sizes))
        return {size: self.takes[size] for size in sizes}

    def start(self) -> LatencyTable:
        """Load the model once."""
        unused: Any = None
        version = Version(unused, ModelSettings(), Metrics(), unused, 2, TableCache(self._folder, 2))
        session: Any = SimpleNamespace(candidate=Candidate(CPU, pb.PRECISION_FP32), threads=1, spinning=False)
        files = VersionFiles("", {"model.onnx": b"graph"}, pb.Manifest())
        self.measured.clear()
        self.ran.clear()
        return version.warm(files, session, "model.onnx", SIZES, self.ran.append)


def test_a_second_start_measures_nothing_but_still_warms_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, tmp_path)
    first = machine.start().snapshot()
    assert machine.measured == [SIZES]
    second = machine.start().snapshot()
    assert machine.measured == []
    assert machine.ran == [16]
    assert first == second
    assert second[4].spread_ns == pytest.approx(10)


def test_a_size_that_was_disturbed_is_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When it is measured, and whenever it comes out of the cache: a disturbance must not last."""
    machine = Machine(monkeypatch, tmp_path)
    machine.takes[12] = Measured(1e5, 10.0)
    assert machine.start().bucket(12) == 16
    assert machine.measured == [SIZES, (12,)]
    machine.takes = dict(USUAL)
    assert machine.start().bucket(12) == 12
    assert machine.measured == [(12,)]
    machine.start()
    assert machine.measured == [], "what came of it is kept"


@pytest.mark.parametrize("content", ["", "[]", '{"1": 5}', '{"1": [0, 0]}', '{"1": [5, -1]}', '{"1": ["a", 1]}'])
def test_a_cache_that_cannot_be_read_is_measured_anew(
    content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine = Machine(monkeypatch, tmp_path)
    machine.start()
    (file,) = tmp_path.glob("latency-*.json")
    file.write_text(content)
    machine.start()
    assert machine.measured == [SIZES]


@pytest.mark.parametrize("callers", [1, 2, 3])
def test_what_is_measured_runs_at_once(callers: int) -> None:
    """No run ends before so many have begun."""
    meeting = threading.Barrier(callers, timeout=30)
    assert measurement.measure(lambda _: meeting.wait(), (1, 2), callers).keys() == {1, 2}


def test_median_and_spread_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0

    def run(size: int) -> None:
        nonlocal now
        now += 20_000_000 * size

    monkeypatch.setattr(time, "perf_counter_ns", lambda: now)
    assert measurement.measure(run, (1, 2)) == {1: Measured(2e7, 0.0), 2: Measured(4e7, 0.0)}
    assert measurement._measured([100, 300, 800]) == Measured(300.0, pytest.approx(700 / 3))
