"""The models that serve, are being loaded or were refused, by name and version."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from resonnx_server.access.caller import Caller
from resonnx_server.errors import ModelNotAllowed, NotFound, ServerError, Unavailable, WrongTask
from resonnx_server.inference.missing import no_such_label, no_such_model, no_such_version, told_to
from resonnx_server.inference.model import Model as Model
from resonnx_server.inference.model import Refusal as Refusal
from resonnx_server.inference.model import SessionReport as SessionReport
from resonnx_server.inference.repository_control import RepositoryControl, State, VersionState
from resonnx_server.inference.tasks import Task
from resonnx_server.observe.rejected import RejectedCalls

# Calls without a version are answered by the version of this label, if a model has it.
STABLE: Final = "stable"
# Digits of numbers beyond the protocol's int64.
_DIGITS: Final = 19
_NONE: Final[Mapping[int, "Model"]] = {}
_NO_LABELS: Final[Mapping[str, int]] = {}


@dataclass
class Models:
    """The registry of models. Event loop only.

    A version in a call is a number, 0 or "" for the default one, or a label. The default is the version of the label
    `stable` where a model has this label, else the highest that serves.

    Attributes:
        strict: Not ready while a model is refused of which no version serves.
        ready_with_first: Ready as soon as one model serves, while others are being loaded.
        loading: Models are being loaded.
        draining: The server stops: it is not ready, and still serves.
        refusing: `get` refuses all calls.
        closing: Set when streams must end after the requests that they have read.
        rejected: Counter of calls that ended with an error that no model counts.
        ended_loads: Number of loads by model and result: "ready", "refused", "unchanged" or "dropped".
        doubtful: Names and versions of models that were measured while other processes held the processors.
        remeasured: Number of attempts to measure a model again by its name and result: "replaced", "given_up" or
            "refused".
        control: Loads and unloads models on request; None before the start.
    """

    strict: bool = False
    ready_with_first: bool = False
    loading: bool = True
    draining: bool = False
    refusing: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    rejected: RejectedCalls = field(default_factory=RejectedCalls)
    ended_loads: Counter[tuple[str, str]] = field(default_factory=Counter)
    doubtful: set[tuple[str, int]] = field(default_factory=set)
    remeasured: Counter[tuple[str, str]] = field(default_factory=Counter)
    control: RepositoryControl | None = None
    # All by name and version.
    _served: dict[str, dict[int, Model]] = field(default_factory=dict)
    _refused: dict[str, dict[int, Refusal]] = field(default_factory=dict)
    _awaited: dict[str, set[int]] = field(default_factory=dict)
    _labels: dict[str, dict[str, int]] = field(default_factory=dict)
    # By name: what `get` returns for the default version.
    _default: dict[str, Model] = field(default_factory=dict)

    def expect(self, versions: Mapping[str, int]) -> None:
        """Register versions by model that will be added or refused later."""
        for name, version in versions.items():
            self._awaited.setdefault(name, set()).add(version)

    def add(self, model: Model) -> None:
        """Serve `model`, in place of one of the same name and version."""
        self._clear(model.name, model.version)
        self._served.setdefault(model.name, {})[model.version] = model
        self._choose_default(model.name)

    def refuse(self, refusal: Refusal) -> None:
        """Register a version that is not served, or not any more."""
        self.forget(refusal.name, refusal.version)
        self._refused.setdefault(refusal.name, {})[refusal.version] = refusal

    def forget(self, name: str, version: int) -> None:
        """Remove a version, whether it serves, is awaited or was refused."""
        self._clear(name, version)
        if (served := self._served.get(name)) is not None:
            served.pop(version, None)
            if not served:
                del self._served[name]
        self._choose_default(name)

    def label(self, name: str, labels: Mapping[str, int]) -> None:
        """Set the labels of a model: version numbers by label."""
        self._labels[name] = dict(labels)
        self._choose_default(name)

    def labels(self, name: str) -> Mapping[str, int]:
        """Return the version numbers of a model's labels."""
        return self._labels.get(name, {})

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model that serve, ascending."""
        return sorted(self._served.get(name, ()))

    def serves(self, model: Model) -> bool:
        """Whether calls for the name and version of `model` are answered by it."""
        return self._served.get(model.name, _NONE).get(model.version) is model

    def is_default(self, model: Model) -> bool:
        """Whether calls without a version are answered by `model`."""
        return self._default.get(model.name) is model

    def check(self, name: str, caller: Caller) -> None:
        """Raise ModelNotAllowed, and count the call as rejected, unless the caller may use the model `name`."""
        if not caller.may_use(name):
            error = ModelNotAllowed(name)
            self.rejected.count(error)
            raise error

    def find(self, name: str, version: int | str = 0, task: Task | None = None, caller: Caller | None = None) -> Model:
        """Return the model of a call, or count the call as rejected.

        Args:
            name: The model's name.
            version: A number, 0 or "" for the default version, or a label.
            task: The task of the call; None is any.
            caller: Who calls: errors name only what it may read. None for no caller.

        Raises:
            ServerError: As `get`.
            WrongTask: The model has another task.
        """
        try:
            model = self.get(name, version)
            if task is not None and model.task is not task:
                raise WrongTask("model", f"{name!r} is {model.task.noun}, not {task.noun}")
        except ServerError as error:
            self.rejected.count(error)
            if isinstance(error, NotFound):
                raise told_to(caller, error) from None
            raise
        return model

    def get(self, name: str, version: int | str = 0) -> Model:
        """Return a model that serves.

        Args:
            name: The model's name.
            version: A number, 0 or "" for the default version, or a label.

        Raises:
            NotFound: No such model, version or label.
            ModelRefused: Refused at load.
            Unavailable: It is being loaded, or cannot serve any more, or the server stops.
        """
        if self.refusing:
            raise Unavailable("the server is shutting down")
        if not version:
            model = self._default.get(name)
        else:
            number = version if isinstance(version, int) else self._number(name, version)
            model = self._served.get(name, _NONE).get(number) if number else self._default.get(name)
        if model is None:
            raise self._missing(name, version)
        return model

    def _number(self, name: str, version: str) -> int:
        """Return the number of a version that is a number or a label."""
        labels = self._labels.get(name, _NO_LABELS)
        if (number := labels.get(version)) is not None:
            return number
        if version.isascii() and version.isdigit() and len(version) < _DIGITS:
            return int(version)
        if not self._knows(name):
            raise self._no_such(name)
        raise no_such_label(name, version, labels)

    def _missing(self, name: str, version: int | str) -> ServerError:
        """Return the error of a call for a version that does not serve."""
        if not self._knows(name):
            return self._no_such(name)
        refused, awaited = self._refused.get(name, {}), self._awaited.get(name, set())
        number = version if isinstance(version, int) else self._number(name, version) if version else 0
        if not number:
            number = self._labels.get(name, {}).get(STABLE) or max({*refused, *awaited}, default=0)
        reasons = {number: each.reason for number, each in refused.items()}
        stopped = {number for number, each in refused.items() if each.was_served}
        return no_such_version(name, number, self._served.get(name, {}), reasons, stopped, awaited)

    def _no_such(self, name: str) -> ServerError:
        return no_such_model(name, {*self._served, *self._refused, *self._awaited})

    def _knows(self, name: str) -> bool:
        return name in self._served or name in self._refused or name in self._awaited

    def _clear(self, name: str, version: int) -> None:
        """Remove a version from those that are awaited or were refused."""
        if (awaited := self._awaited.get(name)) is not None:
            awaited.discard(version)
            if not awaited:
                del self._awaited[name]
        if (refused := self._refused.get(name)) is not None:
            refused.pop(version, None)
            if not refused:
                del self._refused[name]

    def _choose_default(self, name: str) -> None:
        served = self._served.get(name, _NONE)
        number = self._labels.get(name, _NO_LABELS).get(STABLE) or max(served, default=0)
        if (model := served.get(number)) is not None:
            self._default[name] = model
        else:
            self._default.pop(name, None)

    @property
    def refused(self) -> list[Refusal]:
        """Refused versions, sorted by name and version."""
        return [self._refused[name][number] for name in sorted(self._refused) for number in sorted(self._refused[name])]

    @property
    def awaited(self) -> list[tuple[str, int]]:
        """Names and versions that are being loaded, sorted."""
        return [(name, number) for name in sorted(self._awaited) for number in sorted(self._awaited[name])]

    def states(self) -> list[VersionState]:
        """Return the versions of the repository and their states, by name and version."""
        found = {(name, version): VersionState(name, version, State.FOUND) for name, version in self.awaited}
        found |= {
            (it.name, it.version): VersionState(it.name, it.version, State.REFUSED, it.reason) for it in self.refused
        }
        if self.control is not None:
            found |= {(each.name, each.version): each for each in self.control.states()}
        for model in self:
            key = model.name, model.version
            reason = found[key].reason if key in found and found[key].state is State.READY else ""
            found[key] = VersionState(*key, State.READY, reason)
        return [found[key] for key in sorted(found)]

    @property
    def is_ready(self) -> bool:
        """Whether a model runs batches, and `strict`, `ready_with_first` and `draining` do not forbid it."""
        enough = any(not model.engine.is_paused for model in self)
        enough = enough and not (self.strict and self._refused.keys() - self._served.keys())
        return enough and not (self.loading and not self.ready_with_first) and not self.draining

    @property
    def is_dead(self) -> bool:
        """Whether nothing serves any more, and only a restart can change that."""
        return not self._served and not self.loading and any(each.was_served for each in self.refused)

    def __iter__(self) -> Iterator[Model]:
        return iter([served[number] for _, served in sorted(self._served.items()) for number in sorted(served)])
