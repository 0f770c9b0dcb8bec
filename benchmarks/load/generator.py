"""Load generators: perf_analyzer where it is installed, for tensors without a deadline, else `resonnx bench`.

perf_analyzer (C++) takes less processor time than Python on the cores that the server needs: at p99 it sends 1.5 ms
late beside a busy server, `resonnx bench` 2 to 3 ms. It knows neither pictures nor deadlines. For an open loop it gets
the schedule of `resonnx bench`, and latency is counted from when a request was due, not from when it was sent.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from resonnx.bench.schedule import poisson
from resonnx.bench.search import RateSearch
from resonnx.bench.summary import percentile

# perf_analyzer reports the mean of three windows; asked for stability it might go on for ever on a busy machine.
_WINDOWS = 3
_WARM_UP_S = 1.0
# How long an open loop goes on after what is measured, so that answers arrive; one that is not there then never came.
_PATIENCE_S = 1.0
# Where a search begins, as `resonnx bench` does it: a share of the throughput of a closed loop.
_FIRST_SHARE = 0.7
# Longer than any block under load.
_ENDLESS_S = 600


@dataclass(frozen=True)
class Outcome:
    """Answers in time a second, and times in ms.

    Attributes:
        p50_ms: None where nothing was answered.
        p99_ms: Of all requests, one without an answer in time counting as endless; None where that is endless.
        lag_p99_ms: How late the generator itself was: an open loop's times include it.
    """

    rate: float
    p50_ms: float | None
    p99_ms: float | None
    refused_p99_ms: float | None = None
    lag_p99_ms: float | None = None


@dataclass(frozen=True)
class Generator:
    """Sends load to 127.0.0.1.

    Attributes:
        perf_analyzer: The program, or None.
        seconds: Measured time of a run.
    """

    perf_analyzer: Path | None
    seconds: float

    @property
    def name(self) -> str:
        """Who sends tensors."""
        return "perf_analyzer" if self.perf_analyzer else "resonnx bench"

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
        """Run a closed loop of `concurrency` callers, which send `files`, or tensors if there are none.

        Args:
            server: HOST:PORT.
            model: Name of the model.
            concurrency: Number of callers.
            stream: Send requests over streams.
            apart: Give each caller its own connection.
            files: Picture files.
        """
        if self.perf_analyzer and not files:
            return self._analyze(self.perf_analyzer, server, model, concurrency, stream, apart)
        flags = ["--concurrency", str(concurrency), *(["--stream"] if stream else [])]
        flags += ["--connections", str(concurrency)] if apart else []
        return _outcome(self.bench(server, model, *flags, files=files)["runs"][0])

    def open(
        self, server: str, model: str, rate: float, *, deadline_ms: float | None = None, files: Sequence[Path] = ()
    ) -> Outcome:
        """Run an open loop with Poisson arrivals at `rate` requests per second."""
        if self.perf_analyzer and not files and not deadline_ms:
            found = self._analyze_open(self.perf_analyzer, server, model, rate)
        else:
            deadline = ["--deadline-ms", str(deadline_ms)] if deadline_ms else []
            found = _outcome(self.bench(server, model, "--rate", str(rate), *deadline, files=files)["runs"][0])
        p50, p99, lag = map(_formatted, (found.p50_ms, found.p99_ms, found.lag_p99_ms))
        times = f"p50 {p50}, p99 {p99}, sent {lag} late at p99"
        print(f"  {model} at {rate:.1f}/s: {found.rate:.1f}/s, {times}", file=sys.stderr, flush=True)
        return found

    def highest_rate(self, server: str, model: str, p99_ms: float, concurrency: int) -> float:
        """Search for the highest rate of an open loop of tensors that keeps p99; 0.0 if none that was tried does.

        Args:
            server: HOST:PORT.
            model: Name of the model.
            p99_ms: The bound, over all requests.
            concurrency: Callers of the closed loop whose rate starts the search.
        """
        if not self.perf_analyzer:
            flags = ("--search-p99-ms", f"{p99_ms:.3f}", "--concurrency", str(concurrency))
            return float(self.bench(server, model, *flags)["highest_rate"] or 0.0)
        search = RateSearch(_FIRST_SHARE * self.closed(server, model, concurrency).rate)
        while (rate := search.propose()) is not None:
            found = self.open(server, model, rate).p99_ms
            search.record(found is not None and found <= p99_ms)
        return search.best or 0.0

    @contextmanager
    def loading(self, server: str, model: str, concurrency: int, *, stream: bool = False) -> Iterator[int]:
        """Keep a closed loop of tensors going until the block ends. Gives the sender's process id."""
        if self.perf_analyzer:
            command = _analyzer(self.perf_analyzer, server, model, *_callers(concurrency, stream))
            command += ["-p", str(_ENDLESS_S * 1000), "-r", "1"]
        else:
            command = [*_BENCH, "--server", server, "--model", model, "--input", "tensor"]
            command += ["--concurrency", str(concurrency), "--duration", str(_ENDLESS_S)]
            command += ["--stream"] if stream else []
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                yield process.pid
            finally:
                process.kill()

    def bench(self, server: str, model: str, *flags: str, files: Sequence[Path] = ()) -> dict[str, Any]:
        """Run `resonnx bench` and return its JSON. Raises RuntimeError if requests failed."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.json"
            target = ["--server", server, "--model", model, *(map(str, files) if files else ["--input", "tensor"])]
            times = ["--duration", str(self.seconds), "--warmup", str(_WARM_UP_S), "--json", str(out)]
            done = subprocess.run([*_BENCH, *target, *times, *flags], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"resonnx bench {' '.join(flags)}: {done.stderr}{done.stdout}")
            content: dict[str, Any] = json.loads(out.read_text())
            return content

    def _analyze(self, program: Path, server: str, model: str, concurrency: int, stream: bool, apart: bool) -> Outcome:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.csv"
            window_ms = int(self.seconds * 1000 / _WINDOWS)
            # Three windows, however much they differ.
            times = ["-p", str(window_ms), "-r", str(_WINDOWS), "-s", "1000", "-f", str(out)]
            environment = {**os.environ, **({"TRITON_CLIENT_GRPC_CHANNEL_MAX_SHARE_COUNT": "1"} if apart else {})}
            command = [*_analyzer(program, server, model, *_callers(concurrency, stream)), *times]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode or not out.exists():
                raise RuntimeError(f"perf_analyzer: {(done.stderr or done.stdout)[-1000:]}")
            (row,) = csv.DictReader(out.read_text().splitlines())
        return Outcome(
            float(row["Inferences/Second"]), float(row["p50 latency"]) / 1e3, float(row["p99 latency"]) / 1e3
        )

    def _analyze_open(self, program: Path, server: str, model: str, rate: float) -> Outcome:
        end_s = _WARM_UP_S + self.seconds
        # perf_analyzer takes whole microseconds between requests, and begins anew where its list ends.
        due_us = [round(due * 1e6) for due in poisson(rate, 2 * (end_s + _PATIENCE_S), seed=0)]
        with tempfile.TemporaryDirectory() as folder:
            out, gaps = Path(folder) / "out.json", Path(folder) / "gaps.txt"
            gaps.write_text("".join(f"{then - now}\n" for now, then in pairwise([0, *due_us])))
            # One window; that a single one cannot be stable is no failure.
            times = ["-p", str(round((end_s + _PATIENCE_S) * 1000)), "-r", "1", "--profile-export-file", str(out)]
            command = _analyzer(program, server, model, "--request-intervals", str(gaps), *times)
            done = subprocess.run(command, capture_output=True, text=True)
            if not out.exists():
                raise RuntimeError(f"perf_analyzer: {(done.stderr or done.stdout)[-1000:]}")
            (run,) = json.loads(out.read_text())["experiments"]
        calls = [(call["timestamp"], call["response_timestamps"][0]) for call in run["requests"]]
        return _from_due([due / 1e6 for due in due_us], calls, self.seconds)


def find_perf_analyzer(given: Path | None) -> Path | None:
    """Return the program that was given or is on PATH."""
    found = str(given) if given else shutil.which("perf_analyzer")
    return Path(found) if found else None


_BENCH = [sys.executable, "-c", "from resonnx.cli import main; main()", "bench"]


def _analyzer(program: Path, server: str, model: str, *flags: str) -> list[str]:
    return [str(program), "-u", server, "-i", "grpc", "-m", model, "--input-data", "random", "--async", *flags]


def _callers(concurrency: int, stream: bool) -> list[str]:
    return ["--concurrency-range", f"{concurrency}:{concurrency}", *(["--streaming"] if stream else [])]


def _from_due(due_s: Sequence[float], calls: Sequence[tuple[int, int]], seconds: float) -> Outcome:
    """Count latency from when requests were due.

    Args:
        due_s: Scheduled time from the start; not in the output.
        calls: When each was sent and answered, in ns of some clock; those without an answer are left out.
        seconds: Measured, after the warm-up.
    """
    if not calls:
        raise RuntimeError("perf_analyzer: no answer")
    calls = sorted(calls)
    # None was sent before it was due: the one that was least late tells when the schedule began.
    start_s = min(sent / 1e9 - due for due, (sent, _) in zip(due_s, calls, strict=False))
    waited, lags, missing = [], [], 0
    for number, due in enumerate(due_s):
        if not _WARM_UP_S <= due < _WARM_UP_S + seconds:
            continue
        if number >= len(calls):
            missing += 1
            continue
        sent, answered = calls[number]
        lags.append(sent / 1e9 - start_s - due)
        waited.append(answered / 1e9 - start_s - due)
    waited.sort()
    rate = len(waited) / seconds
    p50_ms, p99_ms = (_ms(percentile(waited, share, endless=missing)) for share in (0.5, 0.99))
    return Outcome(rate, p50_ms, p99_ms, lag_p99_ms=_ms(percentile(sorted(lags), 0.99)))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _formatted(ms: float | None) -> str:
    return "endless" if ms is None else f"{ms:.1f} ms"


def _outcome(run: dict[str, Any]) -> Outcome:
    return Outcome(run["per_s"], run["p50_ms"], run["p99_all_ms"], run["refused_p99_ms"], run["lag_p99_ms"])
