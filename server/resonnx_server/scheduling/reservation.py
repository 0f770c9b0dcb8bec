"""A request's place in a queue, from before its pictures are decoded until its answer is there.

Decoding is work too: a request is refused before it, not after, and those who come later wait for it already.
"""

import asyncio
from types import TracebackType
from typing import Any, Self

from resonnx_server.errors import DeadlineExceeded, WaitTooLong
from resonnx_server.scheduling.batcher import Batcher
from resonnx_server.scheduling.deadline_admission import DeadlineAdmission, Decoding
from resonnx_server.scheduling.device import Device


class QueueReservation:
    """`with QueueReservation(…): decode, submit, wait`. Room is kept until rows `arrive`, or else until the block ends.

    Args:
        queue: Where there shall be room.
        device: Whose lock guards the queue.
        admission: Of the same model.
        rows: Rows that will come.
        priority: Theirs.
        own_ns: Expected time of their batches on a device that does nothing else.
        ahead_ns: Expected time of the model's queue before them.
        deadline_ns: The caller's, monotonic.
        decoding: Expected, of their pictures; None if there are none to decode.
        teaches: What becomes of it tells how far off predictions are.

    Raises:
        Overloaded: The queue is full.
        DeadlineUnreachable: The deadline would pass before the answer is there, even if nothing were before them.
        WaitTooLong: The deadline would pass before the answer is there.
    """

    __slots__ = ("_admission", "_device", "_expected", "_prediction", "_queue", "_rows", "deadline_ns", "priority")

    def __init__(
        self,
        queue: Batcher[Any],
        device: Device,
        admission: DeadlineAdmission,
        *,
        rows: int,
        priority: int,
        own_ns: float,
        ahead_ns: float,
        deadline_ns: int | None,
        decoding: Decoding | None = None,
        teaches: bool = True,
    ) -> None:
        self.deadline_ns, self.priority = deadline_ns, priority
        limited = admission.has_limit(deadline_ns)
        prediction = admission.check(own_ns, deadline_ns, decoding, ahead_ns) if limited else None
        self._prediction = prediction if teaches else None
        self._expected = queue.expect(rows, priority, pictures=decoding is not None)
        self._queue, self._device, self._admission, self._rows = queue, device, admission, rows

    def arrive(self, rows: int) -> None:
        """Give back the room of `rows` that are pushed now. Call with the device's lock held."""
        self._queue.arrived(self._expected, rows)
        self._rows -= rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._device.lock:
            self.arrive(self._rows)
            prediction = self._prediction
            if prediction is None:
                return
            passed = self._device.clock() - prediction.at_ns > prediction.allowed_ns
            left = isinstance(error, asyncio.CancelledError)
            too_late = isinstance(error, DeadlineExceeded | WaitTooLong) or (left and passed)
            # Who left early, or sent what is no picture, tells nothing of the wait.
            if error is None or too_late:
                self._admission.learn(prediction, too_late=too_late)
