"""One encoder batch, on a device's lane. A job never raises: whatever fails, every request gets an outcome."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from resonnx_server.captioning.request import CaptionTask, Encoded, failure_of_one
from resonnx_server.captioning.stepping import CaptionJob, read_rows
from resonnx_server.errors import InferenceHung
from resonnx_server.observe.incidents import report_incident
from resonnx_server.observe.requests.identity import ids_of, spans_of
from resonnx_server.observe.spans.tracer import batch_attributes, tracer
from resonnx_server.observe.stats import BatchCount, Dispatch
from resonnx_server.runtime.decoding.step_output import StepOutput
from resonnx_server.scheduling.session_pool import BufferPool

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class EncodeJob(CaptionJob):
    """One encoder batch; its size is in pictures.

    Attributes:
        tasks: Requests whose pictures are encoded.
        buffers: Memory to put pictures together in.
        dispatch: Why it begins now.
        joining: Encoded pictures with words to come, once it ran.
    """

    tasks: list[CaptionTask]
    buffers: BufferPool
    dispatch: Dispatch
    joining: list[Encoded] = field(default_factory=list)

    def run(self) -> None:
        """Encode all pictures together or, if that fails, each by itself."""
        try:
            self.infer_ns = self._encode(self.tasks, self.size)
        except Exception as error:  # the boundary of a batch: whatever fails, every member gets an outcome
            if not isinstance(error, InferenceHung):
                extra = {"rows": len(self.tasks), "request_ids": ids_of(task.identity for task in self.tasks)}
                report_incident(_log, "an encoder batch failed", error, extra=extra)
            if len(self.tasks) == 1 or isinstance(error, InferenceHung):
                for task in self.tasks:
                    self._failed(task, error)
                return
            for task in self.tasks:
                self._encode_alone(task)

    def _encode_alone(self, task: CaptionTask) -> None:
        self.moved_ns = self.clock()
        try:
            self._encode([task], self.pool.table.padded_batch_size(1))
        except Exception as error:  # the boundary of one picture
            self._failed(task, error)

    def _failed(self, task: CaptionTask, error: Exception) -> None:
        self.completions.failed(task, self.failure_alone(error, "the model failed on this picture", task))

    def _encode(self, tasks: Sequence[CaptionTask], size: int) -> int:
        """Run the encoder and let the captions begin; return the duration of the run."""
        clock = self.clock
        start = clock()
        images, buffer = self.buffers.join([task.image[np.newaxis] for task in tasks], size)
        assembled = clock()
        try:
            state, features, first_log_probs, *watched = self.pool.run(images)
        finally:
            self.buffers.release(buffer)
        end = clock()
        first = None if first_log_probs is None else StepOutput.of_log_probs(first_log_probs[: len(tasks)])
        times = assembled - start, end - assembled, clock() - end
        count = BatchCount(len(tasks), size, *times, self.dispatch, self.pool.table.cost_ns(size))
        self.completions.batches.append(count)
        if watched and watched[0] is not None:
            self.completions.watched.append((tasks[0].turn[1], watched[0][: len(tasks)]))
        if tracer.is_on:
            members = spans_of(task.identity for task in tasks)
            tracer.batch("encoder batch", members, start, clock(), batch_attributes(count))
        for row, task in enumerate(tasks):
            task.start_ns, task.queue_ns, task.encoded_ns = start, start - task.arrival_ns, end
            task.input_ns, task.infer_ns, task.batch_rows = count.input_ns, count.infer_ns, count.rows
            task.end_ns = end
            self._begin(Encoded(task, state, features, row), first, end)
        return count.infer_ns

    def _begin(self, encoded: Encoded, first: StepOutput | None, now_ns: int) -> None:
        """Let a caption read its first word, if the encoder gives it, and join the decoding."""
        task = encoded.task
        try:
            if first is not None:
                read_rows(task, first, [encoded.row], True, now_ns, self.completions)
        except Exception as error:  # the boundary of one caption
            self.completions.failed(task, failure_of_one(error, task))
            return
        if task.search.finished:
            self.completions.end(task)
        else:
            self.joining.append(encoded)
