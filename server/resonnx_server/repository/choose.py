"""Chooses provider and precision: the fastest candidate that agrees with the golden examples."""

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
_EXCLUDED: Final = "a provider is excluded"


def bounds(manifest: pb.Manifest, file: str) -> dict[pb.Precision, float]:
    """Return the largest allowed deviation by precision for one ONNX file."""
    return {bound.precision: bound.max_deviation for bound in manifest.precisions if bound.file == file}


def stored_precision(manifest: pb.Manifest, file: str) -> pb.Precision:
    """Return the precision of one ONNX file's weights."""
    return manifest.stored.get(file, pb.PRECISION_FP32)


def open_candidates(
    files: VersionFiles, file: str, provider: str, threads: int, cache: Path | None = None, only: str | None = None
) -> list[Session]:
    """Open an ONNX file on each candidate that can load it.

    Args:
        files: The version.
        file: Name of the ONNX file.
        provider: "auto", or a key of PROVIDERS.
        threads: Threads of one run.
        cache: Folder for TensorRT's engines; None for no cache.
        only: Name of the only candidate, as str() gives it; None for all.

    Raises:
        ModelRefused: No candidate can load it, there is no such candidate, or the load was cancelled.
    """
    sessions, reasons = [], []
    for candidate in candidates(provider, list(bounds(files.manifest, file)), stored_precision(files.manifest, file)):
        if only not in (None, str(candidate)):
            continue
        try:
            sessions.append(Session(files.files[file], candidate, threads, cache=cache, shares=threads > 1))
        except ModelRefused as refused:
            Cancellation.check()
            _log.warning(_EXCLUDED, extra={"candidate": str(candidate), "reason": refused.message})
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
    """Race the options, and prepare the fastest that agrees with the golden examples.

    An option that raises anything is excluded and the next one tried: a model too large for the GPU may fit the CPU. A
    single option is not raced.

    Args:
        options: Names and values.
        run: The timed run, repeated after a first untimed one.
        judge: Compares an option's outputs with the golden examples.
        prepare: Prepares an option for serving, after it was judged; its result is returned.

    Raises:
        ModelRefused: No option is left; the message names each with its reason. Or the load was cancelled.
    """
    reasons = []

    def exclude(name: str, error: Exception) -> None:
        Cancellation.check()
        reason = error.message if isinstance(error, ModelRefused) else f"a run failed: {first_line(error)}"
        extra = {"candidate": name, "reason": reason}
        _log.warning(_EXCLUDED, extra=extra, exc_info=not isinstance(error, ModelRefused))
        reasons.append(f"{name}: {reason}")

    raced = []
    for name, option in options:
        try:
            raced.append((_race_ns(name, partial(run, option)) if len(options) > 1 else 0, name, option))
        except Exception as error:  # ONNX Runtime's errors share no base class
            exclude(name, error)
    for _, name, option in sorted(raced, key=itemgetter(0)):
        try:
            verdict = judge(option)
            require_agreement(verdict)
            _log.info("outputs agree with the golden examples", extra={"candidate": name, "verdict": verdict.detail})
            return prepare(option)
        except Exception as error:  # as above
            exclude(name, error)
    raise ModelRefused("; ".join(reasons))


def agreeing(options: Sequence[tuple[str, G]], judge: Callable[[G], Verdict]) -> list[str]:
    """Return the names of the options that agree with the golden examples. Raises ModelRefused if there are none."""
    names, reasons = [], []
    for name, option in options:
        try:
            require_agreement(judge(option))
            names.append(name)
        except ModelRefused as refused:
            reasons.append(f"{name}: {refused.message}")
        except Exception as error:  # as above
            reasons.append(f"{name}: a run failed: {first_line(error)}")
    if not names:
        raise ModelRefused("; ".join(reasons))
    return names


def require_agreement(verdict: Verdict, outputs: str = "outputs") -> None:
    """Raise ModelRefused if the verdict on `outputs` (named for the message) is negative."""
    if not verdict.passed:
        raise ModelRefused(f"{outputs} disagree with the golden examples: {verdict.detail}")


def _race_ns(name: str, run: Callable[[], object]) -> int:
    run()
    times = []
    for _ in range(_RACE_REPEATS):
        start = time.perf_counter_ns()
        run()
        times.append(time.perf_counter_ns() - start)
    _log.info("measured a provider", extra={"candidate": name, "ms": round(min(times) / 1e6, 3)})
    return min(times)
