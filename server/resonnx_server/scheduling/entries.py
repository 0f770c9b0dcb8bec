"""Requests of a queue: admitted ones whose rows are still to come, and rows that wait or are in a batch."""

from collections.abc import Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from resonnx_server.scheduling.deadline_admission import Prediction
from resonnx_server.scheduling.sharing import DEFAULT_PRIORITY

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Entry(Generic[T]):
    """Rows of one request that wait, or that are in a batch.

    Attributes:
        rows: Number of rows; any number while it waits.
        arrival_ns: Monotonic time of arrival.
        deadline_ns: Monotonic time after which the answer is useless.
        shape: Entries share a batch only if their shapes are equal.
        priority: 1 (first) to PRIORITY_LEVELS.
        start: Index of its first row within the request.
        found_idle: On arrival the queue was empty and no lane was busy, so a late answer is not due to a wait.
        caller: Whose request it is.
        weight: Device time that a row causes, as a multiple of its share of a batch.
        max_wait_ns: Longest time from its arrival to its batch; 0 is any.
        is_part: It waits in the room that its request keeps, and takes none itself; see QueueReservation.in_parts.
    """

    payload: T
    rows: int
    arrival_ns: int
    deadline_ns: int | None = None
    shape: Hashable = None
    priority: int = DEFAULT_PRIORITY
    start: int = 0
    found_idle: bool = False
    caller: str = ""
    weight: float = 1.0
    max_wait_ns: int = 0
    is_part: bool = False

    @property
    def room(self) -> int:
        """Rows of the queue's limit that it takes while it waits."""
        return 0 if self.is_part else self.rows


@dataclass(slots=True, eq=False)
class QueueReservation:
    """An admitted request without its payload, whose pictures may still have to be decoded.

    `with engine.reserve(…) as reservation: … await engine.submit(work, reservation)`. Rows that have not been submitted
    when the block ends are released.

    Attributes:
        rows: Rows not submitted yet.
        room: Rows of the queue's limit that are kept free for them.
        ahead: Rows that later requests are predicted to wait for: one batch at most.
        deadline_ns: The request's monotonic deadline, or None.
        priority: 1 (first) to PRIORITY_LEVELS.
        prediction: Compared with the outcome when the block ends, if not None.
        row_demand: Of each row; see RequestQueue.reserve.
        whole: Likewise.
        caller: Whose request it is.
        max_wait_ns: A shorter longest wait than its priority's, or 0.
        more_outputs: Names of outputs that it needs beyond those that every request of the model gets.
        since_ns: When its wait began, monotonic, if that was before its work is submitted; else 0.
        in_parts: Its rows come in parts, of which few wait at a time. All wait in its room, until the last one comes.
        has_begun: It has come in parts, but for the last.
    """

    queue: "Reserves"
    rows: int
    room: int
    ahead: int
    deadline_ns: int | None
    priority: int
    prediction: Prediction | None = None
    row_demand: Any = None
    whole: bool = False
    caller: str = ""
    max_wait_ns: int = 0
    more_outputs: tuple[str, ...] = ()
    since_ns: int = 0
    in_parts: bool = False
    has_begun: bool = False

    def release(self, rows: int) -> tuple[int, int]:
        """Release `rows`, at most those left; return their room, and those of them that others wait for."""
        rows = min(rows, self.rows)
        self.rows -= rows
        if self.in_parts:
            room, ahead = 0 if self.rows else self.room, max(0, self.ahead - self.rows)
        else:
            room, ahead = min(rows, self.room), min(rows, self.ahead)
        self.room -= room
        self.ahead -= ahead
        return room, ahead

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.rows or self.prediction is not None:
            self.queue.end(self, error)


class Reserves(Protocol):
    """The queue that admitted a request."""

    def end(self, reservation: QueueReservation, error: BaseException | None) -> None:
        """Release the rest of a reservation, and learn from the outcome."""
