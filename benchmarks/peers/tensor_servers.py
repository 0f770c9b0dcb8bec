"""Starts Triton's Python backend and MLServer on the same ONNX file, each from PyPI in its own environment."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import onnxruntime as ort
from peers.environments import environment
from resonnx_proto.inference import grpc_service_pb2 as pb
from resonnx_proto.inference import grpc_service_pb2_grpc

_APPS = Path(__file__).with_name("apps")
_START_S = 90
_LARGEST_BATCH = 16
_TYPES = {"tensor(uint8)": ("UINT8", "TYPE_UINT8"), "tensor(float)": ("FP32", "TYPE_FP32")}


@dataclass(frozen=True)
class Model:
    """A served ONNX file with one input "image", and its provider and precision."""

    name: str
    file: Path
    provider: str
    precision: str


@dataclass(frozen=True)
class Tuning:
    """A peer's settings: instances of the model, threads of a run, and queue delay of a batch in microseconds."""

    instances: int
    threads: int
    delay_us: int


def tunings(peer: str, cores: int) -> list[Tuning]:
    """List the settings worth trying, of which the best counts."""
    layouts = [(1, cores)] if peer == "mlserver" else [(1, cores), (cores, 1), (cores, cores)]
    delays = (100, 2000) if peer == "mlserver" else (0, 500)
    return [Tuning(instances, threads, delay) for instances, threads in layouts for delay in delays]


@contextmanager
def peer(name: str, model: Model, tuning: Tuning) -> Iterator[str]:
    """Serve `model` by the peer and give its HOST:PORT. Raises RuntimeError with its last words where it ends."""
    python = environment(name)
    with TemporaryDirectory() as folder:
        root, ports = Path(folder), _free_ports(3)
        command = (_triton if name == "triton" else _mlserver)(root, python, model, tuning, ports)
        packages = next(python.parent.parent.glob("lib/python3*/site-packages"))
        variables = {
            **os.environ,
            "PEER_MODEL": str(model.file.resolve()),
            "PEER_PROVIDER": model.provider,
            "PEER_PRECISION": model.precision,
            "PEER_THREADS": str(tuning.threads),
            "PEER_PACKAGES": str(packages),
            # Triton's stub is moved away from its libraries.
            "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
        }
        log = root / "log"
        with log.open("w") as output:
            process = subprocess.Popen(command, cwd=root, env=variables, stdout=output, stderr=output)
        try:
            server = f"127.0.0.1:{ports[0]}"
            if not _ready(process, server, model.name):
                raise RuntimeError(f"{name} did not start: {log.read_text()[-1500:]}")
            yield server
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _triton(root: Path, python: Path, model: Model, tuning: Tuning, ports: Sequence[int]) -> list[str]:
    package = next(python.parent.parent.glob("lib/python3*/site-packages/pytriton/tritonserver"))
    version = package.parents[2].name.removeprefix("python")
    # A backend's folder must hold its stub; the wheel has one for each Python.
    backend = root / "backends/python"
    shutil.copytree(package / "backends/python", backend)
    shutil.copy(package / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    folder = root / "models" / model.name
    (folder / "1").mkdir(parents=True)
    shutil.copy(_APPS / "triton_model.py", folder / "1/model.py")
    shutil.copy(_APPS / "ort_session.py", folder / "1")
    inputs, outputs = _tensors(model.file)

    def described(tensors: list[tuple[str, str, list[int]]]) -> str:
        return ", ".join(
            f'{{ name: "{name}" data_type: {_TYPES[kind][1]} dims: {shape[1:]} }}' for name, kind, shape in tensors
        )

    (folder / "config.pbtxt").write_text(
        f'name: "{model.name}"\nbackend: "python"\nmax_batch_size: {_LARGEST_BATCH}\n'
        f"input [ {described(inputs)} ]\noutput [ {described(outputs)} ]\n"
        f"dynamic_batching {{ max_queue_delay_microseconds: {tuning.delay_us} }}\n"
        f"instance_group [ {{ kind: KIND_CPU count: {tuning.instances} }} ]\n"
    )
    flags = {
        "model-repository": root / "models",
        "backend-directory": root / "backends",
        "grpc-address": "127.0.0.1",
        "grpc-port": ports[0],
        "allow-http": "false",
        "allow-metrics": "false",
    }
    return [str(package / "bin/tritonserver"), *(f"--{flag}={value}" for flag, value in flags.items())]


def _mlserver(root: Path, python: Path, model: Model, tuning: Tuning, ports: Sequence[int]) -> list[str]:
    for file in ("mlserver_model.py", "ort_session.py"):
        shutil.copy(_APPS / file, root)
    inputs, outputs = _tensors(model.file)

    def described(tensors: list[tuple[str, str, list[int]]]) -> list[dict[str, object]]:
        return [{"name": name, "datatype": _TYPES[kind][0], "shape": shape} for name, kind, shape in tensors]

    settings = {"host": "127.0.0.1", "grpc_port": ports[0], "http_port": ports[1], "metrics_port": ports[2]}
    # In its own process the model does without a queue between processes, which costs more than it brings here.
    (root / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    (root / "model-settings.json").write_text(
        json.dumps(
            {
                "name": model.name,
                "implementation": "mlserver_model.OnnxModel",
                "max_batch_size": _LARGEST_BATCH,
                "max_batch_time": tuning.delay_us / 1e6,
                "inputs": described(inputs),
                "outputs": described(outputs),
                "parameters": {"version": "1"},
            }
        )
    )
    return [str(python.parent / "mlserver"), "start", str(root)]


def _tensors(file: Path) -> tuple[list[tuple[str, str, list[int]]], list[tuple[str, str, list[int]]]]:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])

    def described(node: ort.NodeArg) -> tuple[str, str, list[int]]:
        return node.name, node.type, [size if isinstance(size, int) else -1 for size in node.shape]

    return [described(node) for node in session.get_inputs()], [described(node) for node in session.get_outputs()]


def _ready(process: subprocess.Popen[bytes], server: str, model: str) -> bool:
    give_up = time.monotonic() + _START_S
    with grpc.insecure_channel(server) as channel:
        stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while process.poll() is None and time.monotonic() < give_up:
            try:
                if stub.ModelReady(pb.ModelReadyRequest(name=model), timeout=1).ready:
                    return True
            except grpc.RpcError:
                pass
            time.sleep(0.2)
    return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for taken in sockets:
            taken.bind(("127.0.0.1", 0))
        return [taken.getsockname()[1] for taken in sockets]
    finally:
        for taken in sockets:
            taken.close()
