"""With log_format json, every line of both streams is JSON: from the start through requests and changes to the stop."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc
from resonnx_server.observe import logs

from .. import bare_graphs


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "resonnx_server", "--port", "0", "--http-port", "0", *arguments]


def _records(text: str) -> list[dict[str, Any]]:
    """Every line, which must be a JSON object with the fields of all lines."""
    records = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= record.keys() for record in records)
    return records


def _model(repository: Path, name: str, content: bytes) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1/model.onnx").write_bytes(content)


def test_every_line_from_start_to_stop(tmp_path: Path) -> None:
    repository, errors = tmp_path / "models", tmp_path / "stderr"
    _model(repository, "good", bare_graphs.doubling())
    _model(repository, "bad", b"no graph")
    arguments = ["--repository", str(repository), "--log-format", "json", "--log-level", "debug", "--provider", "cpu"]
    arguments += ["--control-mode", "poll", "--poll-interval-s", "0.1", "--access-log"]
    with errors.open("w") as stderr:
        process = subprocess.Popen(_command(*arguments), stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    try:
        (ready,) = _records(process.stdout.readline())
        assert (ready["message"], ready["ready"]) == ("ready", True)
        with grpc.insecure_channel(ready["grpc"]) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError):
                stub.ModelInfer(pb.ModelInferRequest(model_name="good"), timeout=10)
            _model(tmp_path / "new", "later", bare_graphs.doubling())
            shutil.move(tmp_path / "new/later", repository / "later")
            metadata, is_there = pb.ModelReadyRequest(name="later"), False
            while not is_there:
                is_there = stub.ModelReady(metadata, timeout=10, wait_for_ready=True).ready
        process.terminate()
        assert process.wait(60) == 0
        assert process.stdout.read() == ""
    finally:
        process.kill()
        process.stdout.close()
    records = _records(errors.read_text())
    told = {record["message"] for record in records}
    assert {"serving", "refused", "a request ended", "draining", "stopped", "request"} <= told
    # The server's own calls, which check its front, are no requests.
    assert {record["method"].rpartition("/")[2] for record in records if "method" in record} == {
        "ModelInfer",
        "ModelReady",
    }


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "message"),
    [
        (["--prot", "1"], {}, 2, "No such option: --prot"),
        pytest.param(["--repository", "none"], {}, 1, "repository 'none'", marks=pytest.mark.slow),
        (["--config", "FILE"], {"RESONNX_LOG_FORMAT": ""}, 2, "setting port: Input should be a valid integer"),
    ],
)
def test_what_prevents_a_start(
    arguments: list[str], variables: dict[str, str], status: int, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "FILE"
    file.write_text('[server]\nrepository = "models"\nlog_format = "json"\nport = "x"\n')
    arguments = [str(file) if argument == "FILE" else argument for argument in arguments]
    environment = os.environ | {"RESONNX_LOG_FORMAT": "json"} | variables
    command = [sys.executable, "-m", "resonnx_server", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    (record,) = _records(done.stderr)
    assert (record["level"], message in record["message"]) == ("error", True), record


def test_warnings_and_errors_that_python_prints() -> None:
    """In a process of its own: it changes what the interpreter calls."""
    program = """
import sys, threading, warnings
from resonnx_server.observe import logs
logs.console.is_json = True
logs.configure("info")
warnings.warn("old")
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
class Bad:
    def __del__(self): raise ValueError("in del")
del (bad := [Bad()])[0]
raise KeyError("at the end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    warned, of_thread, unraisable, last = _records(done.stderr)
    assert "UserWarning: old" in warned["message"]
    assert (of_thread["of_thread"], "ZeroDivisionError" in of_thread["exception"]) == ("worker", True)
    assert "in del" in unraisable["exception"]
    assert (last["level"], "KeyError: 'at the end'" in last["exception"]) == ("critical", True)


def test_text_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    logs.Console().ready({"grpc": "localhost:1", "http": "[::1]:2"}, is_ready=False)
    assert capsys.readouterr().out == "resonnx-server not ready grpc=localhost:1 http=[::1]:2\n"
