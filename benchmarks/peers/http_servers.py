"""Servers that answer uploads of pictures: FastAPI, LitServe, BentoML, Ray Serve and resonnx."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from load.server_process import HUGE_PAGES, processor_s
from peers.environments import environment
from peers.load import ask

_APPS: Final = Path(__file__).with_name("apps")
_START_S: Final = 90.0


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


@dataclass(frozen=True)
class Running:
    """A peer that serves.

    Attributes:
        url: Where pictures are posted.
        pid: Of its first process.
        ready_s: From its start to its first answer, in seconds.
    """

    url: str
    pid: int
    ready_s: float

    @property
    def processor_s(self) -> float:
        """User and system time of all its processes so far, in seconds."""
        return sum(processor_s(pid) for pid in _tree(self.pid))

    @property
    def memory_mb(self) -> float:
        """Memory of all its processes in MB (sum of Pss: shared pages count once)."""
        return sum(_proportional_kb(pid) for pid in _tree(self.pid)) * 1024 / 1e6


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
# By serve_resonnx, which chooses its settings.
RESONNX: Final = Peer("resonnx", "resonnx-server", "", ({},))
# Batches of 1: one request at a time.
CAPTION_PEERS: Final = {
    "PyTorch, one at a time": Peer(
        "torch", "torch", _uvicorn("torch_captions"), _settings((1, 0, 1, 1, 0), (2, 1, 1, 1, 0)), "/caption"
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
        for file in _APPS.glob("*.py"):
            shutil.copy(file, root)
        with serve_command(
            command, Path(root), variables, f"http://127.0.0.1:{port}{peer.path}{query}", picture
        ) as running:
            yield running


@contextmanager
def serve_resonnx(
    repository: Path, model: str, picture: bytes, *flags: str, task: str = "classify"
) -> Iterator[Running]:
    """Serve by resonnx-server, of its own environment; its gRPC port is the one after. Raises RuntimeError likewise."""
    port = free_port()
    command = [str(environment("resonnx").parent / "resonnx-server"), "--repository", str(repository.resolve())]
    command += ["--port", str(port + 1), "--http-port", str(port), "--log-level", "error", *flags]
    url = f"http://127.0.0.1:{port}/v1/{task}/{model}"
    with TemporaryDirectory() as root, serve_command(command, Path(root), {}, url, picture) as running:
        yield running


@contextmanager
def serve_command(
    command: list[str], root: Path, variables: Mapping[str, str], url: str, picture: bytes
) -> Iterator[Running]:
    """Run a server in a folder until the block ends, and its processes with it. Raises RuntimeError if it fails."""
    log = root / "log"
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started = time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            env={
                **inherited,
                **HUGE_PAGES,
                "RAY_USAGE_STATS_ENABLED": "0",
                "BENTOML_DO_NOT_TRACK": "True",
                **variables,
            },
            stdout=output,
            stderr=output,
        )
    try:
        while not _answers(url, picture):
            if process.poll() is not None or time.perf_counter() - started > _START_S:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-1500:]}")
            time.sleep(0.02)
        yield Running(url, process.pid, time.perf_counter() - started)
    finally:
        left = _tree(process.pid)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in left:
            # What its parent left behind.
            if Path(f"/proc/{pid}/environ").exists() and pid != process.pid:
                subprocess.run(["kill", "-9", str(pid)], stderr=subprocess.DEVNULL, check=False)


def wait_for(url: str, picture: bytes) -> None:
    """Return when a server answers there. Raises RuntimeError if it does not in time."""
    ends = time.perf_counter() + _START_S
    while not _answers(url, picture):
        if time.perf_counter() > ends:
            raise RuntimeError(f"{url} did not answer within {_START_S:.0f} s")
        time.sleep(0.02)


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free, as is the one after it."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def _answers(url: str, picture: bytes) -> bool:
    try:
        ask(url, picture)
    except (OSError, RuntimeError, ValueError):
        return False
    return True


def _tree(pid: int) -> list[int]:
    """Return a process and all that it and those have started."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def _proportional_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
