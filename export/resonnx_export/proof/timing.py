"""Times the exported graphs: one batch at a time on all cores, without a server."""

import time
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.graphs import IMAGE, CaptionerGraphs
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.proof.parity import open_session

PICTURE_BATCHES: Final = (1, 8)
# Additional rows of a decoder step take little time, so larger steps are usual.
STEP_BATCHES: Final = (1, 16)
# A batch size is run for this time, within these numbers of runs.
_MEASURING_NS: Final = 200_000_000
_LEAST_RUNS: Final = 3
_MOST_RUNS: Final = 100

Run = Callable[[], object]


def timed(run: Run, rows: int) -> pb.ProviderSpeed.Batch:
    """Run once to warm up, then time repeated runs of a batch of `rows` rows."""
    run()
    taken: list[int] = []
    while len(taken) < _LEAST_RUNS or (sum(taken) < _MEASURING_NS and len(taken) < _MOST_RUNS):
        taken.append(_once(run))
    lower, median, upper = np.quantile(np.array(taken) / 1e6, (0.25, 0.5, 0.75)).tolist()
    return pb.ProviderSpeed.Batch(
        batch_size=rows, median_ms=median, lower_quartile_ms=lower, upper_quartile_ms=upper, runs=len(taken)
    )


def repeated(images: Pixels, rows: int) -> Pixels:
    """Return a batch of `rows` pictures, repeating uint8 [N,H,W,3] where there are fewer."""
    return np.resize(images, (rows, *images.shape[1:]))


def step_run(graphs: CaptionerGraphs, spec: pb.CaptionerSpec, pictures: Pixels) -> Run:
    """Encode pictures uint8 [R,H,W,3], and return a function that runs the first decoder step of their captions."""
    state, features, first = graphs.encode(pictures)
    tokens = np.full(len(pictures), spec.start_id, np.int64) if first is None else first.argmax(axis=1)
    return lambda: graphs.step(tokens, state, features)


def step_medians(graphs: CaptionerGraphs, spec: pb.CaptionerSpec, images: Pixels) -> dict[int, float]:
    """Return the median ms of a decoder step by rows, of STEP_BATCHES."""
    return {rows: timed(step_run(graphs, spec, repeated(images, rows)), rows).median_ms for rows in STEP_BATCHES}


def speedups(before: bytes, after: bytes, images: Pixels) -> dict[int, float]:
    """Return how many times as fast as the ONNX file `before` the file `after` is on the CPU, by PICTURE_BATCHES.

    They run in turns, so that other load affects both; the median of the turns' ratios.
    """
    sessions = [open_session(model) for model in (before, after)]
    ratios = {}
    for rows in PICTURE_BATCHES:
        runs = [partial(session.run, {IMAGE: repeated(images, rows)}) for session in sessions]
        for run in runs:
            run()
        turns: list[tuple[int, int]] = []
        while len(turns) < _LEAST_RUNS or (sum(map(sum, turns)) < 2 * _MEASURING_NS and len(turns) < _MOST_RUNS):
            turns.append((_once(runs[0]), _once(runs[1])))
        ratios[rows] = float(np.median([slow / fast for slow, fast in turns]))
    return ratios


def _once(run: Run) -> int:
    """Return the duration of a run, in ns."""
    start = time.perf_counter_ns()
    run()
    return time.perf_counter_ns() - start
