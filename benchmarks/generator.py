"""Who sends the load: perf_analyzer where it is to be had, for closed loops of tensors; else `resonnx bench`.

perf_analyzer (C++) costs the machine less, and is what the field measures with. It knows neither pictures nor
schedules that count from when a request was due: those are always `resonnx bench`'s.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# perf_analyzer reports the mean of three windows; asked for stability it might go on for ever on a busy machine.
_WINDOWS = 3


@dataclass(frozen=True)
class Outcome:
    """Answers in time a second, and times in ms (None where nothing was answered or refused)."""

    rate: float
    p50_ms: float | None
    p99_ms: float | None
    refused_p99_ms: float | None = None


@dataclass(frozen=True)
class Generator:
    """Sends load to 127.0.0.1.

    Attributes:
        perf_analyzer: The program, or None.
        seconds: Measured time of a run.
    """

    perf_analyzer: Path | None
    seconds: float

    def closed(
        self,
        server: str,
        model: str,
        concurrency: int,
        *,
        stream: bool = False,
        apart: bool = False,
        files: Sequence[Path] = (),
    ) -> Outcome:
        """Let so many callers each wait for its answer. Sends `files`, or tensors where none are given.

        Args:
            server: HOST:PORT.
            model: Its name.
            concurrency: Callers.
            stream: Pipeline over streams.
            apart: Each caller has a connection of its own.
            files: Pictures.
        """
        if self.perf_analyzer and not files:
            return self._analyze(self.perf_analyzer, server, model, concurrency, stream, apart)
        flags = ["--concurrency", str(concurrency), *(["--stream"] if stream else [])]
        flags += ["--connections", str(concurrency)] if apart else []
        return _outcome(self.bench(server, model, *flags, files=files)["runs"][0])

    def open(
        self, server: str, model: str, rate: float, *, deadline_ms: float | None = None, files: Sequence[Path] = ()
    ) -> Outcome:
        """Offer so many requests a second, come what may."""
        deadline = ["--deadline-ms", str(deadline_ms)] if deadline_ms else []
        return _outcome(self.bench(server, model, "--rate", str(rate), *deadline, files=files)["runs"][0])

    def bench(self, server: str, model: str, *flags: str, files: Sequence[Path] = ()) -> dict[str, Any]:
        """Run `resonnx bench` and return what it writes. Raises RuntimeError where requests failed."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.json"
            program = [sys.executable, "-c", "from resonnx.cli import main; main()", "bench"]
            target = ["--server", server, "--model", model, *(map(str, files) if files else ["--input", "tensor"])]
            times = ["--duration", str(self.seconds), "--warmup", "1", "--json", str(out)]
            done = subprocess.run([*program, *target, *times, *flags], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"resonnx bench {' '.join(flags)}: {done.stderr}{done.stdout}")
            content: dict[str, Any] = json.loads(out.read_text())
            return content

    def _analyze(self, program: Path, server: str, model: str, concurrency: int, stream: bool, apart: bool) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.csv"
            window_ms = int(self.seconds * 1000 / _WINDOWS)
            target = ["-u", server, "-i", "grpc", "-m", model, "--input-data", "random", "--async"]
            load = ["--concurrency-range", f"{concurrency}:{concurrency}", *(["--streaming"] if stream else [])]
            # Three windows, however much they differ.
            times = ["-p", str(window_ms), "-r", str(_WINDOWS), "-s", "1000", "-f", str(out)]
            environment = {**os.environ, **({"TRITON_CLIENT_GRPC_CHANNEL_MAX_SHARE_COUNT": "1"} if apart else {})}
            command = [str(program), *target, *load, *times]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode or not out.exists():
                raise RuntimeError(f"perf_analyzer: {(done.stderr or done.stdout)[-1000:]}")
            (row,) = csv.DictReader(out.read_text().splitlines())
        return Outcome(
            float(row["Inferences/Second"]), float(row["p50 latency"]) / 1e3, float(row["p99 latency"]) / 1e3
        )


def find_perf_analyzer(given: Path | None) -> Path | None:
    """Return the program that was given or is on PATH."""
    found = str(given) if given else shutil.which("perf_analyzer")
    return Path(found) if found else None


def _outcome(run: dict[str, Any]) -> Outcome:
    return Outcome(run["per_s"], run["p50_ms"], run["p99_ms"], run["refused_p99_ms"])
