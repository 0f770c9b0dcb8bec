"""Measures how fast the exported graphs run here, on each provider that agrees with the golden examples.

One caller at a time on all cores: what a batch takes, not what a server reaches. A few seconds for a ResNet-50.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import numpy as np
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.graphs import IMAGE, CaptionerGraphs
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.model_files.golden_examples import Golden
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, onnx_files
from resonnx_server.runtime.pictures.images import Pixels

from resonnx_export.proof import hardware
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.providers import Graphs, judge_everywhere

PICTURE_BATCHES: Final = (1, 8)
# Rows of a decoder step cost next to nothing each, so larger steps are usual.
STEP_BATCHES: Final = (1, 16)
# A batch size is run until this has passed, but so often at least and at most.
_ENOUGH_NS: Final = 200_000_000
_LEAST_RUNS: Final = 3
_MOST_RUNS: Final = 100

Run = Callable[[], object]


def measure_speed(files: Mapping[str, bytes], manifest: pb.Manifest, golden: Golden) -> pb.SpeedReport:
    """Time a model's graphs.

    Args:
        files: Its ONNX files by name.
        manifest: Says what each may be computed in.
        golden: Pictures to run, and what the answers must be.

    Returns:
        One entry a file and candidate; of one that does not load or disagrees, why.

    Raises:
        ModelRefused: As judge_everywhere.
    """
    report = pb.SpeedReport(
        processor=hardware.processor(), accelerators=hardware.accelerators(), threads=usable_cores()
    )
    for file in onnx_files(manifest):
        for judged in judge_everywhere(files, manifest, file, golden):
            provider = report.providers.add(
                file=file, provider=judged.candidate.provider, precision=judged.candidate.precision
            )
            if judged.graphs is None or not judged.verdict.passed:
                provider.refused = judged.verdict.detail
                continue
            for rows in STEP_BATCHES if file == DECODER_FILE else PICTURE_BATCHES:
                run = _prepare(judged.graphs, file, manifest, golden.images, rows)
                provider.batches.append(_timed(run, rows))
    return report


def step_medians(graphs: CaptionerGraphs, manifest: pb.Manifest, images: Pixels) -> dict[int, float]:
    """Time the first decoder step of pictures uint8 [N,H,W,3], over and over where they are fewer.

    Returns:
        Median ms by rows, of STEP_BATCHES.
    """
    return {
        rows: _timed(_prepare(graphs, DECODER_FILE, manifest, images, rows), rows).median_ms for rows in STEP_BATCHES
    }


def times_as_fast(before: bytes, after: bytes, images: Pixels) -> dict[int, float]:
    """Compare two graphs of pictures on the CPU provider: how many times as fast the second is, by PICTURE_BATCHES.

    Args:
        before: An ONNX file with the input "image".
        after: Another.
        images: uint8 [N,H,W,3], over and over where they are fewer.
    """
    sessions = [open_session(model) for model in (before, after)]
    ratios = {}
    for rows in PICTURE_BATCHES:
        feeds = {IMAGE: np.resize(images, (rows, *images.shape[1:]))}
        taken = [_timed(partial(session.run, feeds), rows).median_ms for session in sessions]
        ratios[rows] = taken[0] / taken[1]
    return ratios


def _prepare(graphs: Graphs, file: str, manifest: pb.Manifest, images: Pixels, rows: int) -> Run:
    """Return what runs a file on a batch: of pictures, or of the first steps of their captions."""
    pictures = np.resize(images, (rows, *images.shape[1:]))
    if not isinstance(graphs, CaptionerGraphs):
        return lambda: graphs.run(pictures)
    if file != DECODER_FILE:
        return lambda: graphs.encode(pictures)
    state, features, first = graphs.encode(pictures)
    tokens = np.full(rows, manifest.captioner.start_id, np.int64) if first is None else first.argmax(axis=1)
    return lambda: graphs.step(tokens, state, features)


def _timed(run: Run, rows: int) -> pb.ProviderSpeed.Batch:
    """Run once unmeasured, for memory and kernels to be there, then often enough to tell the spread."""
    run()
    taken: list[int] = []
    while len(taken) < _LEAST_RUNS or (sum(taken) < _ENOUGH_NS and len(taken) < _MOST_RUNS):
        start = time.perf_counter_ns()
        run()
        taken.append(time.perf_counter_ns() - start)
    lower, median, upper = np.quantile(np.array(taken) / 1e6, (0.25, 0.5, 0.75)).tolist()
    return pb.ProviderSpeed.Batch(
        batch_size=rows, median_ms=median, lower_quartile_ms=lower, upper_quartile_ms=upper, runs=len(taken)
    )
