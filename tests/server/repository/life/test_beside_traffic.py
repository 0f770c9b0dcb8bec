"""Loads beside live traffic give way to it, and measure nothing that is known."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.devices import Devices
from resonnx_server.repository import choose, warming
from resonnx_server.repository.progress import Progress
from resonnx_server.runtime.session import CPU, Candidate, Session
from resonnx_server.scheduling.measurement import Measurement, measure

from ... import answering
from .changing import changing

_CPU = Candidate(CPU, pb.PRECISION_FP32)


async def test_tables_of_an_alike_graph_are_taken_and_corrected_by_live_batches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    measured: list[int] = []

    def noted(run: Any, sizes: Any, callers: int, enough_ns: int) -> Measurement:
        measured.append(callers)
        return measure(run, sizes, callers, enough_ns)

    monkeypatch.setattr(warming, "measure", noted)
    answering.write(tmp_path / "m" / "1", 1)
    async with changing(tmp_path) as repository:
        (first,) = repository.models
        at_start = len(measured)
        assert at_start
        answering.write(tmp_path / "m" / "2", 2)
        await repository.seen()
        (second,) = repository.models
        assert len(measured) == at_start, "it differs in its weights only"
        for one, other in zip(first.sessions, second.sessions, strict=True):
            assert one.table is not other.table
            assert one.table.snapshot().keys() == other.table.snapshot().keys()
        assert first.sessions[0].instances == second.sessions[0].instances


async def test_the_fastest_provider_of_an_alike_graph_is_taken_unless_it_does_not_agree(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[str] = []

    class Slow(Session):
        def run(self, *asked: Any) -> Any:
            time.sleep(0.005)
            return super().run(*asked)

    def noted(content: bytes, candidate: Candidate, threads: int, **more: Any) -> Session:
        opened.append(candidate.provider)
        session = (Session if candidate == _CPU else Slow)(content, _CPU, threads, **more)
        session.candidate = candidate
        return session

    monkeypatch.setattr(choose, "candidates", lambda *_: [Candidate("Other", _CPU.precision), _CPU])
    monkeypatch.setattr(choose, "Session", noted)
    answering.write(tmp_path / "m" / "1", 1)
    async with changing(tmp_path) as repository:
        assert opened == ["Other", CPU]
        opened.clear()
        answering.write(tmp_path / "m" / "2", 2)
        await repository.seen()
        (model,) = repository.models
        assert (model.version, opened) == (2, [CPU]), "others are not opened beside live traffic"
        opened.clear()
        answering.write(tmp_path / "m" / "3", 3, lies=True)
        await repository.seen()
        assert opened == [CPU, "Other", CPU]
        assert "Other/fp32: outputs disagree" in repository.states()[3][1]


def test_a_load_waits_before_each_batch_until_no_device_runs_one_but_not_for_long() -> None:
    devices = Devices(2)
    busy: Any = SimpleNamespace(is_idle=False)
    devices._devices["cpu"] = busy
    began = time.monotonic()
    devices.let_pass()
    assert 0.04 < time.monotonic() - began < 2, "a device that is never idle does not stop it"
    threading.Timer(0.01, setattr, (busy, "is_idle", True)).start()
    devices.let_pass()
    assert busy.is_idle
    paused: list[int] = []
    progress = Progress(pause=lambda: paused.append(1))
    progress.move()
    progress.move()
    assert len(paused) == 2
