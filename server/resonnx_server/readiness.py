"""Announces which models serve and when the server is ready: health service, log, and a line on stdout."""

import logging
from collections.abc import Callable, Mapping

from resonnx_server.inference.registry import Model, Models, Refusal
from resonnx_server.observe.logs import console
from resonnx_server.repository.loading.load import ModelLoad
from resonnx_server.scheduling.replacement import Event

_log = logging.getLogger(__name__)


# Updates the health service: whether models and their versions serve, and the server is ready. GrpcServer.set_serving.
SetServing = Callable[[Mapping[str, bool], bool], None]


class Readiness:
    """Observes the loads of a repository. Event loop only.

    Args:
        models: The registry of models.
        set_serving: Updates the health service.

    Attributes:
        addresses: The server's addresses by port, for the line on stdout.
    """

    def __init__(self, models: Models, set_serving: SetServing) -> None:
        self.addresses: dict[str, str] = {}
        self._models = models
        self._set_serving = set_serving
        self._is_announced = False

    def update(self) -> None:
        """Tell the health service what has changed."""
        self._set_serving(health(self._models), self._models.is_ready)

    def reached(self, load: ModelLoad) -> None:
        """Report a load's stage. Thread-safe."""
        _report(load, load.progress.stage)

    def loaded(self, load: ModelLoad, model: Model) -> None:
        """Register a model as serving: calls go to it from now on."""
        self._models.add(model)
        self.update()
        candidates = {report.file: str(report.candidate) for report in model.sessions}
        extra = {"model": model.name, "version": model.version, "candidates": candidates}
        told = {"verified_against": model.verified_against, "assumptions": model.assumptions}
        _log.info("serving", extra={**extra, **told})
        doubt = (
            "; measured while other processes held the processors, or too short: measured again when no request comes"
        )
        doubt = doubt if load.progress.is_doubtful else ""
        _report(load, f"serves after {load.seconds:.1f} s; {_comparison(model)}{doubt}")
        if self._models.is_ready:
            self._announce()

    def refused(self, load: ModelLoad, reason: str) -> None:
        """Register a model as refused, unless its version serves with the files that it had before."""
        folder = load.folder
        if folder.version not in self._models.versions(folder.name):
            self._models.refuse(Refusal(folder.name, folder.version, reason))
            self.update()
        _log.error("refused", extra={"model": folder.name, "version": folder.version, "reason": reason})
        _report(load, f"refused after {load.seconds:.1f} s: {reason}")

    def session_event(self, model: Model, event: Event) -> None:
        """Log what happened to a model's session; a model that cannot serve any more is withdrawn."""
        extra = {"model": model.name, "version": model.version}
        if event.kind == "interrupted":
            _log.error("a run took far too long and was ended: its requests fail", extra=extra)
        elif event.kind == "abandoned":
            _log.error("a run does not end: its requests fail, and its thread is left", extra=extra)
        elif event.kind == "replaced":
            _log.warning("a session was replaced: the model serves on", extra=extra)
        elif event.kind == "replacing":
            _log.warning("a session is being replaced", extra={**extra, "reason": event.detail})
        elif event.kind == "unloaded":
            _log.info("unloaded as it is unused: its next request opens its sessions again", extra=extra)
        elif event.kind == "reopened":
            _log.info("the sessions of an unused model were opened again", extra={**extra, "took": event.detail})
        elif event.kind == "not_reopened":
            _log.error("an unloaded model cannot be opened again", extra={**extra, "reason": event.detail})
        elif event.kind == "stopped":
            _log.error("a model cannot serve any more", extra={**extra, "reason": event.detail})
            if self._models.serves(model):
                self._models.refuse(Refusal(model.name, model.version, event.detail, was_served=True))
            model.engine.close()
        self.update()

    def complete(self) -> None:
        """Note that all models are loaded or refused."""
        self._models.loading = False
        self.update()
        self._announce()

    def _announce(self) -> None:
        """Print the line that supervisors wait for, once."""
        if not self._is_announced:
            self._is_announced = True
            console.ready(self.addresses, is_ready=self._models.is_ready)


def health(models: Models) -> dict[str, bool]:
    """Return whether each NAME (its default version), NAME:VERSION and NAME:LABEL of the repository serves."""
    others = [*models.awaited, *((refusal.name, refusal.version) for refusal in models.refused)]
    serving = {name: False for name, _ in others} | {f"{name}:{version}": False for name, version in others}
    for model in models:
        serving.setdefault(model.name, False)
        serving[f"{model.name}:{model.version}"] = not model.engine.is_paused
        if models.is_default(model):
            serving[model.name] = not model.engine.is_paused
    for name in [name for name in serving if ":" not in name]:
        for label, version in models.labels(name).items():
            serving[f"{name}:{label}"] = serving.get(f"{name}:{version}", False)
    return serving


def _comparison(model: Model) -> str:
    """Return in words what a model was compared with, and how many of its properties are assumed."""
    against = model.verified_against.replace("_", " ")
    count = len(model.assumptions)
    assumed = f", {count} assumed propert{'ies' if count > 1 else 'y'}" if count else ""
    return f"verified against: {against}{assumed}"


def _report(load: ModelLoad, state: str) -> None:
    """Report a load's progress, to a terminal if there is one, else to the log."""
    if not console.progress(f"{load.folder.name} ({load.number} of {load.of}): {state}"):
        extra = {"model": load.folder.name, "number": load.number, "of": load.of, "state": state}
        _log.info("loading", extra=extra)
