"""One version while it is loaded: its settings, and how the files of any kind of model are opened and warmed."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from resonnx_proto.v1.manifest_pb2 import ImageInput

from resonnx_server.config import ModelSettings
from resonnx_server.errors import ModelRefused
from resonnx_server.inference.registry import Model
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository.choose import digest, open_candidates
from resonnx_server.repository.latency_cache import Kept, LatencyCache
from resonnx_server.repository.progress import Progress
from resonnx_server.repository.scan import ModelFolder
from resonnx_server.runtime.model_files.golden_examples import Golden
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.runtime.session import CPU, Session
from resonnx_server.scheduling.deadline_admission import Objective
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import Measured, far_above, measure, sizes_up_to

_log = logging.getLogger(__name__)

# The last step of a load, on the event loop: begin to serve.
Start = Callable[[], Model]
# Batches that may run at once on the CPU.
MAX_LANES: Final = 8
# And on a GPU: one is copied there or back while the other computes.
GPU_LANES: Final = 2
# Each number of batches at once that is tried costs a session, and a second or so.
_MOST_COUNTS: Final = 4
# Batch that providers race at.
_RACE_BATCH: Final = 8


@dataclass(frozen=True)
class Version:
    """See above.

    Attributes:
        found: Where it is.
        settings: The model's.
        metrics: Of the server.
        device_for: The device that runs a provider's work.
        threads: Threads of one run.
        cache: Tables that were measured at earlier starts.
        progress: Is told how far the load is, and ends it.
        pictures: The settings' picture options for a recipe.
    """

    found: ModelFolder
    settings: ModelSettings
    metrics: Metrics
    device_for: Callable[[str], Device]
    threads: int
    cache: LatencyCache
    progress: Progress = field(default_factory=Progress)
    pictures: Callable[[ImageInput], PictureOptions] = PictureOptions

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes that are warmed, and so run."""
        return sizes_up_to(self.settings.max_batch_size)

    @property
    def objective(self) -> Objective | None:
        """What the settings want the model to keep."""
        milliseconds = self.settings.latency_objective_ms
        if milliseconds is None:
            return None
        return Objective(int(milliseconds * 1e6), self.settings.shed_on_objective)

    def open(self, files: VersionFiles, file: str) -> list[Session]:
        """Open `file` on every candidate. Raises ModelRefused if it is missing or none loads it."""
        if file not in files.files:
            raise ModelRefused(f"{file} is missing")
        self.progress.reach("opening")
        return open_candidates(files, file, self.settings.provider or "auto", self.threads, self.cache.folder)

    def race_pictures(self, golden: Golden) -> Pixels:
        """Return the batch that providers race at."""
        return repeat(golden, min(_RACE_BATCH, self.settings.max_batch_size))

    def instance_counts(self) -> list[int]:
        """Numbers of batches at once that are worth trying, ascending: up to the device's lanes, and four at most.

        All batches get equally many threads, so numbers that divide the cores leave none idle. Where fewer than two do
        (of 11 and 13 none, of 22 only 2), those serve too that leave at most a tenth of the cores over, which decoding
        and the event loop take: the fewest left over first. Otherwise the largest come first: where there are many
        cores, a run gains little by its last ones.
        """
        left = {count: self.threads % count for count in range(2, min(self.threads, MAX_LANES) + 1)}
        counts = [count for count in left if not left[count]]
        if len(counts) < 2:
            counts = [count for count in left if left[count] * 10 <= self.threads]
        return sorted(sorted(counts, key=lambda count: (left[count], -count))[:_MOST_COUNTS])

    def warm(
        self,
        files: VersionFiles,
        session: Session,
        file: str,
        sizes: tuple[int, ...],
        run: Callable[[int], object],
        callers: int = 1,
    ) -> LatencyTable:
        """Return what each size costs with `callers` batches at once: measured now, or earlier on this hardware.

        Sizes far above the others are measured again, at every start: a moment's disturbance must not keep a size from
        being run, and what is not run is not corrected by live batches. So is all that was measured while something
        else held the processors, at the next starts (see Kept): it serves until then, as live batches correct it.
        """

        def moving(rows: int) -> object:
            self.progress.move()
            return run(rows)

        self.progress.reach("measuring")
        content = digest(files.files[file])
        known = self.cache.get(content, session, sizes, callers)
        kept = known
        if kept is None or kept.is_doubtful:
            kept = self._measured(moving, file, sizes, callers, known)
        if far := far_above({size: each.median_ns for size, each in kept.costs.items()}):
            kept = replace(kept, costs=least(kept.costs, measure(moving, sorted(far), callers).costs))
        self.progress.is_doubtful |= kept.is_doubtful
        if kept != known:
            self.cache.put(content, session, kept, callers)
        if known is not None and not known.is_doubtful:
            # The CPU provider compiles nothing for a shape; it only has to grow its memory once.
            for size in sizes[-1:] if session.candidate.provider == CPU else sizes:
                moving(size)
        return LatencyTable.of(kept.costs)

    def _measured(
        self, run: Callable[[int], object], file: str, sizes: tuple[int, ...], callers: int, before: Kept | None
    ) -> Kept:
        """Measure all sizes; what was measured `before` is doubtful, and of use only if this is, too."""
        measured = measure(run, sizes, callers)
        if not measured.received.is_disturbed:
            return Kept(measured.costs)
        extra = {"model": self.found.name, "file": file, "share": round(measured.received.lost, 2)}
        _log.info("measured while something else held the processors", extra=extra)
        if before is None:
            return Kept(measured.costs, doubts=1)
        # Company makes runs longer, never shorter.
        return Kept(least(measured.costs, before.costs), before.doubts + 1)


def least(costs: Mapping[int, Measured], others: Mapping[int, Measured]) -> dict[int, Measured]:
    """Return `costs`, or of the sizes that `others` has the one that took less."""
    return {size: min(each, others.get(size, each), key=lambda one: one.median_ns) for size, each in costs.items()}


def repeat(golden: Golden, rows: int) -> Pixels:
    """Return `rows` golden pictures, over and over."""
    return np.resize(golden.images, (rows, *golden.images.shape[1:]))
