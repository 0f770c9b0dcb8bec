"""What loading a version beside live traffic costs the traffic: p99 of an open loop with reloads and without, in turns.

    PYTHONPATH=benchmarks python benchmarks/load/reloads.py MODEL_FOLDER [--rounds 3] [--seconds 20] [--share 0.6]

MODEL_FOLDER is the folder of a model, as resonnx-export writes it. Its highest version is published as 1, 2, 3 and so
on. Each reload verifies it, compares it with the golden examples, warms it up, and frees the one before. The rate is a
share of a closed loop's throughput. Exit status 1 if the p99 with reloads is more than 1.5 times the other.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median
from typing import Final

from load.generator import Generator
from load.server_process import Serving, serving

_MOST: Final = 1.5
_CALLERS: Final = 8


class Publisher:
    """Publishes copies of a version, one after the other, while the block runs.

    Args:
        source: A version's folder.
        model: The model's folder in the served repository.
        pause_s: Between two of them.

    Attributes:
        count: Versions that were published.
    """

    def __init__(self, source: Path, model: Path, pause_s: float) -> None:
        self._source, self._model, self._pause_s = source, model, pause_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.count = 1
        shutil.copytree(source, model / "1")

    def __enter__(self) -> "Publisher":
        self._over.clear()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self._pause_s):
            staged = self._model / ".staged"
            # Links: copying would take the disk and a processor from the server.
            shutil.copytree(self._source, staged, copy_function=lambda source, target: Path(target).hardlink_to(source))
            staged.rename(self._model / str(self.count + 1))
            if self.count > 1:
                shutil.rmtree(self._model / str(self.count - 1))
            self.count += 1


def resident_mb(server: Serving) -> float:
    """Return the memory of a server's process, in MB."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--share", type=float, default=0.6)
    parser.add_argument("--pause", type=float, default=2, help="seconds between two published versions")
    parser.add_argument("--perf-analyzer", type=Path, default=None)
    given = parser.parse_args()
    source = max((entry for entry in given.model.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    generator = Generator(given.perf_analyzer, given.seconds)
    name = given.model.name
    # On the file system of the source, for links.
    with tempfile.TemporaryDirectory(dir=given.model.parent, prefix=".reloads-") as folder:
        publisher = Publisher(source, Path(folder) / name, given.pause)
        flags = ("--control-mode", "poll", "--poll-interval-s", "0.5")
        with serving(Path(folder), *flags) as server:
            rate = given.share * generator.closed(server.grpc, name, _CALLERS).rate
            memory, ratios = resident_mb(server), []
            for _ in range(given.rounds):
                alone = generator.open(server.grpc, name, rate).p99_ms
                before, began = publisher.count, time.monotonic()
                with publisher:
                    beside = generator.open(server.grpc, name, rate).p99_ms
                count, seconds = publisher.count - before, time.monotonic() - began
                print(f"p99 {alone} ms alone, {beside} ms with {count} reloads in {seconds:.0f} s", flush=True)
                ratios.append(beside / alone if alone and beside else float("inf"))
            time.sleep(2 * given.pause)
            grown = resident_mb(server) - memory
    print(
        f"{rate:.0f}/s: p99 {median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f}), memory {grown:+.0f} MB"
    )
    return int(median(ratios) > _MOST)


if __name__ == "__main__":
    sys.exit(main())
