"""Real servers on free ports of 127.0.0.1, for the time of a measurement."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Huge pages for the allocator, as the image and the quick start set them.
HUGE_PAGES: Final = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
# Folders of a checkout that the server's packages are in.
SOURCES: Final = ("server", "proto", "client")
_PAGE_S: Final = 0.5


@dataclass(frozen=True)
class Serving:
    """Where a server listens, as HOST:PORT; `admin` is empty without an admin port."""

    grpc: str
    http: str
    pid: int
    admin: str = ""

    @property
    def processor_s(self) -> float:
        """User and system time of the process so far, in seconds."""
        return processor_s(self.pid)

    @property
    def answers(self) -> float:
        """Requests that were answered so far, by its metrics."""
        # A page is made for five requests a second.
        time.sleep(_PAGE_S)
        with urllib.request.urlopen(f"http://{self.http}/metrics") as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("nv_inference_request_success{"))


def processor_s(pid: int, thread: int | None = None) -> float:
    """Return the user and system time of a process, or of one of its threads, so far, in seconds."""
    entry = Path(f"/proc/{pid}" if thread is None else f"/proc/{pid}/task/{thread}")
    # Its name comes first, in brackets, and may hold anything.
    numbers = (entry / "stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(
    repository: Path,
    *flags: str,
    runner: Sequence[str] = (),
    checkout: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> Iterator[Serving]:
    """Serve `repository` by resonnx-server until the block ends.

    Args:
        repository: The models.
        flags: Of resonnx-server.
        runner: A program that starts it.
        checkout: The folder of another version of this project, which is served by; None for this one.
        more: Further variables of its environment.

    Raises:
        RuntimeError: It does not start.
    """
    command = [sys.executable, *runner, "-m", "resonnx_server", "--repository", str(repository), "--port", "0"]
    sources = {} if checkout is None else {"PYTHONPATH": os.pathsep.join(str(checkout / name) for name in SOURCES)}
    with running([*command, "--http-port", "0", "--log-level", "error", *flags], {**sources, **(more or {})}) as server:
        yield server


@contextmanager
def running(command: Sequence[str], more: Mapping[str, str] | None = None) -> Iterator[Serving]:
    """Run a server that says "NAME ready grpc=HOST:PORT http=HOST:PORT" with huge pages.

    `more` are further variables of its environment.

    Raises:
        RuntimeError: It does not start.
    """
    variables = {**HUGE_PAGES, "RESONNX_DRAIN_DELAY_S": "0", **os.environ, **(more or {})}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout is not None
        ready = re.match(r"\S+ ready grpc=(\S+) http=(\S+)(?: admin=(\S+))?", process.stdout.readline())
        if ready is None:
            raise RuntimeError("the server did not start")
        try:
            yield Serving(ready[1], ready[2], process.pid, ready[3] or "")
        finally:
            process.terminate()
