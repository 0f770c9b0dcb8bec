"""Triton's own program, from pytriton's wheel, and repositories of the same models for it and for this server.

The wheel has Triton's Python backend only: there the graphs are NumPy.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from onnx import TensorProto, helper
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

from ..environments import interpreter

_MODEL = """\
import sys
sys.path.append({packages!r})
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(pb_utils.get_input_tensor_by_name(request, "x").as_numpy()) for request in requests]

    def _answer(self, x):
        y = x if x.dtype == object else (x * np.array({factor}, x.dtype))
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", y)])
"""
# By model: the configuration beside input and output, dims, further fields of the output, datatype, the graph's shape.
_MODELS = {
    "doubling": ("max_batch_size: 8", "[3]", "", "FP32", ["n", 3]),
    "labelled": ("max_batch_size: 8", "[4]", 'label_filename: "labels.txt"', "FP32", ["n", 4]),
    "reshaped": ("max_batch_size: 4", "[1] reshape { shape: [] }", "", "FP32", ["n"]),
    "versions": ("max_batch_size: 4 version_policy { specific { versions: [1, 3] } }", "[2]", "", "FP32", ["n", 2]),
    "latest": ("max_batch_size: 4", "[2]", "", "FP32", ["n", 2]),
    "fixed": ("", "[2, 3]", "", "INT64", [2, 3]),
    "strings": ("max_batch_size: 4", "[2]", "", "BYTES", ["n", 2]),
    "halves": ("max_batch_size: 4", "[2]", "", "FP16", ["n", 2]),
    "flags": ("max_batch_size: 4", "[2]", "", "BOOL", ["n", 2]),
    "levels": (
        "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 100 priority_levels: 4 "
        "default_priority_level: 2 default_queue_policy { max_queue_size: 8 } }",
        "[3]",
        "",
        "FP32",
        ["n", 3],
    ),
}
_VERSIONS = {"versions": 3, "latest": 2}
_KINDS = {
    "FP32": TensorProto.FLOAT,
    "INT64": TensorProto.INT64,
    "BYTES": TensorProto.STRING,
    "FP16": TensorProto.FLOAT16,
    "BOOL": TensorProto.BOOL,
}
MODELS = tuple(_MODELS)


def write(folder: Path, *, is_onnx: bool) -> None:
    """Write the repository, of ONNX files or for the Python backend. The model of version N multiplies by N."""
    packages = str(Path(sys.modules["numpy"].__file__ or "").parents[1])
    for name, (more, dims, label, datatype, shape) in _MODELS.items():
        for version in range(1, _VERSIONS.get(name, 1) + 1):
            content = _graph(datatype, shape, version) if is_onnx else _MODEL.format(packages=packages, factor=version)
            path = folder / name / str(version) / ("model.onnx" if is_onnx else "model.py")
            path.parent.mkdir(parents=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        kind = {"BYTES": "TYPE_STRING"}.get(datatype, f"TYPE_{datatype}")
        (folder / name / "config.pbtxt").write_text(
            f'name: "{name}" backend: "{"onnxruntime" if is_onnx else "python"}" {more}\n'
            f'input {{ name: "x" data_type: {kind} dims: {dims} }}\n'
            f'output {{ name: "y" data_type: {kind} dims: {dims} {label} }}\n'
        )
    (folder / "labelled" / "labels.txt").write_text("ant\nbee\ncat\ndog\n")


def _graph(datatype: str, shape: list[int | str], factor: int) -> bytes:
    kind = _KINDS[datatype]
    x, y = (helper.make_tensor_value_info(name, kind, shape) for name in "xy")
    node, factors = helper.make_node("Identity", ["x"], ["y"]), []
    if datatype == "FP32":
        node = helper.make_node("Mul", ["x", "factor"], ["y"])
        factors = [helper.make_tensor("factor", kind, [], [factor])]
    graph = helper.make_graph([node], "graph", [x], [y], factors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def running(folder: Path, repository: Path) -> Iterator[str]:
    """Run Triton, and yield the address of its gRPC port; skip the test where the program does not start."""
    packages = next((interpreter("pytriton").parents[1] / "lib").glob("python3*/site-packages"))
    program = packages / "pytriton/tritonserver"
    minor = f"3.{sys.version_info.minor}"
    # Beside its backend, in a copy: the wheel has a stub for each version of Python.
    shutil.copytree(program / "backends", folder / "backends")
    stub = shutil.copy(program / f"python_backend_stubs/{minor}/triton_python_backend_stub", folder / "backends/python")
    libraries = packages / "nvidia_pytriton.libs"
    for executable in (Path(stub), program / "bin/tritonserver"):
        executable.chmod(0o755)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [str(program / "bin/tritonserver"), "--model-repository", str(repository), "--grpc-port", str(port)]
    command += ["--backend-directory", str(folder / "backends"), "--grpc-address", "127.0.0.1"]
    command += ["--allow-http", "false", "--allow-metrics", "false"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={"LD_LIBRARY_PATH": str(libraries)})
    try:
        address = f"127.0.0.1:{port}"
        with grpc.insecure_channel(address) as channel:
            ready = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerReady
            end = time.monotonic() + 120
            while True:
                if process.poll() is not None or time.monotonic() > end:
                    pytest.skip(f"Triton does not start here: {(folder / 'log').read_text()[-500:]}")
                try:
                    if ready(pb.ServerReadyRequest(), timeout=5, wait_for_ready=True).ready:
                        break
                except grpc.RpcError:
                    pass
        yield address
    finally:
        process.terminate()
        process.wait(60)
