"""The jobs of a captioner, and one of them: a decoder step of all captions, on a device's lane.

The step owns the slots. A job never raises: whatever fails, every request gets an outcome. The run changes no caption;
if it fails, each caption runs alone. Its output is then read caption by caption, and an error fails only that caption.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from resonnx_server.captioning.request import CaptionTask, Completions, Encoded, failure_of_one
from resonnx_server.captioning.slots import Slots
from resonnx_server.errors import DeadlineExceeded, InferenceFailed, InferenceHung, ServerError
from resonnx_server.observe.incidents import report_incident
from resonnx_server.observe.requests.identity import ids_of
from resonnx_server.observe.stats import StepCount
from resonnx_server.runtime.decoding.step_output import StepOutput
from resonnx_server.runtime.graphs import Step
from resonnx_server.runtime.memory_errors import is_lack_of_memory
from resonnx_server.runtime.session import Array
from resonnx_server.scheduling.device import Clock
from resonnx_server.scheduling.session_pool import AnySessionPool
from resonnx_server.scheduling.watchdog import RunLimit

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of the decoder: its output, its duration, and when it ended (monotonic)."""

    step: Step[Any]
    output: StepOutput
    infer_ns: int
    end_ns: int


# For each row of the next step, the index of the caption's row that it continues; or the caption's failure.
_Outcome = Sequence[int] | InferenceFailed


@dataclass(slots=True, eq=False)
class CaptionJob:
    """A run of the encoder or of the decoder.

    Attributes:
        pool: The graph's session.
        size: Expected batch size; once it ran, the actual one.
        clock: Monotonic ns.
        completions: Takes what callers and counters get.
        done: Called with the job at its end, with the device's lock held.
        gave_up: Called in its place if the job does not end, with the device's lock held.
        limit: The longest run.
        infer_ns: Duration of the graph's run; None if it failed, or if nothing was left to run.
        moved_ns: See Watched.
        was_interrupted: The watchdog ended its run.
        lacks_memory: A run for one request failed for lack of memory.
    """

    pool: AnySessionPool
    size: int
    clock: Clock
    completions: Completions
    done: Callable[[Any], None]
    gave_up: Callable[[Any], None]
    limit: RunLimit
    infer_ns: int | None = field(default=None, init=False)
    moved_ns: int = field(default=0, init=False)
    was_interrupted: bool = field(default=False, init=False)
    lacks_memory: bool = field(default=False, init=False)
    cost_ns: float = field(init=False)
    has_all_cores: bool = field(init=False)

    def __post_init__(self) -> None:
        self.cost_ns, self.has_all_cores = self.pool.table.cost_ns(self.size), self.pool.has_all_cores

    def finish(self) -> None:
        """Report the job as ended."""
        self.done(self)

    def limit_ns(self) -> int:
        """Return the longest time of one run."""
        return self.limit.of(self.pool.table, self.size)

    def give_up(self) -> None:
        """Report that the job does not end."""
        self.gave_up(self)

    def failure_alone(self, error: Exception, message: str, task: CaptionTask) -> InferenceFailed:
        """Return the error of a request whose run failed, by itself or because it was interrupted."""
        if isinstance(error, InferenceHung):
            self.was_interrupted = True
            return InferenceHung()
        self.lacks_memory |= is_lack_of_memory(error)
        extra = {"request_ids": ids_of([task.identity])}
        return InferenceFailed.hidden(report_incident(_log, "a caption failed by itself", error, extra=extra), message)


@dataclass(slots=True, eq=False)
class StepJob(CaptionJob):
    """One decoder step; its size is in rows.

    Attributes:
        slots: Hold the captions.
        joining: Encoded pictures whose captions begin with this step.
        rows: Rows in use, once it ran.
        begin_ns: When the job began.
        ended: Captions that have ended.
    """

    slots: Slots[CaptionTask, Any]
    joining: list[Encoded]
    rows: int = 0
    begin_ns: int = 0
    ended: list[CaptionTask] = field(default_factory=list)

    def run(self) -> None:
        """Let new captions join and unwanted ones leave, run the step, and collect words and results."""
        slots = self.slots
        self.begin_ns = self.clock()
        try:
            self._join_and_leave()
            if slots.owners:
                self._step(list(slots.owners))
            self._release()
        except Exception as error:  # the boundary of a step: whatever fails, every caption gets an outcome
            extra = {"rows": len(slots), "request_ids": ids_of(task.identity for task in slots.owners)}
            incident = report_incident(_log, "a decoder step failed", error, extra=extra)
            for task in {**slots.owners, **{encoded.task: None for encoded in self.joining}}:
                self.completions.failed(task, InferenceFailed.hidden(incident, "the decoder failed"))
            for task in list(slots.owners):
                slots.leave(task)

    def _join_and_leave(self) -> None:
        slots, now = self.slots, self.begin_ns
        for task in [task for task in slots.owners if not _is_wanted(task, now)]:
            self._fail(task, _too_late())
        for encoded in self.joining:
            task = encoded.task
            if not _is_wanted(task, now):
                self.completions.failed(task, _too_late())
                continue
            try:
                slots.join(task, task.search.tokens, encoded.state, encoded.features, encoded.row)
            except Exception as error:  # the boundary of one caption
                self._fail(task, failure_of_one(error, task))

    def _step(self, tasks: list[CaptionTask]) -> None:
        """Run the step of all rows or, if that fails, of each caption's."""
        slots = self.slots
        self.rows = len(slots)
        self.size = self.pool.table.padded_batch_size(self.rows)
        outcomes: list[tuple[CaptionTask, _Outcome]]
        try:
            run = self._run(slots.inputs(self.size), tasks)
        except InferenceHung as hung:
            outcomes = [(task, self.failure_alone(hung, "", task)) for task in tasks]
        except Exception as error:  # the boundary of a step
            extra = {"rows": self.rows, "request_ids": ids_of(task.identity for task in tasks)}
            report_incident(_log, "a decoder step failed", error, extra=extra)
            if len(tasks) == 1:
                outcomes = [(tasks[0], self.failure_alone(error, "the decoder failed", tasks[0]))]
            else:
                outcomes = [(task, self._step_alone(task)) for task in tasks]
        else:
            self.infer_ns = run.infer_ns
            slots.store(run.step.state)
            self._count(tasks, self.rows, self.size, run)
            outcomes = [(task, self._read(task, run, task.rows)) for task in tasks]
        # Every caption has read its rows before any row moves.
        for task, outcome in outcomes:
            if isinstance(outcome, InferenceFailed):
                self._fail(task, outcome)
            elif not task.search.finished:
                try:
                    slots.advance(task, outcome, task.search.tokens)
                except Exception as error:  # the boundary of one caption
                    self._fail(task, failure_of_one(error, task))
        if self.infer_ns is None:
            slots.clear_free()

    def _step_alone(self, task: CaptionTask) -> _Outcome:
        """Run the step of one caption's rows."""
        rows = len(task.rows)
        self.moved_ns = self.clock()
        try:
            size = self.pool.table.padded_batch_size(rows)
            run = self._run(self.slots.inputs_of(task, size), [task])
            self.slots.store_of(task, run.step.state)
            self._count([task], rows, size, run)
            return self._read(task, run, range(rows))
        except Exception as error:  # the boundary of one caption
            return self.failure_alone(error, "the decoder failed", task)

    def _run(self, inputs: tuple[Array, list[Any], list[Any]], tasks: list[CaptionTask]) -> _Run:
        start = self.clock()
        step = self.pool.run(
            *inputs,
            attention=any(task.options.attention for task in tasks),
            log_probs=any(task.search.needs_log_probs for task in tasks),
        )
        end = self.clock()
        return _Run(step, StepOutput.of_step(step), end - start, end)

    def _read(self, task: CaptionTask, run: _Run, rows: Sequence[int]) -> _Outcome:
        task.infer_ns += run.infer_ns
        task.end_ns = run.end_ns
        try:
            return read_rows(task, run.output, rows, task.search.needs_log_probs, run.end_ns, self.completions)
        except Exception as error:  # the boundary of one caption
            return failure_of_one(error, task)

    def _count(self, tasks: list[CaptionTask], rows: int, size: int, run: _Run) -> None:
        used = sum(len(task.rows) for task in tasks if not task.future.done())
        expected_ns = self.pool.table.cost_ns(size)
        self.completions.steps.append(StepCount(rows, len(tasks), size - used, expected_ns, run.infer_ns))

    def _release(self) -> None:
        """Free the rows of captions that have ended."""
        for task in [task for task in self.slots.owners if task.search.finished]:
            self.ended.append(task)
            self.slots.leave(task)
            self.completions.end(task)

    def _fail(self, task: CaptionTask, failure: ServerError) -> None:
        self.slots.leave(task)
        self.completions.failed(task, failure)


def read_rows(
    task: CaptionTask, output: StepOutput, rows: Sequence[int], whole: bool, now_ns: int, completions: Completions
) -> Sequence[int]:
    """Let a caption's search read its rows of a step; return the rows that it continues, as `Search.advance` does.

    Args:
        task: The caption.
        output: Output of the step.
        rows: The caption's rows in it.
        whole: The search reads all tokens, not only the top.
        now_ns: Monotonic time of the output.
        completions: Takes the caption's words.

    Raises:
        InferenceFailed: The rows hold values that are no log-probabilities.
    """
    if not output.are_sound(rows, whole=whole):
        raise InferenceFailed("the model's log-probabilities are NaN or infinite")
    task.steps += 1
    search = task.search
    sources = search.advance(output, rows)
    if (task.on_words is not None or not task.has_word) and (words := search.stable_words()):
        if not task.has_word:
            task.has_word = True
            completions.first_words_ns.append(now_ns - task.arrival_ns)
        if task.on_words is not None:
            completions.words.append((task, words))
    return sources


def _too_late() -> DeadlineExceeded:
    """Return the error of a request whose deadline has passed; one that was cancelled ignores it."""
    return DeadlineExceeded("the deadline passed before the caption was finished")


def _is_wanted(task: CaptionTask, now_ns: int) -> bool:
    return not task.future.done() and (task.deadline_ns is None or now_ns < task.deadline_ns)
