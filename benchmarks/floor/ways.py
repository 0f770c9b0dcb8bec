"""The floor: the throughput of ONNX Runtime alone in one process.

    python benchmarks/floor/ways.py FILE --provider CPUExecutionProvider --precision fp32

measures every way of using the cores (batch x callers x threads of a run x spinning) in rows per second; the best is
the floor. Inputs are random, all outputs are fetched, and sessions are otherwise opened as the server does.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.providers.openvino import add_openvino
from resonnx_server.runtime.session import CPU, OPENVINO, Array

_BATCHES = (1, 2, 4, 8, 16, 32)
_GPU_BATCHES = (1, 4, 8, 16, 32, 64)
# Unmeasured runs of each caller: allocations, first shapes.
_WARM_RUNS = 2


@dataclass(frozen=True)
class Way:
    """One way of using a machine.

    Attributes:
        batch: Rows of a run.
        callers: Threads that call `run` at once.
        threads: Threads that one run is spread over.
        spin: Whether idle threads of the pool wait by spinning.
    """

    batch: int
    callers: int
    threads: int
    spin: bool


@dataclass(frozen=True)
class Measured:
    """A way's throughput in rows per second, median run time in ms, and processor time in microseconds per row."""

    way: Way
    rate: float
    run_ms: float
    row_us: float


def measure(
    file: Path, provider: str, precision: str, ways: Iterable[Way], seconds: float, pause_ms: float = 0.0
) -> list[Measured]:
    """Measure the ways in a new process, so that no thread pool outlives them.

    `pause_ms` is how long each caller sleeps before a run; it does not count as the run's.
    """
    arguments = [str(file), "--provider", provider, "--precision", precision, "--seconds", str(seconds)]
    arguments += ["--pause-ms", str(pause_ms)]
    given = json.dumps([asdict(way) for way in ways])
    command = [sys.executable, __file__, *arguments, "--ways", given]
    # Huge pages, as servers have them (load/server_process.py).
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [Measured(**{**line, "way": Way(**line["way"])}) for line in lines]


def all_ways(provider: str, cores: int) -> list[Way]:
    """Return the ways worth trying; with OpenVINO, `callers` are also its streams."""
    if provider not in (CPU, OPENVINO):
        return [Way(batch, callers, 1, False) for callers in (1, 2) for batch in _GPU_BATCHES]
    spread = [(1, cores, False), (1, cores, True), (cores, cores, False)]
    layouts = [(1, 1, False)] if cores == 1 else [(cores, 1, False), *spread]
    return [Way(batch, *layout) for layout in layouts for batch in _BATCHES]


def single_ways(provider: str, cores: int) -> list[Way]:
    """Return the ways for the latency of a single picture."""
    return [way for way in all_ways(provider, cores) if way.batch == 1 and way.callers == 1]


def _open(model: bytes, provider: str, precision: str, way: Way) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = way.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(way.spin)))
    named: list[tuple[str, dict[str, str]]] = []
    if provider == OPENVINO:
        cpu = {"INFERENCE_NUM_THREADS": str(way.callers * way.threads), "NUM_STREAMS": str(way.callers)}
        if precision in ("fp32", "bf16"):
            cpu["INFERENCE_PRECISION_HINT"] = "f32" if precision == "fp32" else "bf16"
        add_openvino(options, named, {"load_config": json.dumps({"CPU": cpu})})
        return ort.InferenceSession(model, options, providers=named or None)
    named.append((CPU, {}))
    if provider != CPU:
        tf32 = {"use_tf32": str(int(precision == "tf32"))} if "CUDA" in provider else {}
        named.insert(0, (provider, tf32))
    return ort.InferenceSession(model, options, providers=named)


def _feeds(session: ort.InferenceSession, rows: int) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for node in session.get_inputs():
        shape = (rows, *node.shape[1:])
        if node.type == "tensor(uint8)":
            feeds[node.name] = rng.integers(0, 256, shape, np.uint8)
        else:
            feeds[node.name] = rng.standard_normal(shape, np.float32)
    return feeds


def _run_way(session: ort.InferenceSession, way: Way, seconds: float, pause_s: float) -> Measured:
    """Run all callers concurrently; counts whole runs over the time they took."""
    feeds = _feeds(session, way.batch)
    start = threading.Barrier(way.callers + 1)
    rates, times = [], []

    def caller() -> None:
        for _ in range(_WARM_RUNS):
            session.run(None, feeds)
        start.wait()
        mine = []
        begin = now = time.perf_counter()
        while now < begin + seconds:
            before = now
            if pause_s:
                time.sleep(pause_s)
                before = time.perf_counter()
            session.run(None, feeds)
            now = time.perf_counter()
            mine.append(now - before)
        rates.append(len(mine) * way.batch / (now - begin))
        times.extend(mine)

    threads = [threading.Thread(target=caller) for _ in range(way.callers)]
    for thread in threads:
        thread.start()
    start.wait()
    # Of all threads, those of the runtime's pool too.
    before = time.process_time()
    for thread in threads:
        thread.join()
    row_us = (time.process_time() - before) * 1e6 / (len(times) * way.batch)
    return Measured(way, sum(rates), statistics.median(times) * 1e3, row_us)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the ways and print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--provider", default=CPU)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each way")
    parser.add_argument("--pause-ms", type=float, default=0.0, help="sleep before each run")
    parser.add_argument("--ways", help="JSON list of ways (all that make sense here)")
    given = parser.parse_args(arguments)
    ways = [Way(**way) for way in json.loads(given.ways)] if given.ways else all_ways(given.provider, usable_cores())
    model = given.file.read_bytes()
    opened: dict[Any, ort.InferenceSession] = {}
    for way in ways:
        layout = (way.callers, way.threads, way.spin)
        if layout not in opened:
            opened.clear()
            opened[layout] = _open(model, given.provider, given.precision, way)
        print(json.dumps(asdict(_run_way(opened[layout], way, given.seconds, given.pause_ms / 1e3))), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    main()
