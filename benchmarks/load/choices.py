"""Which sessions a server chooses at load, over many starts without a cache, and how much slower than the best.

    PYTHONPATH=benchmarks python benchmarks/load/choices.py [--starts 20] [--models small,resnet50_int8] [--json FILE]

Each start is one of the real server. Afterwards a reference is measured in this process: all candidates in turns, more
of them than any start takes. A choice's loss is the median of its time over the best candidate's in the same turns: for
a row of batches of 1 and 8, as many at once as it chose (throughput), and for a batch of one row alone (latency). All
cores must be 1.15 times as fast as a share of them to be chosen for latency: with that factor, latency is weighed.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np
from load.server_process import HUGE_PAGES, SOURCES
from random_models.classifiers import repository
from reports.machine import machine
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.repository.choosing.turns import Callers, Run
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.model_files.manifest import read_version
from resonnx_server.runtime.session import CPU, Candidate, Session
from rich.console import Console
from rich.table import Table

_BATCHES: Final = (1, 8)
_WORTH_MORE_THREADS: Final = 1.15


class Choice(NamedTuple):
    """What a start chose: concurrent batches, and threads of a batch alone, spinning or not."""

    instances: int
    threads_alone: int
    spinning_alone: bool

    def __str__(self) -> str:
        alone = f"{self.threads_alone} threads{', spinning' * self.spinning_alone}"
        return f"{self.instances} at once; alone {alone}"


def start(models: Path, checkout: Path | None) -> tuple[Choice, float, bool]:
    """Start without a cache, with the only model in `models`.

    Returns:
        What was chosen, the seconds until it was ready, and whether it will be measured again.

    Raises:
        RuntimeError: It does not start.
    """
    sources = [] if checkout is None else [("PYTHONPATH", os.pathsep.join(str(checkout / name) for name in SOURCES))]
    command = [sys.executable, "-m", "resonnx_server", "--repository", str(models), "--port", "0", "--http-port", "0"]
    command += ["--cache-dir", "none", "--provider", "cpu", "--log-format", "json", "--drain-delay-s", "0"]
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        variables = {**HUGE_PAGES, **os.environ, **dict(sources)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables) as process:
            assert process.stdout is not None
            is_ready = re.search(r"\bready\b", process.stdout.readline())
            seconds = time.perf_counter() - began
            process.terminate()
        log.seek(0)
        lines = [json.loads(line) for line in log if line.startswith("{")]
    chosen = [line for line in lines if "threads_alone" in line]
    if not is_ready or not chosen:
        raise RuntimeError("the server did not start, or has chosen nothing")
    (line,) = chosen
    is_doubtful = any("measured again" in line.get("state", "") for line in lines)
    return Choice(line["instances"], line["threads_alone"], line["spinning_alone"]), seconds, is_doubtful


class Reference:
    """Times of all candidates, measured in turns.

    Args:
        version: The version's folder.
    """

    def __init__(self, version: Path) -> None:
        file = read_version(version).files["model.onnx"]
        cores, candidate = usable_cores(), Candidate(CPU, _precision(version))
        self._throughput = {
            count: Session(file, candidate, cores // count)
            for count in range(1, min(cores, 8) + 1)
            if cores % count == 0
        }
        self._latency = {(each.threads, False): each for each in self._throughput.values()}
        self._latency[cores, True] = Session(file, candidate, cores, spinning=True)

    def measure(self, turns: int, longest_s: float) -> None:
        """Run all candidates in turns, for so many or so long, at least ten."""
        self.throughput = _in_turns(self._throughput, _BATCHES, lambda count: count, turns, longest_s)
        self.latency = _in_turns(self._latency, (1,), lambda _: 1, turns, longest_s)

    def losses(self, choice: Choice) -> tuple[float, float, float]:
        """Return a choice's losses: of throughput, of latency, and of latency as the server weighs it."""
        throughput = _loss(self.throughput, choice.instances)
        alone = choice.threads_alone, choice.spinning_alone
        share = usable_cores() // choice.instances
        weighed = {key: scores + np.log(_WORTH_MORE_THREADS) * (key[0] > share) for key, scores in self.latency.items()}
        # The others are no candidates beside these concurrent batches.
        weighed = {key: weighed[key] for key in ((share, False), (usable_cores(), True))}
        return throughput, _loss(self.latency, alone), _loss(weighed, alone)


def _precision(version: Path) -> pb.Precision:
    manifest = read_version(version).manifest
    return manifest.stored.get("model.onnx", pb.PRECISION_FP32)


def _in_turns(
    sessions: dict[Any, Session], sizes: tuple[int, ...], callers: Any, turns: int, longest_s: float
) -> dict[Any, np.ndarray]:
    """Return the scores of each candidate, by turn."""
    (spec,) = next(iter(sessions.values())).inputs
    shape = [max(sizes), *(int(axis or 1) for axis in spec.shape[1:])]
    pictures = np.frombuffer(np.random.default_rng(0).bytes(math.prod(shape)), np.uint8).reshape(shape)

    def run(session: Session, rows: int) -> object:
        return session.run({spec.name: pictures[:rows]})

    scores: dict[Any, list[float]] = {key: [] for key in sessions}
    with ExitStack() as stack:
        threads = {key: stack.enter_context(Callers(callers(key))) for key in sessions}
        runs = {key: Run(partial(run, session), sizes, callers(key)) for key, session in sessions.items()}
        began = time.perf_counter()
        for turn in range(turns + 2):
            if turn >= 12 and time.perf_counter() - began > longest_s:
                break
            for key in [*sessions][:: -1 if turn % 2 else 1]:
                score = runs[key].score(threads[key])
                if turn >= 2:
                    scores[key].append(score)
    return {key: np.array(values) for key, values in scores.items()}


def _loss(scores: dict[Any, np.ndarray], chosen: Any) -> float:
    return float(max(np.exp(np.median(scores[chosen] - other)) for other in scores.values()) - 1)


def measured(name: str, starts: int, checkout: Path | None, turns: int, longest_s: float) -> Iterator[dict[str, Any]]:
    """Yield each choice of a model with its number of starts, its losses and the seconds of its starts."""
    source = repository((name,)) / name
    found: dict[Choice, list[tuple[float, bool]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).symlink_to(source.resolve())
        for number in range(starts):
            choice, seconds, is_doubtful = start(Path(folder), checkout)
            found.setdefault(choice, []).append((seconds, is_doubtful))
            told = f"{choice}, ready after {seconds:.2f} s{', doubtful' * is_doubtful}"
            print(f"{name}, start {number + 1}: {told}", file=sys.stderr, flush=True)
    reference = Reference(source / "1")
    reference.measure(turns, longest_s)
    for choice, starts_of_it in sorted(found.items(), key=lambda item: -len(item[1])):
        throughput, latency, weighed = reference.losses(choice)
        figures = {"throughput": throughput, "latency": latency, "latency_weighed": weighed}
        times = [each for each, _ in starts_of_it]
        doubtful = sum(each for _, each in starts_of_it)
        counts = {"starts": len(times), "doubtful": doubtful}
        yield {"model": name, "choice": str(choice), **counts, "seconds": times, **figures}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table("model", "choice", "starts", "doubtful", "ready after s", "throughput", "latency", "latency, weighed")
    for row in rows:
        losses = [f"{100 * row[name]:+.1f} %" for name in ("throughput", "latency", "latency_weighed")]
        table.add_row(
            row["model"],
            row["choice"],
            str(row["starts"]),
            str(row["doubtful"]),
            f"{median(row['seconds']):.2f}",
            *losses,
        )
    Console(width=120).print("time beyond that of the best candidate:", table)


def main() -> None:
    """Start, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--models", default="small,small_int8,resnet50_int8")
    parser.add_argument("--turns", type=int, default=1000, help="of the reference")
    parser.add_argument("--reference-s", type=float, default=20.0, help="longest time of each of its two parts")
    parser.add_argument("--checkout", type=Path, help="another version of this project, whose server starts")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [
        row
        for name in given.models.split(",")
        for row in measured(name, given.starts, given.checkout, given.turns, given.reference_s)
    ]
    show(rows)
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
