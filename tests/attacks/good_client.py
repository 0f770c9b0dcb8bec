"""A client of one call after the other, in a process of its own: the attacks' threads take none of its time."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass
class GoodClient:
    """The process, which answers each line with the latencies since the last one."""

    process: "subprocess.Popen[str]"

    def p99_s(self, seconds: float) -> float:
        """Return the 99th percentile of the latencies of calls in the next `seconds`."""
        self.times_s()
        time.sleep(seconds)
        times = self.times_s()
        return times[int(0.99 * len(times))]

    def times_s(self) -> list[float]:
        """Return the latencies since the last call, sorted; waits for one."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        while True:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            if times := sorted(map(float, self.process.stdout.readline().split())):
                return times


@contextmanager
def good_client(address: str, path: str, request: bytes, folder: Path) -> Iterator[GoodClient]:
    """Call a unary method with a serialized request until the block ends; `folder` is for files."""
    (folder / "request").write_bytes(request)
    command = [sys.executable, __file__, address, path, str(folder / "request")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            client = GoodClient(process)
            client.times_s()
            yield client
        finally:
            process.kill()


def _main(address: str, path: str, file: str) -> None:
    request, times = Path(file).read_bytes(), list[float]()

    def answer() -> None:
        nonlocal times
        for _ in sys.stdin:
            taken, times = times, []
            print(*taken, flush=True)

    threading.Thread(target=answer, daemon=True).start()
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(path)
        while True:
            began = time.perf_counter()
            call(request, timeout=60)
            times.append(time.perf_counter() - began)


if __name__ == "__main__":
    _main(*sys.argv[1:])
