"""One encoder batch, on a device's lane. A job never raises: whatever fails, every request gets an outcome."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from resonnx_server.captioning.request import CaptionTask, Completions, Encoded, failure_of_one
from resonnx_server.captioning.stepping import finish, read_rows
from resonnx_server.errors import InferenceFailed
from resonnx_server.observe.stats import BatchCount
from resonnx_server.runtime.decoding.step_output import StepOutput
from resonnx_server.scheduling.device import Clock
from resonnx_server.scheduling.session_pool import AnySessionPool, BufferPool

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class EncodeJob:
    """One encoder batch.

    Attributes:
        tasks: Requests whose pictures are encoded.
        pool: The encoder's session.
        size: Batch size in pictures.
        buffers: Memory to put pictures together in.
        clock: Monotonic ns.
        done: Called with the job at its end, with the device's lock held.
        joining: Encoded pictures with words to come, once it ran.
        infer_ns: Duration of the encoder's run; None if the batch failed as a whole.
        completions: What callers and counters get.
    """

    tasks: list[CaptionTask]
    pool: AnySessionPool
    size: int
    buffers: BufferPool
    clock: Clock
    done: "Callable[[EncodeJob], None]"
    joining: list[Encoded] = field(default_factory=list)
    infer_ns: int | None = None
    completions: Completions = field(default_factory=Completions)
    cost_ns: float = field(init=False)
    has_all_cores: bool = field(init=False)

    def __post_init__(self) -> None:
        self.cost_ns, self.has_all_cores = self.pool.table.cost_ns(self.size), self.pool.has_all_cores

    def run(self) -> None:
        """Encode all pictures together or, if that fails, each by itself."""
        try:
            self.infer_ns = self._encode(self.tasks, self.size)
        except Exception:  # the boundary of a batch: whatever fails, every member gets an outcome
            _log.exception("an encoder batch failed", extra={"rows": len(self.tasks)})
            for task in self.tasks:
                self._encode_singly(task)

    def finish(self) -> None:
        self.done(self)

    def _encode_singly(self, task: CaptionTask) -> None:
        try:
            # A batch of one has failed already.
            if len(self.tasks) > 1:
                self._encode([task], self.pool.table.padded_batch_size(1))
                return
        except Exception:  # the boundary of one picture
            _log.exception("a picture could not be encoded by itself")
        self.completions.failed(task, InferenceFailed("the model failed on this picture"))

    def _encode(self, tasks: Sequence[CaptionTask], size: int) -> int:
        """Run the encoder and let the captions begin; return the duration of the run."""
        clock = self.clock
        start = clock()
        images, buffer = self.buffers.join([task.image[np.newaxis] for task in tasks], size)
        assembled = clock()
        try:
            state, features, first_log_probs = self.pool.run(images)
        finally:
            self.buffers.release(buffer)
        end = clock()
        first = None if first_log_probs is None else StepOutput.of_log_probs(first_log_probs[: len(tasks)])
        count = BatchCount(len(tasks), size, assembled - start, end - assembled, clock() - end)
        self.completions.batches.append(count)
        for row, task in enumerate(tasks):
            task.queue_ns = start - task.arrival_ns
            task.input_ns, task.infer_ns, task.batch_rows = count.input_ns, count.infer_ns, count.rows
            self._begin(Encoded(task, state, features, row), first, end)
        return count.infer_ns

    def _begin(self, encoded: Encoded, first: StepOutput | None, now_ns: int) -> None:
        """Let a caption read its first word, if the encoder gives it, and join the decoding."""
        task = encoded.task
        try:
            if first is not None:
                read_rows(task, first, [encoded.row], True, now_ns, self.completions)
        except Exception as error:  # the boundary of one caption
            self.completions.failed(task, failure_of_one(error))
            return
        if task.search.finished:
            finish(task, self.completions)
        else:
            self.joining.append(encoded)
