"""One batch of tensor requests on its way through a session, on a device's lane, and what its members get of it.

A run comes first and changes nobody. Where it fails, each member runs alone; what it gave that is no number fails the
member whose rows hold it. So one bad member never hurts its neighbours.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from resonnx_server.errors import InferenceFailed, ServerError
from resonnx_server.observe.stats import Timing, count_all
from resonnx_server.runtime.session import Array
from resonnx_server.scheduling.batcher import Batch, Entry
from resonnx_server.scheduling.buffers import BufferPool
from resonnx_server.scheduling.session_pool import Tensors, TensorSessionPool

if TYPE_CHECKING:
    from resonnx_server.tensors.engine import TensorEngine

_log = logging.getLogger(__name__)

# Of outputs that are joined on the event loop: a fraction of a millisecond.
_SMALL_BYTES: Final = 1 << 20


@dataclass(slots=True, eq=False)
class TensorTask:
    """A request of `rows`, and what batches have answered of it.

    Attributes:
        whole_rows: Of one that is run as it is, however many they are; None where batches are put together.
        parts: What is answered so far.
        answered: Rows of these.
    """

    inputs: Tensors
    rows: int
    future: "asyncio.Future[list[Part]]"
    whole_rows: int | None = None
    parts: "list[Part]" = field(default_factory=list)
    answered: int = 0

    def answer(self, entry: "Entry[TensorTask]", outputs: Tensors, timing: Timing) -> None:
        """Take what one batch gave for the rows of `entry`; on the event loop."""
        if self.future.done():
            return
        self.parts.append((entry, outputs, timing))
        self.answered += entry.rows
        if self.answered == self.rows:
            self.future.set_result(self.parts)


# What one batch gave for some of a request's rows.
Part = tuple[Entry[TensorTask], Tensors, Timing]


# What each member of a batch gets.
Outcomes = list[tuple[Entry[TensorTask], tuple[Tensors, Timing] | ServerError]]


class TensorJob:
    """One batch on its way through the session."""

    def __init__(self, engine: "TensorEngine", batch: Batch[TensorTask], runner: TensorSessionPool) -> None:
        self._engine = engine
        self._batch = batch
        self.runner = runner
        self._counts: list[Callable[[], None]] = []
        self.cost_ns = runner.table.time_ns(batch.entries[0].payload.whole_rows or batch.size)
        self.has_all_cores = runner.has_all_cores

    def run(self) -> None:
        """Run the batch and post every member's outcome to the loop, in one wake-up."""
        batch = self._batch
        try:
            outcomes = self._run_together(batch.entries, batch.size)
        except Exception as error:  # the boundary of a batch: whatever fails, every member gets an outcome
            _log.exception("a batch failed", extra={"rows": batch.rows})
            outcomes = [(batch.entries[0], _told(error))] if len(batch.entries) == 1 else self._run_singly()
        self._engine.finished(self.runner)
        self._engine.post(lambda: self._deliver(outcomes))

    def _deliver(self, outcomes: Outcomes) -> None:
        deliver(outcomes)
        count_all(*self._counts)

    def _run_singly(self) -> Outcomes:
        outcomes: Outcomes = []
        for entry in self._batch.entries:
            try:
                outcomes += self._run_together([entry], self.runner.table.padded_batch_size(entry.rows))
            except Exception as error:  # as above
                outcomes.append((entry, _told(error)))
        return outcomes

    def _run_together(self, entries: list[Entry[TensorTask]], size: int) -> Outcomes:
        engine = self._engine
        clock = engine.device.clock
        start = clock()
        feeds, lent = self._assemble(entries, size)
        assembled = clock()
        try:
            outputs = self.runner.run(feeds)
        finally:
            for name, buffer in lent:
                engine.staging[name].release(buffer)
        ran = clock()
        whole_rows, held = entries[0].payload.whole_rows, sum(entry.rows for entry in entries)
        rows = whole_rows or held
        parts = _slices(outputs, entries, size) if engine.batched and whole_rows is None else [outputs]
        sound = _finite_rows(outputs, held) if engine.finite else np.ones(held, np.bool_)
        if not sound.all():
            _log.error("rows of a batch are no finite numbers", extra={"rows": held, "failed": int((~sound).sum())})
        done = clock()
        if whole_rows is None:
            engine.record(self.runner, size, ran - assembled)
        else:
            # It tells nothing of batches of this size.
            size = rows
        input_ns, infer_ns, output_ns = assembled - start, ran - assembled, done - ran
        self._counts.append(partial(engine.stats.batch_done, rows, size, input_ns, infer_ns, output_ns))
        outcomes: Outcomes = []
        for entry, part, end in zip(entries, parts, accumulate(entry.rows for entry in entries), strict=True):
            if sound[end - entry.rows : end].all():
                timing = Timing(start - entry.arrival_ns, input_ns, infer_ns, output_ns, rows)
                outcomes.append((entry, (part, timing)))
            else:
                outcomes.append((entry, InferenceFailed("the model gave values that are no finite numbers")))
        return outcomes

    def _assemble(self, entries: list[Entry[TensorTask]], size: int) -> tuple[Tensors, list[tuple[str, Array | None]]]:
        engine = self._engine
        if not engine.batched or entries[0].payload.whole_rows is not None:
            return entries[0].payload.inputs, []
        feeds: Tensors = {}
        lent = []
        for name in entries[0].payload.inputs:
            staging = engine.staging.setdefault(name, BufferPool(engine.largest, engine.device.allocate))
            feeds[name], buffer = staging.join([_part(entry, name) for entry in entries], size)
            lent.append((name, buffer))
        return feeds, lent


def _part(entry: Entry[TensorTask], name: str) -> Array:
    array = entry.payload.inputs[name]
    return array if entry.rows == entry.payload.rows else array[entry.start : entry.start + entry.rows]


async def joined(parts: list[Part]) -> tuple[Tensors, Timing]:
    """Return a request's outputs, its rows in order, and the time of the part that waited longest.

    Large ones are joined beside the event loop.

    Raises:
        InferenceFailed: They do not fit each other.
    """
    if len(parts) == 1:
        ((_, outputs, timing),) = parts
        return outputs, timing
    timing = max((timing for _, _, timing in parts), key=lambda timing: timing.queue_ns)
    size = sum(array.nbytes for _, outputs, _ in parts for array in outputs.values())
    try:
        return (_in_order(parts) if size <= _SMALL_BYTES else await asyncio.to_thread(_in_order, parts)), timing
    except ValueError:
        _log.exception("batches' outputs cannot be joined", extra={"parts": len(parts)})
    raise InferenceFailed("the model's outputs for some of the rows do not fit the others'")


def _in_order(parts: list[Part]) -> Tensors:
    in_order = [outputs for _, outputs, _ in sorted(parts, key=lambda part: part[0].start)]
    return {name: np.concatenate([outputs[name] for outputs in in_order]) for name in in_order[0]}


def _slices(outputs: Tensors, entries: list[Entry[TensorTask]], size: int) -> list[Tensors]:
    if any(len(array) != size for array in outputs.values()):
        shapes = {name: array.shape for name, array in outputs.items()}
        raise ValueError(f"a batch of {size} rows was answered with {shapes}")
    parts = []
    start = 0
    for entry in entries:
        end = start + entry.rows
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts


def _finite_rows(outputs: Tensors, rows: int) -> npt.NDArray[np.bool_]:
    """Tell for each of the first `rows` whether all that was answered for it are finite numbers."""
    finite = np.ones(rows, np.bool_)
    for array in outputs.values():
        are_finite = np.isfinite(array[:rows])
        # One look where all is well.
        if not are_finite.all():
            finite &= are_finite.reshape(rows, -1).all(axis=1)
    return finite


def _told(error: Exception) -> ServerError:
    """Return what callers are told of an error, without its frames or its cause's: they hold everybody's inputs."""
    if isinstance(error, ServerError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    return InferenceFailed("the model failed on this input")


def deliver(outcomes: Outcomes) -> None:
    """Tell every member its outcome; on the event loop."""
    for entry, outcome in outcomes:
        if isinstance(outcome, ServerError):
            fail(entry, outcome)
        else:
            entry.payload.answer(entry, *outcome)


def fail(entry: Entry[TensorTask], error: ServerError) -> None:
    """End a request with an error; on the event loop."""
    if not entry.payload.future.done():
        entry.payload.future.set_exception(error)
