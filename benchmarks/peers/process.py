"""Runs a server for a measurement: time to ready, memory and processor time, those of its children included."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from load.server_process import HUGE_PAGES, processor_s
from peers.messages import ask

_START_S: Final = 90.0
# For resonnx, which measures a model at its first start: beside other work that takes long.
MEASURING_S: Final = 300.0


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
        return sum(_of_living(processor_s, pid) for pid in children(self.pid))

    @property
    def memory_mb(self) -> float:
        """Memory of all its processes in MB (sum of Pss: shared pages count once)."""
        return sum(_of_living(_proportional_kb, pid) for pid in children(self.pid)) * 1024 / 1e6


def pause(pid: int) -> None:
    """Stop a process and all that it has started, so that they do nothing until `resume`. Supervisors stop first."""
    for one in children(pid):
        _signal(one, signal.SIGSTOP)


def resume(pid: int) -> None:
    """Continue stopped processes. Supervisors come last, when the processes that they watch answer again."""
    for one in reversed(children(pid)):
        _signal(one, signal.SIGCONT)


def _signal(pid: int, kind: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, kind)


@contextmanager
def serve_command(
    command: list[str], root: Path, variables: Mapping[str, str], url: str, picture: bytes, longest_s: float = _START_S
) -> Iterator[Running]:
    """Run a server in a folder until the block ends, and its processes with it.

    Raises RuntimeError if it fails, or has not answered the picture after `longest_s`.
    """
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
            if process.poll() is not None or time.perf_counter() - started > longest_s:
                raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-1500:]}")
            time.sleep(0.02)
        yield Running(url, process.pid, time.perf_counter() - started)
    finally:
        left = children(process.pid)
        resume(process.pid)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in left:
            # What its parent left behind.
            if pid != process.pid:
                _signal(pid, signal.SIGKILL)


def wait_for(url: str, picture: bytes) -> None:
    """Return when a server answers there. Raises RuntimeError if it does not in time."""
    ends = time.perf_counter() + MEASURING_S
    while not _answers(url, picture):
        if time.perf_counter() > ends:
            raise RuntimeError(f"{url} did not answer within {MEASURING_S:.0f} s")
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
    except (OSError, RuntimeError, ValueError, grpc.RpcError):
        return False
    return True


def children(pid: int) -> list[int]:
    """Return a process and all that it and those have started."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue
    return found


def _of_living(figure: Callable[[int], float], pid: int) -> float:
    """Return a figure of a process; 0 for one that has ended since it was listed."""
    try:
        return figure(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _proportional_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
