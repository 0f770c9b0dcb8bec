"""Chooses provider and precision: the fastest candidate that agrees with the golden examples."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import ModelRefused
from resonnx_server.repository.choosing.turns import AT_LOAD, Effort, Raced, log_ns, race
from resonnx_server.runtime.cancellation import Cancellation
from resonnx_server.runtime.model_files.golden_examples import Verdict
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.session import Session, candidates, first_line

_log = logging.getLogger(__name__)

G = TypeVar("G")
R = TypeVar("R")
_EXCLUDED: Final = "a provider is excluded"


def bounds(manifest: pb.Manifest, file: str) -> dict[pb.Precision, float]:
    """Return the largest allowed deviation by precision for one ONNX file."""
    return {bound.precision: bound.max_deviation for bound in manifest.precisions if bound.file == file}


def stored_precision(manifest: pb.Manifest, file: str) -> pb.Precision:
    """Return the precision of one ONNX file's weights."""
    return manifest.stored.get(file, pb.PRECISION_FP32)


def names_of_candidates(manifest: pb.Manifest, file: str, provider: str) -> list[str]:
    """Return the names of the candidates for an ONNX file on this machine. Raises ModelRefused if there are none."""
    allowed = list(bounds(manifest, file))
    return [str(candidate) for candidate in candidates(provider, allowed, stored_precision(manifest, file))]


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
    effort: Effort = AT_LOAD,
    on_race: Callable[[Sequence[str], Raced], None] = lambda *_: None,
) -> R:
    """Race the options, and prepare the fastest that agrees with the golden examples.

    An option that raises anything is excluded and the next one tried: a model too large for the GPU may fit the CPU. A
    single option is not raced.

    Args:
        options: Names and values, in the order of preference among about equal ones.
        run: The timed run, repeated after a first untimed one.
        judge: Compares an option's outputs with the golden examples.
        prepare: Prepares an option for serving, after it was judged; its result is returned.
        effort: What is spent on the race.
        on_race: Called with the names of those that could run, and the result of their race.

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

    able = []
    for name, option in options:
        try:
            if len(options) > 1:
                run(option)
            able.append((name, option))
        except Exception as error:  # ONNX Runtime's errors share no base class
            exclude(name, error)
    raced = race(
        [partial(log_ns, partial(run, option)) for _, option in able],
        effort,
        lambda one, error: exclude(able[one][0], error),
    )
    if len(able) > 1:
        on_race([name for name, _ in able], raced)
    for name, option in (able[one] for one in raced.order):
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
