"""The interface of every kind of work for a device: tensors, captions."""

from typing import Any, Protocol, TypeVar

from resonnx_server.scheduling.deadline_admission import Decoding
from resonnx_server.scheduling.queue import DEFAULT_PRIORITY, QueueReservation

Cost = TypeVar("Cost", contravariant=True)
Work = TypeVar("Work", contravariant=True)
Answer = TypeVar("Answer", covariant=True)


class Engine(Protocol[Cost, Work, Answer]):
    """One model's work. Called on the event loop.

    A request reserves room before its pictures are decoded, and is submitted while the reservation is open:
    `with engine.reserve(cost, …) as reservation: … await engine.submit(work, reservation)`.
    """

    def reserve(
        self,
        cost: Cost,
        deadline_ns: int | None = None,
        priority: int = DEFAULT_PRIORITY,
        decoding: Decoding | None = None,
    ) -> QueueReservation:
        """Admit a request and reserve room for it in the queue.

        Args:
            cost: Size of the request, in the engine's own terms: rows of tensors, pictures and decode options.
            deadline_ns: Monotonic time by which the answer is wanted; None is no limit.
            priority: 1 (first) to PRIORITY_LEVELS.
            decoding: Predicted decoding time of the request's picture files; None if there are none.

        Raises:
            Overloaded: The queue is full.
            DeadlineUnreachable: The deadline is too near even for an idle device.
            WaitTooLong: The deadline would pass because of the work queued before.
            Unavailable: The model is being closed.
        """

    async def submit(self, work: Work, reservation: QueueReservation) -> Answer:
        """Queue one request, or one part of it, within its reservation and return the answer.

        Raises:
            Overloaded: The queue is full: a large request reserves only part of its rows.
            DeadlineExceeded: The deadline passed first.
            DeadlineUnreachable: When its turn came, less time was left than the request takes.
            WaitTooLong: The same, and the wait was the reason.
            InferenceFailed: The runtime failed on this request, or its outputs are not usable.
            Unavailable: The model is being closed.
        """

    def queued(self) -> int:
        """Return the number of queued requests, including those of which only some rows still wait."""

    def queued_rows(self) -> int:
        """Return the number of queued rows."""

    def close(self) -> None:
        """Fail all queued requests and refuse new ones; batches under way end."""


AnyEngine = Engine[Any, Any, Any]
