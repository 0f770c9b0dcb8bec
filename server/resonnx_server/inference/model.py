"""A version of a model that serves, and one that was refused."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.declaration import Declaration
from resonnx_server.drift.drift import Drift
from resonnx_server.inference.lease import Lease
from resonnx_server.inference.tasks import Task
from resonnx_server.observe.stats import ModelStats
from resonnx_server.runtime.class_activation import ClassActivation
from resonnx_server.runtime.model_files.manifest import verified_against
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.runtime.session import Candidate, TensorSpec
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.queue_policy import QueuePolicies
from resonnx_server.scheduling.replacement import Event


@dataclass(frozen=True)
class SessionReport:
    """One ONNX file: its provider and precision, the expected time of its batches, and how many of them run at once."""

    file: str
    candidate: Candidate
    table: LatencyTable
    instances: int = 1


class ModelEngine(Protocol):
    """A model's work on its device, whatever its task: an Engine, or several in turn. See scheduling/engine.py.

    Attributes:
        device: Runs the jobs.
        comparison_processor_ns: Processor time of runs that compare versions.
        on_event: Called with events of its sessions.
    """

    device: Device
    comparison_processor_ns: int
    on_event: Callable[[Event], None]

    @property
    def drift(self) -> Drift | None:
        """Compares its pictures and captions with the reference; None if nothing does."""

    @property
    def policies(self) -> QueuePolicies | None:
        """Limits of waiting by priority, if there are any."""

    @property
    def batch_bytes(self) -> int:
        """Memory of the process that its largest batches take at once."""

    @property
    def is_unloaded(self) -> bool:
        """Whether its sessions are closed, as it is unused."""

    def unload(self) -> Sequence[object]:
        """Let go of its sessions until the next request; see Engine.unload."""

    @property
    def is_paused(self) -> bool:
        """Whether no batch begins, because a session is being replaced or cannot be."""

    @property
    def is_running(self) -> bool:
        """Whether a job of it is under way."""

    def queued(self) -> int:
        """Return the number of queued requests."""

    def queued_rows(self) -> int:
        """Return the number of queued rows."""

    def oldest_wait_ns(self) -> int:
        """Return how long the oldest queued request has waited."""

    def served_ns(self) -> dict[str, float]:
        """Return the expected device ns of batches so far, by caller."""

    def close(self) -> None:
        """Fail all queued requests and refuse new ones; batches under way end."""

    def free(self) -> None:
        """Let go of its sessions, once it is closed and no job is under way."""


@dataclass(frozen=True)
class Model:
    """A model that serves.

    Attributes:
        manifest: None for a bare ONNX file.
        identity: sha256 of SHA256SUMS, hex; empty for a bare ONNX file without one.
        verified: The answers agreed with the golden examples at load.
        inputs: Inputs of the tensor protocol, with the batch axis first (if max_batch_size > 0).
        max_queue_delay_us: How long requests wait for others to share a batch.
        shares_batches: Requests share batches; else each runs alone.
        optional_inputs: A bare graph's initializers that are inputs as well, in their own shapes, without a batch axis.
        pictures: How picture files become its input; None for a bare ONNX file.
        max_batch_size: In rows; 0 if there is no batch axis, and each request runs alone.
        max_queue_size: In rows.
        allow_timeout_override: The tensor protocol's parameter `timeout` is honoured.
        declaration: What its config.pbtxt says, if there is one.
        version_policy: Versions of the model that are served, as in its settings.
        keep_disagreements: Most pictures that a comparison of its versions keeps; None is the server's setting.
        unload_unused_s: Seconds without a request after which its sessions are closed; None is the server's setting.
        lease: Held by each of its requests.
        heatmaps: What a classifier's heatmaps are computed with; why it has none.
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
    engine: ModelEngine
    optional_inputs: tuple[TensorSpec, ...] = ()
    pictures: PictureOptions | None = None
    allow_timeout_override: bool = False
    declaration: Declaration | None = None
    version_policy: str = "latest: 1"
    keep_disagreements: int | None = None
    unload_unused_s: float | None = None
    max_queue_delay_us: int = 0
    shares_batches: bool = True
    heatmaps: ClassActivation | str = ""
    lease: Lease = field(default_factory=Lease)

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
