"""The models that serve, are being loaded or were refused, by name and version."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.access.caller import Caller
from resonnx_server.declaration import Declaration
from resonnx_server.errors import ModelNotAllowed, ServerError, Unavailable, WrongTask
from resonnx_server.inference.missing import no_such_label, no_such_model, no_such_version
from resonnx_server.inference.repository_control import RepositoryControl
from resonnx_server.inference.tasks import Task
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.observe.stats import ModelStats
from resonnx_server.runtime.model_files.manifest import verified_against
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.runtime.session import Candidate, TensorSpec
from resonnx_server.scheduling.engine import AnyEngine
from resonnx_server.scheduling.latency import LatencyTable

# Calls without a version are answered by the version of this label, if a model has it.
STABLE: Final = "stable"
# Digits of numbers beyond the protocol's int64.
_DIGITS: Final = 19
_NONE: Final[Mapping[int, "Model"]] = {}
_NO_LABELS: Final[Mapping[str, int]] = {}


@dataclass(frozen=True)
class SessionReport:
    """One ONNX file: its provider and precision, the expected time of its batches, and how many of them run at once."""

    file: str
    candidate: Candidate
    table: LatencyTable
    instances: int = 1


@dataclass(frozen=True)
class Model:
    """A model that serves.

    Attributes:
        manifest: None for a bare ONNX file.
        identity: sha256 of SHA256SUMS, hex; empty for a bare ONNX file without one.
        verified: The answers agreed with the golden examples at load.
        inputs: Inputs of the tensor protocol, with the batch axis first (if max_batch_size > 0).
        optional_inputs: A bare graph's initializers that are inputs as well, in their own shapes, without a batch axis.
        pictures: How picture files become its input; None for a bare ONNX file.
        max_batch_size: In rows; 0 if each request runs alone.
        max_queue_size: In rows.
        allow_timeout_override: The tensor protocol's parameter `timeout` is honoured.
        declaration: What its config.pbtxt says, if there is one.
    """

    name: str
    version: int
    task: Task
    manifest: pb.Manifest | None
    identity: str
    verified: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    max_queue_size: int
    sessions: tuple[SessionReport, ...]
    stats: ModelStats
    engine: AnyEngine
    optional_inputs: tuple[TensorSpec, ...] = ()
    pictures: PictureOptions | None = None
    allow_timeout_override: bool = False
    declaration: Declaration | None = None

    @property
    def verified_against(self) -> str:
        """What its export was compared with: "our_reading", "user_answers", "user_code", or "none" (bare files)."""
        return verified_against(self.manifest) if self.manifest else "none"

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Properties that the exporter assumed and the user did not confirm, e.g. "stride: in the 3x3 convolution"."""
        found = self.manifest.assumptions if self.manifest else ()
        return tuple(f"{each.name}: {each.value}" for each in found if not each.confirmed)


@dataclass(frozen=True)
class Refusal:
    """A version that is not served, and the reason; `was_served` if it served first."""

    name: str
    version: int
    reason: str
    was_served: bool = False


@dataclass
class Models:
    """The registry of models. Event loop only.

    A version in a call is a number, 0 or "" for the default one, or a label. The default is the version of the label
    `stable` where a model has this label, else the highest that serves.

    Attributes:
        strict: Not ready while a model is refused of which no version serves.
        ready_with_first: Ready as soon as one model serves, while others are being loaded.
        loading: Models are being loaded.
        draining: `get` refuses all calls.
        closing: Set when streams must end after the requests that they have read.
        refused_draining: Number of calls refused because of draining.
        rejected: Counter of calls that failed before a model got them.
        control: Loads and unloads models on request; None before the start.
    """

    strict: bool = False
    ready_with_first: bool = False
    loading: bool = True
    draining: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    refused_draining: int = 0
    rejected: RejectedCalls = field(default_factory=RejectedCalls)
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

    def is_default(self, model: Model) -> bool:
        """Whether calls without a version are answered by `model`."""
        return self._default.get(model.name) is model

    def check(self, name: str, caller: Caller) -> None:
        """Raise ModelNotAllowed, and count the call as rejected, unless the caller may use the model `name`."""
        if not caller.may_use(name):
            error = ModelNotAllowed(name)
            self.rejected.count(error)
            raise error

    def find(self, name: str, version: int | str = 0, task: Task | None = None) -> Model:
        """Return the model of a call, or count the call as rejected.

        Args:
            name: The model's name.
            version: A number, 0 or "" for the default version, or a label.
            task: The task of the call; None is any.

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
            Unavailable: It is being loaded, or cannot serve any more, or the server is draining.
        """
        if self.draining:
            self.refused_draining += 1
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
