"""Tells who serves, and when the server is ready: callers by health, people and logs by lines, a supervisor by one."""

import logging
import sys
from collections.abc import Sequence
from typing import Protocol

from resonnx_server.inference.registry import Model, Models, Refusal
from resonnx_server.repository.loading import Load
from resonnx_server.repository.scan import ModelFolder

_log = logging.getLogger(__name__)


class SetServing(Protocol):
    """Tells health; see GrpcServer.set_serving."""

    def __call__(self, models: Sequence[str], others: Sequence[str], *, ready: bool) -> None:
        """See above."""


class Readiness:
    """Follows the loads of a repository. Owned by the event loop.

    Args:
        models: Where models are added and refused.
        set_serving: Tells health.

    Attributes:
        address: Where the server listens, for the line at start.
    """

    def __init__(self, models: Models, set_serving: SetServing) -> None:
        self.address = ""
        self._models = models
        self._set_serving = set_serving
        self._is_announced = False

    def expect(self, found: Sequence[ModelFolder]) -> None:
        """These will be loaded."""
        self._models.expect({item.name: item.version for item in found})
        self._tell_health()

    def reached(self, load: Load) -> None:
        """Tell how far a load is; from any thread."""
        _tell(load, load.progress.stage)

    def loaded(self, load: Load, model: Model) -> None:
        """Serve a model."""
        self._models.add(model)
        self._tell_health()
        candidates = {report.file: str(report.candidate) for report in model.sessions}
        _log.info("serving", extra={"model": model.name, "version": model.version, "candidates": candidates})
        doubt = "; measured while something else held the processors: again at the next start"
        _tell(load, f"serves after {load.seconds:.1f} s{doubt if load.progress.is_doubtful else ''}")
        if self._models.is_ready:
            self._announce()

    def refused(self, load: Load, reason: str) -> None:
        """Remember, and say, why a model does not serve."""
        found = load.found
        self._models.refuse(Refusal(found.name, found.version, reason))
        self._tell_health()
        _log.error("refused", extra={"model": found.name, "version": found.version, "reason": reason})
        _tell(load, f"refused after {load.seconds:.1f} s: {reason}")

    def complete(self) -> None:
        """All models are loaded or refused."""
        self._models.loading = False
        self._tell_health()
        self._announce()

    def _tell_health(self) -> None:
        others = [*self._models.awaited, *(refusal.name for refusal in self._models.refused)]
        self._set_serving([model.name for model in self._models], others, ready=self._models.is_ready)

    def _announce(self) -> None:
        """Print the line that a supervisor waits for, once."""
        if not self._is_announced:
            self._is_announced = True
            print(f"resonnx-server {'ready' if self._models.is_ready else 'not ready'} {self.address}", flush=True)


def _tell(load: Load, state: str) -> None:
    """Tell how a load goes: whoever started the server from a terminal waits for it, and sees it without a log."""
    if sys.stderr.isatty():
        print(f"resonnx-server: {load.found.name} ({load.number} of {load.of}): {state}", file=sys.stderr, flush=True)
    else:
        extra = {"model": load.found.name, "number": load.number, "of": load.of, "state": state}
        _log.info("loading", extra=extra)
