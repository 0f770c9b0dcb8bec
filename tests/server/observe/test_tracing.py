"""Which requests are traced, and what the files hold."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from resonnx_server.errors import InvalidInput, NotSupported
from resonnx_server.observe.stats import Timing
from resonnx_server.observe.trace_files import TraceFiles
from resonnx_server.observe.tracing import Frontend, Traces, TraceSettings

TIMING = Timing(10, 20, 30, 40, 1, 1100)


@pytest.fixture
def traces(tmp_path: Path) -> Traces:
    return Traces(tmp_path, 1 << 20)


def _ask(traces: Traces, model: str = "m", times: int = 1) -> int:
    """Let requests pass as Inference.begin does; return how many were traced."""
    traced = 0
    for _ in range(times):
        trace = traces.begin(model, 1, Frontend.GRPC) if traces.is_on else None
        if trace is not None:
            traced += 1
            trace.end(1000, 2000, None, TIMING)
    return traced


def _records(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def test_off_unless_switched_on(traces: Traces, tmp_path: Path) -> None:
    assert not traces.is_on
    assert traces.settings() == TraceSettings(False, 1000, -1, 0, "trace.json")
    traces.change({"is_on": True, "rate": 1})
    assert _ask(traces, times=3) == 3
    traces.change({"is_on": False})
    assert (traces.is_on, _ask(traces)) == (False, 0)


def test_one_of_rate_and_at_most_count(traces: Traces) -> None:
    traces.change({"is_on": True, "rate": 4, "count": 3})
    assert [_ask(traces) for _ in range(8)] == [0, 0, 0, 1, 0, 0, 0, 1]
    assert traces.settings().count == 1
    assert _ask(traces, times=100) == 1
    assert traces.settings().count == 0
    assert not traces.is_on, "nothing is asked any more"


def test_a_model_has_settings_of_its_own_and_follows_others(traces: Traces) -> None:
    traces.change({"is_on": True, "rate": 2})
    traces.change({"rate": 1}, "own")
    assert (_ask(traces, "own", 4), _ask(traces, "other", 4)) == (4, 2)
    traces.change({"is_on": False})
    assert (traces.settings("own").is_on, _ask(traces, "own", 4)) == (False, 0)
    traces.change({"is_on": True}, "own")
    assert (_ask(traces, "own", 4), _ask(traces, "other", 4)) == (4, 0)
    traces.change({"is_on": None, "rate": None}, "own")
    assert not traces.is_on
    assert traces.settings("own") == traces.settings()


def test_records_are_those_of_triton(traces: Traces, tmp_path: Path) -> None:
    traces.change({"is_on": True, "rate": 1})
    trace = traces.begin("m", 3, Frontend.GRPC)
    assert trace is not None
    trace.request_id = 'an "id"'
    trace.end(1000, 2000, (1010, 5), TIMING)
    _ask(traces)
    traces.close()
    about, times, *others = _records(tmp_path / "trace.json")
    assert about == {"id": 1, "model_name": "m", "model_version": 3, "request_id": 'an "id"'}
    assert times["id"] == 1
    assert [(each["name"], each["ns"]) for each in times["timestamps"]] == [
        ("GRPC_WAITREAD_START", 1000),
        ("GRPC_WAITREAD_END", 1000),
        ("REQUEST_START", 1000),
        ("DECODE_START", 1010),
        ("DECODE_END", 1015),
        ("QUEUE_START", 1090),
        ("COMPUTE_START", 1100),
        ("COMPUTE_INPUT_END", 1120),
        ("COMPUTE_OUTPUT_START", 1150),
        ("COMPUTE_END", 1190),
        ("REQUEST_END", 2000),
        ("GRPC_SEND_START", 2000),
        ("GRPC_SEND_END", 2000),
    ]
    assert {each["id"] for each in others} == {2}


def test_files_of_so_many_traces(traces: Traces, tmp_path: Path) -> None:
    traces.change({"is_on": True, "rate": 1, "log_frequency": 4, "file": "part"})
    _ask(traces, times=10)
    traces.close()
    found = {path.name: len(_records(path)) // 2 for path in tmp_path.iterdir()}
    assert found == {"part.0": 4, "part.1": 4, "part.2": 2}


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/tmp/x", "a/b", ".hidden", "a\0", "a\n", "x" * 200, "ä", "link", "other", "folder"]
)
def test_names_lead_nowhere_else(traces: Traces, tmp_path: Path, name: str) -> None:
    (tmp_path / "other").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with pytest.raises(InvalidInput) as refused:
        traces.change({"is_on": True, "file": name})
    assert refused.value.field == "settings['trace_file']"
    assert str(tmp_path) not in str(refused.value)
    assert not traces.is_on
    assert (tmp_path / "other").read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"other", "folder", "link"}


def test_a_later_server_begins_its_file_anew(tmp_path: Path) -> None:
    for times in (5, 2):
        traces = Traces(tmp_path, 1 << 20)
        traces.change({"is_on": True, "rate": 1})
        _ask(traces, times=times)
        traces.close()
        assert len(_records(tmp_path / "trace.json")) == 2 * times


def test_more_than_the_limit_is_dropped_and_the_file_stays_whole(tmp_path: Path, caplog) -> None:
    traces = Traces(tmp_path, 5000)
    traces.change({"is_on": True, "rate": 1})
    for _ in range(100):
        _ask(traces)
    traces.close()
    assert 4000 < (tmp_path / "trace.json").stat().st_size < 5500
    assert len(_records(tmp_path / "trace.json")) % 2 == 0
    assert Counter(record.message for record in caplog.records)["traces are dropped from now on"] == 1


def test_without_a_folder_there_are_none() -> None:
    traces = Traces()
    with pytest.raises(NotSupported, match="trace_dir"):
        traces.change({"is_on": True})
    traces.change({"rate": 5})
    assert (traces.settings().rate, traces.is_on) == (5, False)


def test_a_file_is_whole_after_each_record(tmp_path: Path) -> None:
    files = TraceFiles(tmp_path, 1 << 20)
    for i in range(3):
        files._write("f", [[{"id": i}]])
        assert _records(tmp_path / "f") == [{"id": j} for j in range(i + 1)]
