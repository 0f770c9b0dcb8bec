"""A server whose stderr is a pipe that nobody reads starts, answers and stops; whoever reads then finds whole lines."""

import fcntl
import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from .. import bare_graphs

# Lines of the start alone do not fit.
_PIPE_BYTES = 4096


@pytest.mark.slow
def test_nobody_reads_stderr(tmp_path: Path) -> None:
    (tmp_path / "models/double/1").mkdir(parents=True)
    (tmp_path / "models/double/1/model.onnx").write_bytes(bare_graphs.doubling())
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    command = [sys.executable, "-m", "resonnx_server", "--repository", str(tmp_path / "models"), "--port", "0"]
    command += ["--http-port", "0", "--provider", "cpu", "--access-log", "--log-level", "debug"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writing, text=True)
    os.close(writing)
    try:
        assert process.stdout is not None
        addresses = re.match(r"resonnx-server ready grpc=(\S+) http=(\S+)$", process.stdout.readline())
        assert addresses
        with grpc.insecure_channel(addresses[1]) as channel:
            stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for number in range(200):
                with pytest.raises(grpc.RpcError) as failed:
                    stub.ModelInfer(pb.ModelInferRequest(model_name="double", id=f"r-{number}"), timeout=10)
                assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with urllib.request.urlopen(f"http://{addresses[2]}/readyz", timeout=10) as answer:
            assert answer.status == 200
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()
        with os.fdopen(reading, "rb") as reader:
            read = reader.read().decode()
    *whole, _ = read.split("\n")
    assert whole
    assert all({"time", "level", "logger", "message"} <= json.loads(line).keys() for line in whole)
