"""Runs graphs in one runtime on behalf of `providers.py`, in the environment of that runtime.

Reads one JSON object a line and answers each with one: {"open": FILE, "precision": NAME, "threads": N} with the time of
opening in ms; {"rows": N, "seconds": S} with the median times of a run of the graph opened last, in ms; {} with
the resident memory in MB.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
Run = Callable[[Feeds], object]
# A graph's inputs (name, type, shape without rows), and what runs it.
Opened = tuple[list[tuple[str, str, list[int]]], Run]

_WARM_RUNS: Final = 2
_PRECISIONS: Final = {"fp32": "f32", "bf16": "bf16"}


def _session(provider: str) -> Callable[[Path, str, int], Opened]:
    """Return what opens a graph as the server does."""

    def opened(file: Path, precision: str, threads: int) -> Opened:
        # The environment of OpenVINO's own runtime lacks these.
        from resonnx_proto.v1 import manifest_pb2 as pb
        from resonnx_server.runtime.session import Candidate, Session

        names = {"fp32": pb.PRECISION_FP32, "bf16": pb.PRECISION_BF16, "int8": pb.PRECISION_INT8}
        session = Session(file.read_bytes(), Candidate(provider, names[precision]), threads)
        inputs = [(spec.name, spec.dtype.name, [int(size or 1) for size in spec.shape[1:]]) for spec in session.inputs]
        return inputs, session.run

    return opened


def _openvino(file: Path, precision: str, threads: int) -> Opened:
    openvino = importlib.import_module("openvino")
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    if precision in _PRECISIONS:
        options["INFERENCE_PRECISION_HINT"] = _PRECISIONS[precision]
    model = openvino.Core().compile_model(str(file), "CPU", options)
    inputs = [
        (
            node.any_name,
            np.dtype(node.element_type.to_dtype()).name,
            [size.get_length() for size in list(node.partial_shape)[1:]],
        )
        for node in model.inputs
    ]
    request = model.create_infer_request()
    # Copies in and out, as ONNX Runtime's sessions do.
    return inputs, lambda feeds: request.infer(dict(feeds))


def _feeds(inputs: list[tuple[str, str, list[int]]], rows: int) -> Feeds:
    rng = np.random.default_rng(0)
    made: dict[str, Callable[[tuple[int, ...]], Array]] = {
        "uint8": lambda shape: rng.integers(0, 256, shape, np.uint8),
        # Words that every vocabulary has.
        "int64": lambda shape: rng.integers(0, 4, shape, np.int64),
        "float32": lambda shape: rng.standard_normal(shape, np.float32),
    }
    return {name: made[kind]((rows, *shape)) for name, kind, shape in inputs}


def _timed(run: Run, feeds: Feeds, seconds: float) -> dict[str, float]:
    for _ in range(_WARM_RUNS):
        run(feeds)
    walls: list[float] = []
    spent: list[float] = []
    start = time.perf_counter()
    while not walls or time.perf_counter() < start + seconds:
        wall, processor = time.perf_counter(), time.process_time()
        run(feeds)
        walls.append(1e3 * (time.perf_counter() - wall))
        # Of all threads, those of the runtime's pool too.
        spent.append(1e3 * (time.process_time() - processor))
    return {"wall ms": median(walls), "processor ms": median(spent)}


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def main() -> None:
    """Answer until the input ends. Argument: "openvino" for its own runtime, or a provider of ONNX Runtime."""
    kind = sys.argv[1]
    opening = _openvino if kind == "openvino" else _session(kind)
    opened: Opened | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any] = {"resident MB": _resident_mb()}
        try:
            if "open" in asked:
                opened, start = None, time.perf_counter()
                opened = opening(Path(asked["open"]), asked["precision"], asked["threads"])
                answer = {"open ms": 1e3 * (time.perf_counter() - start)}
            elif asked:
                assert opened is not None
                answer = _timed(opened[1], _feeds(opened[0], asked["rows"]), asked["seconds"])
        except Exception as error:  # a runtime that refuses is a result; their exceptions share no base class
            answer = {"refused": (str(error).strip().splitlines() or [type(error).__name__])[0]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    main()
