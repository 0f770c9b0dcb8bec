"""The models that serve, are being loaded or were refused, by name and version."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.access.caller import Caller
from resonnx_server.errors import (
    ModelNotAllowed,
    ModelRefused,
    NotFound,
    ServerError,
    Unavailable,
    VersionNotFound,
    WrongTask,
)
from resonnx_server.inference.tasks import Task
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.observe.stats import ModelStats
from resonnx_server.runtime.model_files.manifest import verified_against
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.runtime.session import Candidate, TensorSpec
from resonnx_server.scheduling.engine import AnyEngine
from resonnx_server.scheduling.latency import LatencyTable

# Models that an error lists where the one that it is about does not exist.
_LISTED: Final = 8


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
    """A model that is not served, and the reason; `was_served` if it served first."""

    name: str
    version: int
    reason: str
    was_served: bool = False


@dataclass
class Models:
    """The registry of models. Event loop only.

    Attributes:
        strict: Not ready while any model is refused.
        ready_with_first: Ready as soon as one model serves, while others are being loaded.
        loading: Models are being loaded.
        draining: `get` refuses all calls.
        closing: Set when streams must end after the requests that they have read.
        refused_draining: Number of calls refused because of draining.
        rejected: Counter of calls that failed before a model got them.
    """

    strict: bool = False
    ready_with_first: bool = False
    loading: bool = True
    draining: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    refused_draining: int = 0
    rejected: RejectedCalls = field(default_factory=RejectedCalls)
    _awaited: dict[str, int] = field(default_factory=dict)
    _ready: dict[str, Model] = field(default_factory=dict)
    _refused: dict[str, Refusal] = field(default_factory=dict)

    def expect(self, versions: Mapping[str, int]) -> None:
        """Register versions by model that will be added or refused later."""
        self._awaited.update(versions)

    def add(self, model: Model) -> None:
        """Serve `model`."""
        self._awaited.pop(model.name, None)
        self._ready[model.name] = model

    def refuse(self, refusal: Refusal) -> None:
        """Register a model that is not served, or not any more."""
        self._awaited.pop(refusal.name, None)
        self._ready.pop(refusal.name, None)
        self._refused[refusal.name] = refusal

    def check(self, name: str, caller: Caller) -> None:
        """Raise ModelNotAllowed, and count the call as rejected, unless the caller may use the model `name`."""
        if not caller.may_use(name):
            error = ModelNotAllowed(name)
            self.rejected.count(error)
            raise error

    def find(self, name: str, version: int = 0, task: Task | None = None) -> Model:
        """Return the model of a call, or count the call as rejected.

        Args:
            name: The model's name.
            version: The model's version; 0 is the one served by default.
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

    def get(self, name: str, version: int = 0) -> Model:
        """Return a model that serves; version 0 is the one served by default.

        Raises:
            NotFound: No such model or version.
            ModelRefused: Refused at load; it stays so.
            Unavailable: It is being loaded, or cannot serve any more, or the server is draining.
        """
        if self.draining:
            self.refused_draining += 1
            raise Unavailable("the server is shutting down")
        model = self._ready.get(name)
        if model is not None and version in (0, model.version):
            return model
        if model is not None:
            raise VersionNotFound(f"model {name!r} has no version {version}; version {model.version} is served")
        if (refusal := self._refused.get(name)) is not None:
            if version in (0, refusal.version):
                if refusal.was_served:
                    raise Unavailable(f"model {name!r} cannot serve any more: {refusal.reason}")
                raise ModelRefused(f"model {name!r} was refused at load: {refusal.reason}")
            raise VersionNotFound(f"model {name!r} has no version {version}; {refusal.version} was refused at load")
        if (awaited := self._awaited.get(name)) is not None:
            if version in (0, awaited):
                raise Unavailable(f"model {name!r} is still being loaded")
            raise VersionNotFound(f"model {name!r} has no version {version}; {awaited} is being loaded")
        raise NotFound(f"model {name[:64]!r} is not in the repository, which has {self._named()}")

    def _named(self) -> str:
        # No search for the nearest name: wrong names may come at any rate.
        known = len(self._ready) + len(self._refused) + len(self._awaited)
        if not 0 < known <= _LISTED:
            return f"{known} models"
        return ", ".join(sorted({**self._ready, **self._refused, **self._awaited}))

    @property
    def refused(self) -> list[Refusal]:
        """Refused models, sorted by name."""
        return [self._refused[name] for name in sorted(self._refused)]

    @property
    def awaited(self) -> dict[str, int]:
        """Versions of models being loaded, by name, sorted."""
        return dict(sorted(self._awaited.items()))

    @property
    def is_ready(self) -> bool:
        """Whether a model runs batches, none is refused if `strict`, and none is loading unless `ready_with_first`."""
        enough = any(not model.engine.is_paused for model in self._ready.values())
        enough = enough and not (self.strict and self._refused)
        return enough and not (self.loading and not self.ready_with_first) and not self.draining

    @property
    def is_dead(self) -> bool:
        """Whether nothing serves any more, and only a restart can change that."""
        return not self._ready and not self.loading and any(each.was_served for each in self._refused.values())

    def __iter__(self) -> Iterator[Model]:
        return iter([self._ready[name] for name in sorted(self._ready)])
