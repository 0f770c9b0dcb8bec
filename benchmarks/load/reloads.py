"""What changes of a model cost the traffic beside them, and whether any request fails or is answered wrongly.

    PYTHONPATH=benchmarks python benchmarks/load/reloads.py MODEL_FOLDER [--changes 200] [--seconds 30] [--share 0.6]

MODEL_FOLDER is the folder of a classifier, as resonnx-export writes it. Eight clients, over gRPC and REST, single and
in streams, send at a share of the peak, which a closed loop of the same clients finds. Good versions, ones that do not
agree with their golden examples, incomplete and corrupt ones are published in turns. Each good one has a best class of
its own: every answer must be of a version that was ready when its request was sent. Then the same with a closed loop,
where the device is never idle. Exit status 1 if a request failed or was answered wrongly, the p99 is more than 1.5
times that of the time before, or memory, threads or descriptors have grown.
"""

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from load.eight import CLIENTS, Eight
from load.publisher import Change, Publisher
from load.server_process import Serving, serving
from resonnx_server.runtime.model_files.manifest import MANIFEST, parse_manifest

_MOST: Final = 1.5
_MOST_MB: Final = 50
# Threads of Python's pool for files, which begin when they are first needed.
_POOL: Final = (os.cpu_count() or 1) + 4
# Of the closed loop; at most so long.
_CLOSED_CHANGES: Final = 8
_CLOSED_S: Final = 120
_WARM_UP_S: Final = 2.0
# Until memory is given back.
_REST_S: Final = 6.0


@dataclass(frozen=True)
class Process:
    """The memory in MB, threads, and descriptors but for sockets (the clients' connections) of a process."""

    memory: float
    threads: int
    descriptors: int

    @classmethod
    def of(cls, server: Serving) -> "Process":
        """Look at a server's process."""
        status = Path(f"/proc/{server.pid}/status").read_text()
        numbers = {name: value.split()[0] for name, value in re.findall(r"(\w+):\s*(\d.*)", status)}
        descriptors = 0
        for entry in Path(f"/proc/{server.pid}/fd").iterdir():
            with suppress(OSError):
                descriptors += not os.readlink(entry).startswith("socket:")
        return cls(int(numbers["VmRSS"]) / 1024, int(numbers["Threads"]), descriptors)

    def __str__(self) -> str:
        return f"{self.memory:.0f} MB, {self.threads} threads, {self.descriptors} descriptors"


def wrong(answers: list[tuple[float, float, int]], changes: list[Change]) -> int:
    """Return how many answers are of no version that was ready between when they were sent and answered."""
    ready: dict[int, list[tuple[float, float]]] = {}
    for since, until, answer in changes:
        ready.setdefault(answer, []).append((since, until))
    return sum(
        not any(answered > since and sent < until for since, until in ready.get(answer, ()))
        for sent, answered, answer in answers
    )


async def measure(publisher: Publisher, server: Serving, given: argparse.Namespace, side: int) -> bool:
    """Measure both loops; return whether all bounds hold."""
    name = given.model.name

    def clients() -> Eight:
        return Eight(server.grpc, server.http, name, side)

    peak = await _peak(clients(), given.seconds / 3)
    rate = given.share * peak
    load, over = clients(), asyncio.Event()
    running = asyncio.create_task(load.run(over, rate))
    await asyncio.sleep(_WARM_UP_S + given.seconds)
    before, began = Process.of(server), time.monotonic()
    await publisher.run(server.grpc, load.ask, lambda: publisher.taken >= given.changes)
    ended = time.monotonic()
    await asyncio.sleep(_REST_S)
    after = Process.of(server)
    over.set()
    await running
    alone, beside = load.p99_ms(began - given.seconds, began), load.p99_ms(began, ended)
    failed, wrongly = len(load.failures), wrong(load.answers, publisher.changes)
    print(f"peak of {CLIENTS} clients {peak:.0f}/s; open loop at {rate:.0f}/s, {len(load.answers)} answers")
    print(f"{publisher.taken} changes in {ended - began:.0f} s: {failed} requests failed, {wrongly} answered wrongly")
    print(f"p99 {alone:.1f} ms before, {beside:.1f} ms beside changes: {beside / alone:.2f} times")
    print(f"before: {before}\nafter: {after}", *load.failures[:3], sep="\n", flush=True)
    good = not failed and not wrongly and beside <= _MOST * alone and after.memory <= before.memory + _MOST_MB
    good = good and after.threads <= before.threads + _POOL and after.descriptors <= before.descriptors
    return await _closed(publisher, server, clients()) and good


async def _closed(publisher: Publisher, server: Serving, load: Eight) -> bool:
    """Change the model beside a closed loop; return whether changes were taken, and no request failed."""
    over, taken, began = asyncio.Event(), publisher.taken, time.monotonic()
    running = asyncio.create_task(load.run(over))

    def until() -> bool:
        return publisher.taken - taken >= _CLOSED_CHANGES or time.monotonic() > began + _CLOSED_S

    await publisher.run(server.grpc, load.ask, until)
    seconds = time.monotonic() - began
    over.set()
    await running
    count, failed, wrongly = publisher.taken - taken, len(load.failures), wrong(load.answers, publisher.changes)
    told = f"{count} changes in {seconds:.0f} s, {failed} requests failed, {wrongly} answered wrongly"
    print(f"closed loop at {len(load.answers) / seconds:.0f}/s: {told}", *load.failures[:3], sep="\n", flush=True)
    return count >= _CLOSED_CHANGES and not failed and not wrongly


async def _peak(load: Eight, seconds: float) -> float:
    """Return the answers a second of a closed loop."""
    over, began = asyncio.Event(), time.monotonic()
    running = asyncio.create_task(load.run(over))
    await asyncio.sleep(_WARM_UP_S + seconds)
    over.set()
    await running
    return sum(sent >= began + _WARM_UP_S for sent, _, _ in load.answers) / seconds


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=30, help="measured time before the changes")
    parser.add_argument("--share", type=float, default=0.6)
    given = parser.parse_args()
    source = max((entry for entry in given.model.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    side = parse_manifest((source / MANIFEST).read_bytes()).input.width
    with tempfile.TemporaryDirectory(prefix="reloads-") as folder:
        repository, staged = Path(folder) / "models", Path(folder) / "staged"
        (repository / given.model.name).mkdir(parents=True)
        publisher = Publisher(source, staged, repository / given.model.name)
        flags = ("--control-mode", "poll", "--poll-interval-s", "0.5", "--cache-dir", str(Path(folder) / "cache"))
        with serving(repository, *flags) as server:
            return 0 if asyncio.run(measure(publisher, server, given, side)) else 1


if __name__ == "__main__":
    sys.exit(main())
