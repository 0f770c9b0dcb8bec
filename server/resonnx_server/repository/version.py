"""A version while it is being loaded: its settings, and opening its ONNX files."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server.config import ModelSettings
from resonnx_server.errors import ModelRefused
from resonnx_server.inference.registry import Model
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository.choose import open_candidates
from resonnx_server.repository.choosing.turns import AT_LOAD, Effort
from resonnx_server.repository.known_graphs import KnownGraphs
from resonnx_server.repository.latency_cache import LatencyCache
from resonnx_server.repository.model_config.policies import queue_policies
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.runtime.model_files.golden_examples import Golden
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.model_files.signatures import TrustedKeys
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.runtime.session import Session
from resonnx_server.scheduling.deadline_admission import Objective
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.measurement import sizes_up_to
from resonnx_server.scheduling.queue_policy import QueuePolicies

_log = logging.getLogger(__name__)

# The last step of a load, on the event loop: starts serving.
Start = Callable[[], Model]
# Concurrent batches on the CPU.
MAX_LANES: Final = 8
# Concurrent batches on a GPU: one is copied while the other computes.
GPU_LANES: Final = 2
# Numbers of concurrent batches to try; each costs a session and about a second.
_MOST_COUNTS: Final = 4


@dataclass(frozen=True)
class Version:
    """A version being loaded.

    Attributes:
        folder: The model's name, version and path.
        settings: The model's settings.
        metrics: The server's metrics.
        device_for: Returns the device of a provider.
        threads: Threads of one run.
        cache: Latency tables of earlier starts.
        progress: The load's progress; also cancels it.
        pictures: Returns the picture options for a recipe.
        known: What was measured since the start.
        trusted: Keys of which one must have signed the version; None for none.
        effort: What is spent on measurements.
    """

    folder: ModelFolder
    settings: ModelSettings
    metrics: Metrics
    device_for: Callable[[str], Device]
    threads: int
    cache: LatencyCache
    progress: Progress = field(default_factory=Progress)
    pictures: Callable[[ImageInput], PictureOptions] = PictureOptions
    trusted: TrustedKeys | None = None
    known: KnownGraphs = field(default_factory=KnownGraphs)
    effort: Effort = AT_LOAD

    def vouch(self, identity: str) -> None:
        """Raise ModelRefused unless a trusted key has signed the version with this sha256 of SHA256SUMS."""
        if self.trusted is not None:
            folder = self.folder
            signer = self.trusted.signer(folder.path, folder.name, folder.version, identity)
            _log.info("the signature is valid", extra={"model": folder.name, "key": signer})

    @property
    def largest_batch(self) -> int:
        """Rows of the largest batch."""
        return max(1, self.settings.max_batch_size)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes that are warmed up and served."""
        return sizes_up_to(self.largest_batch)

    @property
    def policies(self) -> QueuePolicies | None:
        """The model's limits of waiting by priority, if its settings have any."""
        return queue_policies(self.settings)

    @property
    def objective(self) -> Objective | None:
        """The model's latency objective, if its settings have one."""
        milliseconds = self.settings.latency_objective_ms
        if milliseconds is None:
            return None
        return Objective(int(milliseconds * 1e6), self.settings.shed_on_objective)

    def open(self, files: VersionFiles, file: str, only: str | None = None) -> list[Session]:
        """Open `file` on all candidates, or on `only`. Raises ModelRefused if it is missing or none can load it."""
        if file not in files.files:
            raise ModelRefused(f"{file} is missing")
        self.progress.reach("opening")
        return open_candidates(files, file, self.settings.provider or "auto", self.threads, self.cache.folder, only)

    def instance_counts(self, *, is_gpu: bool = False) -> list[int]:
        """Return numbers of concurrent batches worth trying, ascending: at most four, up to max_instances.

        On a GPU, two. On a CPU, all batches get the same number of threads. Preferred are divisors of the core count,
        the largest first, as a run gains little from its last threads. With fewer than two (11, 13, 22 cores), also
        numbers that leave at most a tenth of the cores idle, the fewest idle first.
        """
        if is_gpu:
            return [GPU_LANES] if (self.settings.max_instances or GPU_LANES) >= GPU_LANES else []
        most = min(self.threads, MAX_LANES, self.settings.max_instances or MAX_LANES)
        left = {count: self.threads % count for count in range(2, most + 1)}
        counts = [count for count in left if not left[count]]
        if len(counts) < 2:
            counts = [count for count in left if left[count] * 10 <= self.threads]
        return sorted(sorted(counts, key=lambda count: (left[count], -count))[:_MOST_COUNTS])


def repeat(golden: Golden, rows: int) -> Pixels:
    """Return `rows` golden pictures, repeated as needed."""
    return np.resize(golden.images, (rows, *golden.images.shape[1:]))
