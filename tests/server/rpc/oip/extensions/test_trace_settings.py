"""TraceSetting: traces of real requests, which tell their stages in order."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from .conftest import Extended

STAGES = [
    "GRPC_WAITREAD_START",
    "GRPC_WAITREAD_END",
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_START",
    "COMPUTE_INPUT_END",
    "COMPUTE_OUTPUT_START",
    "COMPUTE_END",
    "REQUEST_END",
    "GRPC_SEND_START",
    "GRPC_SEND_END",
]
DEFAULTS = {
    "trace_level": ["OFF"],
    "trace_rate": ["1000"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_file": ["trace.json"],
}


@pytest.fixture
def client(extended: Extended) -> Iterator[triton.InferenceServerClient]:
    yield extended.client
    for model in ("doubling", ""):
        extended.client.update_trace_settings(model, dict.fromkeys(DEFAULTS))


def _settings(client: triton.InferenceServerClient, model: str = "", **changes: Any) -> dict[str, list[str]]:
    call = client.update_trace_settings if changes else client.get_trace_settings
    arguments = (model, changes) if changes else (model,)
    return {name: list(value.value) for name, value in call(*arguments).settings.items()}


def _infer(client: triton.InferenceServerClient, rows: int = 1, **options: Any) -> None:
    given = triton.InferInput("x", [rows, 3], "FP32")
    given.set_data_from_numpy(np.zeros((rows, 3), np.float32))
    client.infer("doubling", [given], **options)


def _traces(path: Path, count: int) -> dict[int, dict[str, Any]]:
    """Wait for so many traces, and return them by id, merged as Triton's trace_summary does."""
    end = time.monotonic() + 20
    while True:
        found: dict[int, dict[str, Any]] = {}
        for record in json.loads(path.read_text() or "[]"):
            found.setdefault(record["id"], {}).update(record)
        if len(found) >= count:
            return found
        assert time.monotonic() < end, found
        time.sleep(0.01)


def test_settings_are_read_changed_and_cleared(client) -> None:
    assert _settings(client) == _settings(client, "doubling") == DEFAULTS
    changed = DEFAULTS | {"trace_level": ["TIMESTAMPS"], "trace_rate": ["7"]}
    assert _settings(client, trace_level=["TIMESTAMPS"], trace_rate="7") == changed
    assert _settings(client, "doubling", trace_count="5") == changed | {"trace_count": ["5"]}
    assert _settings(client) == changed
    assert _settings(client, "doubling", trace_count=None) == changed
    assert _settings(client, trace_level=None, trace_rate=None) == DEFAULTS
    assert "trace" in client.get_server_metadata().extensions


def test_traces_tell_the_stages_in_order(client, extended: Extended) -> None:
    _settings(client, "doubling", trace_level=["TIMESTAMPS"], trace_rate="1", trace_file="stages.json")
    before_ns = time.monotonic_ns()
    _infer(client, request_id="first")
    _infer(client, rows=40)
    after_ns = time.monotonic_ns()
    first, second = _traces(extended.folder / "traces" / "stages.json", 2).values()
    assert (first["model_name"], first["model_version"], first["request_id"]) == ("doubling", 1, "first")
    assert "request_id" not in second
    for trace in (first, second):
        assert [each["name"] for each in trace["timestamps"]] == STAGES
        times = [each["ns"] for each in trace["timestamps"]]
        assert before_ns < times[0]
        # What is sent last may be noted after the client has it.
        assert times[-2] < after_ns
        assert times == sorted(times)


def _times(client, extended: Extended, file: str, ask: Callable[[], object]) -> dict[str, int]:
    """Return the stages of a traced request."""
    _settings(client, trace_level=["TIMESTAMPS"], trace_rate="1", trace_file=file)
    ask()
    (trace,) = _traces(extended.folder / "traces" / file, 1).values()
    return {each["name"]: each["ns"] for each in trace["timestamps"]}


def test_receiving_and_sending_by_grpc(client, extended: Extended, grpc_front: str) -> None:
    found = _times(client, extended, "calls.json", lambda: _infer(client))
    received = found["GRPC_WAITREAD_END"] - found["GRPC_WAITREAD_START"]
    sent = found["GRPC_SEND_END"] - found["GRPC_SEND_START"]
    # grpc.aio tells neither.
    assert (received > 0) == (sent > 0) == (grpc_front == "core")


def test_receiving_and_sending_by_http(client, extended: Extended) -> None:
    times: list[int] = []
    body = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}'

    def ask_slowly() -> None:
        host, port = extended.server.http.rsplit(":", 1)
        head = "POST /v2/models/doubling/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
            assert b"100 Continue" in connection.recv(1000)
            times.append(time.monotonic_ns())
            connection.sendall(body)
            assert b"200 OK" in connection.recv(1000)

    found = _times(client, extended, "posted.json", ask_slowly)
    assert found["HTTP_RECV_START"] < times[0] < found["HTTP_RECV_END"] <= found["REQUEST_START"]
    assert found["REQUEST_END"] <= found["HTTP_SEND_START"] < found["HTTP_SEND_END"]


def test_a_failed_request_has_the_stages_that_it_reached(client, extended: Extended) -> None:
    _settings(client, trace_level=["TIMESTAMPS"], trace_rate="1", trace_file="failed.json")
    with pytest.raises(InferenceServerException):
        client.infer("doubling", [triton.InferInput("x", [1, 2], "FP32")])
    (trace,) = _traces(extended.folder / "traces" / "failed.json", 1).values()
    names = [each["name"] for each in trace["timestamps"]]
    assert names == [name for name in STAGES if not name.startswith(("QUEUE", "COMPUTE"))]


def test_count_and_rate(client, extended: Extended) -> None:
    _settings(client, trace_level=["TIMESTAMPS"], trace_rate="2", trace_count="2", trace_file="counted.json")
    for _ in range(10):
        _infer(client)
    assert _settings(client)["trace_count"] == ["0"]
    assert len(_traces(extended.folder / "traces" / "counted.json", 2)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trace_colour": "1"}, "'trace_colour' is not a setting of traces; these are: trace_level"),
        ({"trace_level": ["TENSORS"]}, "'TENSORS' is not possible: traces hold no contents"),
        ({"trace_level": ["LOUD"]}, "'LOUD' is neither OFF nor TIMESTAMPS"),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, "is neither OFF nor TIMESTAMPS"),
        ({"trace_rate": "0"}, "'0' is not an integer within 1..2147483647"),
        ({"trace_rate": "1e3"}, "is not an integer"),
        ({"trace_rate": "9" * 30}, "is not an integer"),
        ({"trace_count": "-2"}, "is not an integer within -1.."),
        ({"log_frequency": ["1", "2"]}, "2 values; give one"),
        ({"trace_level": ["TIMESTAMPS"], "trace_file": "../escape.json"}, "of a file in trace_dir"),
    ],
)
def test_what_cannot_be_set_is_refused_and_nothing_changes(client, extended, changes: dict, message: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.update_trace_settings("", {"trace_rate": "3", **changes})
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert message in refused.value.message()
    assert _settings(client) == DEFAULTS
    assert not (extended.folder / "escape.json").exists()


def test_models_that_are_not_there(client) -> None:
    with pytest.raises(InferenceServerException) as refused:
        client.get_trace_settings("other")
    assert refused.value.status() == "StatusCode.NOT_FOUND"
