"""Real servers as processes."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from resonnx_server.scheduling.measurement import far_above

_READY = re.compile(r"^resonnx-server (?:not )?ready grpc=(\S+) http=(\S+)(?: admin=(\S+))?$")
# Pages of metrics are made for five requests a second, and for five at once after a pause.
_METRICS_INTERVAL_S = 0.21
_METRICS_AT_ONCE_S = 4 * _METRICS_INTERVAL_S


@dataclass
class RunningServer:
    """A `resonnx-server` process that said it is ready."""

    process: "subprocess.Popen[str]"
    grpc: str
    http: str
    log: Path
    admin: str | None = None
    _metrics_due_s: float = -math.inf

    def get(self, path: str, key: str | None = None) -> tuple[int, str]:
        """GET a page of the HTTP port: status and text. Metrics are not asked for so often that the last page comes."""
        if path == "/metrics":
            self._metrics_due_s = max(self._metrics_due_s, time.monotonic() - _METRICS_AT_ONCE_S) + _METRICS_INTERVAL_S
            time.sleep(max(0.0, self._metrics_due_s - time.monotonic()))
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(f"http://{self.http}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have `labels`."""
        total = 0.0
        for line in self.get("/metrics")[1].splitlines():
            match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
                total += float(match[2])
        return total

    def resident_bytes(self) -> int:
        """Return the memory of its process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))) << 10

    def own_bytes(self) -> int:
        """Return the memory of its process without pages of files, which the system takes back when it needs them."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:"))) << 10

    def descriptors(self) -> list[int]:
        """Return the open descriptors of its process."""
        return [int(name) for name in os.listdir(f"/proc/{self.process.pid}/fd")]

    def threads(self) -> int:
        """Return the number of threads of its process."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def ends_well(self) -> None:
        """Stop it; fail unless it has let go of all requests, its log has no traceback and it exits with 0."""
        self.lets_go()
        assert "Traceback" not in self.log.read_text()
        assert self.stop() == 0

    def lets_go(self) -> None:
        """Fail unless it lets go of all requests."""
        for gauge in ("resonnx_requests_in_progress", "resonnx_queue_rows", "resonnx_memory_requests_bytes"):
            end = time.monotonic() + 30
            while self.metric(gauge):
                assert time.monotonic() < end, gauge
                time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


StartServer = Callable[..., AbstractContextManager[RunningServer]]


def settle(tables: Path) -> None:
    """Have servers take the latency tables and choices in a folder as they are.

    Beside other tests every measurement is disturbed, and servers would measure again at each start.
    """
    for path in tables.glob("latency-*.json"):
        table = json.loads(path.read_text())
        costs = {int(size): ns for size, (ns, _) in table["costs"].items()}
        outliers = far_above(costs)
        if not (table["doubts"] or outliers):
            continue
        while outliers:
            costs |= {size: costs[size] / 2 for size in outliers}
            outliers = far_above(costs)
        spreads = {size: spread for size, (_, spread) in table["costs"].items()}
        _rewrite(path, {"costs": {size: (ns, spreads[str(size)]) for size, ns in costs.items()}, "doubts": 0})
    for path in tables.glob("choice-*.json"):
        choice = json.loads(path.read_text())
        if choice["doubts"]:
            _rewrite(path, {**choice, "doubts": 0})


def _rewrite(path: Path, content: dict[str, object]) -> None:
    partial = path.with_suffix(f".settled-{os.getpid()}")
    partial.write_text(json.dumps(content))
    partial.replace(path)


@contextmanager
def running(
    repository: Path, *flags: str, log: Path, front: str | None, environment: Mapping[str, str]
) -> Iterator[RunningServer]:
    """Start a server on free ports and wait until it is ready; it ends with the context."""
    command = [sys.executable, "-m", "resonnx_server", "--repository", str(repository), "--port", "0"]
    command += ["--http-port", "0", *flags]
    variables = {**os.environ, **environment}
    if front is not None:
        variables.setdefault("RESONNX_GRPC_FRONT", front)
    with (
        log.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=variables) as process,
    ):
        assert process.stdout is not None
        match = _READY.match(process.stdout.readline())
        if match is None:
            process.wait(30)
            pytest.fail(f"the server did not start: {log.read_text()}")
        try:
            yield RunningServer(process, match[1], match[2], log, match[3])
        finally:
            if process.poll() is None:
                process.kill()
