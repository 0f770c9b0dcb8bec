"""Starts of real servers: signals while models load, models that never load, readiness, and what is told meanwhile."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from resonnx_proto.inference import grpc_service_pb2, grpc_service_pb2_grpc
from resonnx_proto.v1 import vision_pb2, vision_pb2_grpc

from .. import bare_graphs

# A stop is at once; this is what a busy machine may make of it, and far less than any load here.
_STOPPED_S = 20.0
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def _bare(repository: Path, name: str, content: bytes) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.onnx").write_bytes(content)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model that serves, and a folder for more."""
    _bare(tmp_path / "models", "good", bare_graphs.doubling())
    return tmp_path / "models"


@contextmanager
def _starting(repository: Path, *flags: str, stderr: int | None = None) -> "Iterator[subprocess.Popen[str]]":
    """A server that need not become ready; its log is read line by line."""
    command = [sys.executable, "-m", "resonnx_server", "--repository", str(repository), "--port", "0"]
    command += ["--http-port", "0", "--cache-dir", "none", *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE if stderr is None else stderr, text=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def _records(log: IO[str] | None) -> Iterator[dict[str, object]]:
    """JSON lines as they come; on some machines ONNX Runtime has something to say, too."""
    assert log is not None
    for line in log:
        if line.startswith("{"):
            yield json.loads(line)


def _wait_for(process: "subprocess.Popen[str]", is_there: Callable[[dict[str, object]], bool]) -> dict[str, object]:
    for record in _records(process.stderr):
        if is_there(record):
            return record
    pytest.fail("the server ended")


def _is_at(model: str, state: str) -> Callable[[dict[str, object]], bool]:
    return lambda record: record.get("model") == model and record.get("state") == state


def _compute(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Let it and its children take so much processor time from now on: it is in the middle of what it does."""

    def taken() -> float:
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [child for task in tasks for child in task.read_text().split()]
        ticks = 0
        for pid in (process.pid, *children):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    before = taken()
    while taken() < before + seconds:
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (bare_graphs.loop, signal.SIGTERM),
        (bare_graphs.folding, signal.SIGINT),
        pytest.param(bare_graphs.loop, signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(bare_graphs.folding, signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_signal_is_obeyed_while_a_model_loads(
    tmp_path: Path, content: Callable[[], bytes], number: signal.Signals
) -> None:
    """Whether or not ONNX Runtime can be made to end what it does; and no child stays behind."""
    _bare(tmp_path, "m", content())
    with _starting(tmp_path) as process:
        _wait_for(process, _is_at("m", "trying"))
        _compute(process, 0.5)
        told_at = time.monotonic()
        process.send_signal(number)
        records = list(_records(process.stderr))
        assert process.wait(_STOPPED_S) == 0
        assert time.monotonic() - told_at < _STOPPED_S
        assert process.stdout is not None
        assert process.stdout.read() == "", "it was never ready"
    assert not [record for record in records if "leaving without it" in str(record["message"])]
    assert "exception" not in str(records)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_obeyed_before_anything_is_there(tmp_path: Path, number: signal.Signals) -> None:
    """While Python still imports what the server is made of; and nothing is printed."""
    script = (
        "import os, signal, resonnx_server.signals as s; s.stop_at_once();"
        f"os.kill(os.getpid(), {int(number)}); import time; time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_models_that_never_load_keep_no_other_from_serving(start_server, repository: Path) -> None:
    _bare(repository, "a-loop", bare_graphs.loop())
    (repository / "b-fifo" / "1").mkdir(parents=True)
    os.mkfifo(repository / "b-fifo" / "1" / "model.onnx")
    with start_server(repository, "--load-timeout-s", "6") as server:
        status, text = server.get("/readyz")
        assert status == 200
        assert "refused a-loop version 1: its load took longer than 6 s (load_timeout_s); it was trying" in text
        assert "refused b-fifo version 1: model.onnx is a FIFO, not a regular file" in text
        assert "serving good version 1" in text
        assert server.stop() == 0
        assert "abandoned" not in server.log.read_text(), "the loop was ended"


def test_where_no_model_loads_the_server_says_so_and_ends(tmp_path: Path) -> None:
    _bare(tmp_path, "m", bare_graphs.folding())
    with _starting(tmp_path, "--load-timeout-s", "3", "--log-level", "error") as process:
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
        assert process.wait(_STOPPED_S) == 1
    assert lines[-1].startswith("resonnx-server: no model can be served (m: its load took longer than 3 s")


def test_ready_when_any_is_ready_with_the_first_model(start_server, repository: Path) -> None:
    """Others become available as they come."""
    _bare(repository, "z-loop", bare_graphs.loop())
    with start_server(repository, "--ready-when", "any") as server:
        status, text = server.get("/readyz")
        assert status == 200
        assert text.splitlines() == ["ready", "serving good version 1", "loading z-loop version 1"]
        assert [server.metric("resonnx_model_ready", model=name) for name in ("good", "z-loop")] == [1, 0]
        with grpc.insecure_channel(server.grpc) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check

            def health(service: str) -> int:
                return check(health_pb2.HealthCheckRequest(service=service), timeout=10).status

            assert health("") == _SERVING
            assert health("resonnx.v1.Vision/good") == _SERVING
            assert health("resonnx.v1.Vision/z-loop") == _NOT_SERVING
            vision = vision_pb2_grpc.VisionStub(channel)

            def refusal(model: str) -> tuple[grpc.StatusCode, str]:
                with pytest.raises(grpc.RpcError) as refused:
                    vision.Classify(vision_pb2.ClassifyRequest(model=model), timeout=10)
                return refused.value.code(), refused.value.details()

            listed = vision.ListModels(vision_pb2.ListModelsRequest(), timeout=10).models
            assert {model.name: model.state for model in listed} == {
                "good": vision_pb2.MODEL_STATE_READY,
                "z-loop": vision_pb2.MODEL_STATE_LOADING,
            }
            index = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex
            models = index(grpc_service_pb2.RepositoryIndexRequest(), timeout=10).models
            assert {model.name: model.state for model in models} == {"good": "READY", "z-loop": "LOADING"}
            ready = index(grpc_service_pb2.RepositoryIndexRequest(ready=True), timeout=10).models
            assert [model.name for model in ready] == ["good"]
            assert vision.GetModel(vision_pb2.GetModelRequest(model="good"), timeout=10).summary.version == 1
            assert refusal("z-loop") == (grpc.StatusCode.UNAVAILABLE, "model 'z-loop' is still being loaded")
            assert refusal("nobody")[0] == grpc.StatusCode.NOT_FOUND
        assert server.stop() == 0


def test_slow_calls_are_ended_while_a_model_loads(start_server, repository: Path) -> None:
    """A load may take minutes, in which other models serve."""
    _bare(repository, "z-loop", bare_graphs.loop())
    requests = SimpleQueue[None]()
    with (
        start_server(repository, "--ready-when", "any", "--max-receive-s", "1") as server,
        grpc.insecure_channel(server.grpc) as channel,
    ):
        infer = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer
        call = infer(iter(requests.get, None), timeout=20)
        assert (call.code(), call.details()) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "the request was not complete within 1 s",
        )
        requests.put(None)
        assert "loading z-loop version 1" in server.get("/readyz")[1]


def test_ready_when_all_waits_for_all(tmp_path: Path, repository: Path) -> None:
    _bare(repository, "z-loop", bare_graphs.loop())
    with _starting(repository) as process:
        _wait_for(process, _is_at("z-loop", "trying"))
        process.terminate()
        assert process.stdout is not None
        assert process.stdout.read() == ""
        assert process.wait(_STOPPED_S) == 0


def test_each_model_is_told_as_it_loads(start_server, repository: Path) -> None:
    _bare(repository, "bad", b"no graph")
    with start_server(repository, "--cache-dir", "none") as server:
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    told = [record for record in lines if record["message"] == "loading"]
    assert [(record["model"], record["number"], record["of"], record["state"].split()[0]) for record in told] == [
        ("bad", 1, 2, "verifying"),
        ("bad", 1, 2, "refused"),
        ("good", 2, 2, "verifying"),
        ("good", 2, 2, "trying"),
        ("good", 2, 2, "opening"),
        ("good", 2, 2, "checking"),
        ("good", 2, 2, "measuring"),
        ("good", 2, 2, "serves"),
    ]
    assert "the ONNX file is damaged" in told[1]["state"]


def test_on_a_terminal_it_is_told_in_plain_lines_at_any_log_level(repository: Path) -> None:
    screen, terminal = pty.openpty()
    with _starting(repository, "--log-level", "error", stderr=terminal) as process:
        os.close(terminal)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("resonnx-server ready")
        text = ""
        while "serves after" not in text:
            text += os.read(screen, 65536).decode()
        shown = text.splitlines()
        process.terminate()
        assert process.wait(60) == 0
    os.close(screen)
    told = [line for line in shown if line.startswith("resonnx-server: ")]
    assert told[:5] == [
        f"resonnx-server: good (1 of 1): {stage}"
        for stage in ("verifying", "trying", "opening", "checking", "measuring")
    ]
    assert told[5].startswith("resonnx-server: good (1 of 1): serves after ")
    assert len(told) == 6
