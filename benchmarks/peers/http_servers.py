"""Servers that answer uploads of pictures: FastAPI, LitServe, BentoML, Ray Serve and resonnx."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from peers.environments import environment
from peers.process import MEASURING_S, Running, free_port, serve_command

APPS: Final = Path(__file__).with_name("apps")
OPENVINO: Final = {"PEER_PROVIDER": "OpenVINOExecutionProvider"}


@dataclass(frozen=True)
class Peer:
    """A server that is compared.

    Attributes:
        environment: Its name in peers.environments, and the package whose version counts.
        command: With {bin} for its programs, {port} for its port, {workers} for a setting.
        settings: The settings that are tried: variables of its environment.
        path: Where pictures are posted.
    """

    environment: str
    package: str
    command: str
    settings: tuple[Mapping[str, str], ...]
    path: str = "/classify"


def _uvicorn(app: str) -> str:
    return "{bin}/uvicorn " + app + ":app --host 127.0.0.1 --port {port} --workers {workers} --log-level warning"


def _settings(*rows: tuple[int, int, int, int, float]) -> tuple[Mapping[str, str], ...]:
    """Return settings: workers, threads of a run, runs at a time, largest batch, ms that a batch waits."""
    names = ("PEER_WORKERS", "PEER_THREADS", "PEER_RUNS", "PEER_BATCH", "PEER_DELAY_MS")
    return tuple(dict(zip(names, map(str, row), strict=True)) for row in rows)


PEERS: Final = {
    "FastAPI": Peer(
        "fastapi",
        "fastapi",
        _uvicorn("fastapi_plain"),
        tuple(
            {"PEER_HANDLER": handler, "PEER_WORKERS": workers, "PEER_THREADS": threads}
            # 0: every default of ONNX Runtime.
            for handler, workers, threads in (
                ("async", "1", "0"),
                ("thread", "1", "0"),
                ("thread", "1", "1"),
                ("async", "2", "1"),
                ("thread", "2", "1"),
            )
        ),
    ),
    "FastAPI + queue": Peer(
        "fastapi",
        "fastapi",
        _uvicorn("fastapi_queue"),
        _settings(
            (1, 0, 1, 16, 5), (1, 2, 1, 16, 5), (1, 2, 1, 8, 1), (1, 1, 2, 8, 5), (1, 1, 2, 4, 1), (2, 1, 1, 8, 2)
        ),
    ),
    # For those who know of it: OpenVINO in place of ONNX Runtime's own kernels.
    "FastAPI + queue, OpenVINO": Peer(
        "fastapi-openvino",
        "fastapi",
        _uvicorn("fastapi_queue"),
        tuple(
            {**OPENVINO, **row} for row in _settings((1, 2, 1, 8, 1), (1, 1, 2, 8, 5), (1, 1, 2, 4, 1), (2, 1, 1, 8, 2))
        ),
    ),
    "LitServe": Peer(
        "litserve",
        "litserve",
        "{bin}/python litserve_app.py",
        _settings((1, 0, 1, 8, 5), (1, 2, 1, 8, 5), (2, 1, 1, 8, 5), (2, 1, 1, 4, 1), (2, 1, 1, 1, 0)),
    ),
    "BentoML": Peer(
        "bentoml",
        "bentoml",
        "{bin}/bentoml serve bentoml_app:Classifier --host 127.0.0.1 --port {port}",
        _settings((1, 0, 1, 8, 60_000), (1, 2, 1, 16, 60_000), (2, 1, 1, 8, 60_000), (2, 1, 1, 4, 60_000)),
    ),
    "Ray Serve": Peer(
        "ray",
        "ray",
        "{bin}/python ray_app.py",
        _settings((1, 2, 1, 8, 5), (2, 1, 1, 8, 5), (2, 1, 1, 4, 1)),
    ),
}
# By serve_resonnx: the server chooses its settings, and among the providers of its environment.
RESONNX: Final = {name: Peer(name, "resonnx-server", "", ({},)) for name in ("resonnx", "resonnx-openvino")}
# Batches of 1: one request at a time.
CAPTION_PEERS: Final = {
    "PyTorch, one at a time": Peer(
        "torch", "torch", _uvicorn("torch_captions"), _settings((1, 0, 1, 1, 0), (2, 1, 1, 1, 0)), "/caption"
    ),
    "ONNX Runtime, one at a time": Peer(
        "fastapi", "onnxruntime", _uvicorn("onnx_captions"), _settings((1, 0, 1, 1, 0), (2, 1, 1, 1, 0)), "/caption"
    ),
    "PyTorch, batches by hand": Peer(
        "torch",
        "torch",
        _uvicorn("torch_captions"),
        _settings((1, 0, 1, 16, 5), (1, 0, 1, 8, 5), (2, 1, 1, 8, 5)),
        "/caption",
    ),
}


@contextmanager
def serve_peer(
    peer: Peer, settings: Mapping[str, str], model: Mapping[str, str], picture: bytes, query: str = ""
) -> Iterator[Running]:
    """Serve by a peer until the block ends.

    Args:
        peer: Of PEERS or CAPTION_PEERS.
        settings: One of its settings.
        model: Variables that tell the model: PEER_MODEL, PEER_LABELS, PEER_PROVIDER.
        picture: A file; the server is ready when it answers it.
        query: Of that request.

    Raises:
        RuntimeError: It ends, or is not ready in time; with its last words.
    """
    folder = environment(peer.environment).parent
    port = str(free_port())
    names = {"bin": str(folder), "port": port, "workers": settings["PEER_WORKERS"]}
    command = [part.format_map(names) for part in peer.command.split()]
    variables = {**model, "PEER_PRECISION": "int8", **settings, "PEER_PORT": port}
    with TemporaryDirectory() as root:
        for file in APPS.glob("*.py"):
            shutil.copy(file, root)
        with serve_command(
            command, Path(root), variables, f"http://127.0.0.1:{port}{peer.path}{query}", picture
        ) as running:
            yield running


@contextmanager
def serve_resonnx(
    repository: Path, model: str, picture: bytes, *flags: str, task: str = "classify", name: str = "resonnx"
) -> Iterator[Running]:
    """Serve by resonnx-server, of an environment of RESONNX; its gRPC port is the one after its HTTP port.

    Raises RuntimeError likewise.
    """
    port = free_port()
    command = [str(environment(name).parent / "resonnx-server"), "--repository", str(repository.resolve())]
    command += ["--port", str(port + 1), "--http-port", str(port), "--log-level", "error", *flags]
    url = f"http://127.0.0.1:{port}/v1/{task}/{model}"
    with TemporaryDirectory() as root, serve_command(command, Path(root), {}, url, picture, MEASURING_S) as running:
        yield running
