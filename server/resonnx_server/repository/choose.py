"""Chooses provider and precision by measurement: of those that agree with the golden examples, the fastest."""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Final, TypeVar

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.model_files.golden_examples import Verdict
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.session import Session, candidates, first_line

_log = logging.getLogger(__name__)

G = TypeVar("G")
R = TypeVar("R")
_RACE_REPEATS: Final = 3
_LEFT_OUT: Final = "a provider is left out"


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
        ModelRefused: None does, or the load was ended.
    """
    sessions, reasons = [], []
    for candidate in candidates(provider, list(bounds(files.manifest, file)), stored_precision(files.manifest, file)):
        try:
            sessions.append(Session(files.files[file], candidate, threads, cache=cache))
        except ModelRefused as refused:
            Cancellation.check()
            _log.warning(_LEFT_OUT, extra={"candidate": str(candidate), "reason": refused.message})
            reasons.append(refused.message)
    if not sessions:
        raise ModelRefused("; ".join(reasons))
    return sessions


def fastest(
    options: Sequence[tuple[str, G]],
    run: Callable[[G], object],
    judge: Callable[[G], Verdict],
    prepare: Callable[[G], R],
) -> R:
    """Race `options`; of those that agree with the golden examples, make the fastest ready to serve.

    One that fails, in the race or after it, is left out, whatever it raises, and the next one is tried: what a GPU has
    no memory for, the CPU may serve. A single one is not raced.

    Args:
        options: Names and values.
        run: What is timed, a few times after a first untimed run.
        judge: Says what an option's answers are like.
        prepare: Makes an option ready to serve, after it was judged; its result is returned.

    Raises:
        ModelRefused: None is left; names each and why. Or the load was ended, which is no provider's fault.
    """
    reasons = []

    def leave_out(name: str, error: Exception) -> None:
        Cancellation.check()
        reason = error.message if isinstance(error, ModelRefused) else f"a run failed: {first_line(error)}"
        extra = {"candidate": name, "reason": reason}
        _log.warning(_LEFT_OUT, extra=extra, exc_info=not isinstance(error, ModelRefused))
        reasons.append(f"{name}: {reason}")

    raced = []
    for name, option in options:
        try:
            raced.append((_race_ns(name, partial(run, option)) if len(options) > 1 else 0, name, option))
        except Exception as error:  # ONNX Runtime's errors share no base class
            leave_out(name, error)
    for _, name, option in sorted(raced, key=itemgetter(0)):
        try:
            verdict = judge(option)
            demand(verdict)
            _log.info("answers agree with the golden examples", extra={"candidate": name, "verdict": verdict.detail})
            return prepare(option)
        except Exception as error:  # as above
            leave_out(name, error)
    raise ModelRefused("; ".join(reasons))


def demand(verdict: Verdict, answers: str = "answers") -> None:
    """Raise ModelRefused if `answers` (for the message: whose, to what) disagree with the golden examples."""
    if not verdict.passed:
        raise ModelRefused(f"{answers} disagree with the golden examples: {verdict.detail}")


def digest(content: bytes) -> str:
    """Return the sha256 of a file's content, hex."""
    return hashlib.sha256(content).hexdigest()


def _race_ns(name: str, run: Callable[[], object]) -> int:
    run()
    times = []
    for _ in range(_RACE_REPEATS):
        start = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - start)
    _log.info("measured a provider", extra={"candidate": name, "ms": round(min(times) / 1e6, 3)})
    return min(times)
