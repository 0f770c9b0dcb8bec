"""Chooses provider and precision by measurement: of those that agree with the golden examples, the fastest."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.golden import Verdict
from resonnx_server.runtime.manifest import VersionFiles
from resonnx_server.runtime.session import Session, candidates

_log = logging.getLogger(__name__)

G = TypeVar("G")
_RACE_REPEATS = 3


def bounds(manifest: pb.Manifest, file: str) -> dict[pb.Precision, float]:
    """Return max deviation by allowed precision for one ONNX file."""
    return {bound.precision: bound.max_deviation for bound in manifest.precisions if bound.file == file}


def stored_precision(manifest: pb.Manifest, file: str) -> pb.Precision:
    """Return what one ONNX file's weights are stored in."""
    return manifest.stored.get(file, pb.PRECISION_FP32)


def open_candidates(
    files: VersionFiles, file: str, provider: str, threads: int, cache: Path | None = None
) -> list[Session]:
    """Open `file` on each candidate that loads it.

    Args:
        files: The version.
        file: One of its ONNX files.
        provider: See candidates.
        threads: Of one run.
        cache: See Session.

    Raises:
        ModelRefused: None does.
    """
    sessions, reasons = [], []
    for candidate in candidates(provider, list(bounds(files.manifest, file)), stored_precision(files.manifest, file)):
        try:
            sessions.append(Session(files.files[file], candidate, threads, cache=cache))
        except ModelRefused as refused:
            _log.warning("a provider is left out", extra={"candidate": str(candidate), "reason": refused.message})
            reasons.append(refused.message)
    if not sessions:
        raise ModelRefused("; ".join(reasons))
    return sessions


def race(runners: Sequence[tuple[str, Callable[[], object]]]) -> list[int]:
    """Time each runner a few times after a first untimed run; return their indices, fastest first."""
    if len(runners) == 1:
        return [0]
    times = []
    for name, run in runners:
        run()
        best = float("inf")
        for _ in range(_RACE_REPEATS):
            start = time.perf_counter_ns()
            run()
            best = min(best, time.perf_counter_ns() - start)
        times.append(best)
        _log.info("measured a provider", extra={"candidate": name, "ms": round(best / 1e6, 3)})
    return sorted(range(len(times)), key=times.__getitem__)


def first_agreeing(options: Sequence[tuple[str, G]], judge: Callable[[G], Verdict]) -> G:
    """Return the first of `options` (name, value; fastest first) whose answers agree with the golden examples.

    Raises:
        ModelRefused: None does; says what each one's answers were like.
    """
    reasons = []
    for name, option in options:
        verdict = judge(option)
        extra = {"candidate": name, "verdict": verdict.detail}
        if verdict.passed:
            _log.info("answers agree with the golden examples", extra=extra)
            return option
        _log.warning("answers disagree with the golden examples", extra=extra)
        reasons.append(f"{name}: {verdict.detail}")
    raise ModelRefused("answers disagree with the golden examples: " + "; ".join(reasons))


def digest(content: bytes) -> str:
    """Return the sha256 of a file's content, hex."""
    return hashlib.sha256(content).hexdigest()
