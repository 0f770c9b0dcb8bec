"""Starts Triton's Python backend and MLServer on the same ONNX file, each from PyPI in its own environment."""

import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime as ort
from peers.environments import environment
from peers.http_servers import APPS
from peers.process import Running, serve_command

_SHARED = ("ort_session.py", "uploads.py")
_LARGEST_BATCH = 16
_TYPES = {
    "tensor(uint8)": ("UINT8", "TYPE_UINT8"),
    "tensor(float)": ("FP32", "TYPE_FP32"),
    "tensor(string)": ("BYTES", "TYPE_STRING"),
}


@dataclass(frozen=True)
class Model:
    """A served ONNX file with one input "image", and its provider and precision."""

    name: str
    file: Path
    provider: str
    precision: str


@dataclass(frozen=True)
class Tuning:
    """A peer's settings.

    Attributes:
        instances: Of the model; with one, MLServer runs it in its own process.
        threads: Of a run.
        delay_us: How long a batch waits for further requests, in microseconds.
    """

    instances: int
    threads: int
    delay_us: int

    @property
    def settings(self) -> dict[str, str]:
        """The settings as those of other peers are told."""
        named = {"INSTANCES": self.instances, "THREADS": self.threads, "DELAY_US": self.delay_us}
        return {f"PEER_{name}": str(value) for name, value in named.items()}

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> "Tuning":
        """Read `settings`."""
        return cls(*(int(settings[f"PEER_{name}"]) for name in ("INSTANCES", "THREADS", "DELAY_US")))


def tunings(peer: str, cores: int) -> list[Tuning]:
    """List the settings worth trying, of which the best counts."""
    layouts = [(1, cores), (cores, 1)] if peer == "mlserver" else [(1, cores), (cores, 1), (cores, cores)]
    delays = (100, 2000) if peer == "mlserver" else (0, 500)
    return [Tuning(instances, threads, delay) for instances, threads in layouts for delay in delays]


@contextmanager
def serve_tensors(name: str, model: Model, tuning: Tuning, picture: bytes) -> Iterator[Running]:
    """Serve `model` by a peer until the block ends.

    Args:
        name: "triton" or "mlserver".
        model: The served model.
        tuning: Its settings.
        picture: A JPEG file for a server of files, or the pixels of the model's input for one of tensors.

    Raises:
        RuntimeError: It does not start; with its last words.
    """
    python = environment(name)
    packages = next(python.parent.parent.glob("lib/python3*/site-packages"))
    given = "file" if picture.startswith(b"\xff\xd8") else "image"
    variables = {
        "PEER_MODEL": str(model.file.resolve()),
        "PEER_PROVIDER": model.provider,
        "PEER_PRECISION": model.precision,
        "PEER_THREADS": str(tuning.threads),
        "PEER_PACKAGES": str(packages),
        # Triton's stub is moved away from its libraries.
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{os.environ.get('LD_LIBRARY_PATH', '')}",
    }
    with TemporaryDirectory() as folder:
        root, ports = Path(folder), _free_ports(3)
        command = (_triton if name == "triton" else _mlserver)(root, python, model, tuning, given, ports)
        if name == "mlserver":
            # Its worker processes look for the model's class there.
            variables["PYTHONPATH"] = folder
        url = f"infer://127.0.0.1:{ports[0]}/{model.name}/{given}"
        with serve_command(command, root, variables, url, picture) as running:
            yield running


def _triton(root: Path, python: Path, model: Model, tuning: Tuning, given: str, ports: Sequence[int]) -> list[str]:
    package = next(python.parent.parent.glob("lib/python3*/site-packages/pytriton/tritonserver"))
    version = package.parents[2].name.removeprefix("python")
    # A backend's folder must hold its stub; the wheel has one for each Python.
    backend = root / "backends/python"
    shutil.copytree(package / "backends/python", backend)
    shutil.copy(package / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    folder = root / "models" / model.name
    (folder / "1").mkdir(parents=True)
    shutil.copy(APPS / "triton_model.py", folder / "1/model.py")
    for file in _SHARED:
        shutil.copy(APPS / file, folder / "1")
    inputs, outputs = _tensors(model.file, given)

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


def _mlserver(root: Path, python: Path, model: Model, tuning: Tuning, given: str, ports: Sequence[int]) -> list[str]:
    for file in ("mlserver_model.py", *_SHARED):
        shutil.copy(APPS / file, root)
    inputs, outputs = _tensors(model.file, given)

    def described(tensors: list[tuple[str, str, list[int]]]) -> list[dict[str, object]]:
        return [{"name": name, "datatype": _TYPES[kind][0], "shape": shape} for name, kind, shape in tensors]

    settings = {"host": "127.0.0.1", "grpc_port": ports[0], "http_port": ports[1], "metrics_port": ports[2]}
    # In its own process the model does without a queue between processes.
    workers = tuning.instances if tuning.instances > 1 else 0
    (root / "settings.json").write_text(json.dumps({**settings, "parallel_workers": workers, "debug": False}))
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


def _tensors(file: Path, given: str) -> tuple[list[tuple[str, str, list[int]]], list[tuple[str, str, list[int]]]]:
    """Return name, type and shape of the model's inputs, or of the one for files, and of its outputs."""
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])

    def described(node: ort.NodeArg) -> tuple[str, str, list[int]]:
        return node.name, node.type, [size if isinstance(size, int) else -1 for size in node.shape]

    inputs = [(given, "tensor(string)", [-1, 1])] if given == "file" else list(map(described, session.get_inputs()))
    return inputs, list(map(described, session.get_outputs()))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for taken in sockets:
            taken.bind(("127.0.0.1", 0))
        return [taken.getsockname()[1] for taken in sockets]
    finally:
        for taken in sockets:
            taken.close()
