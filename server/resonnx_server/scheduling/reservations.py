"""Room in a queue for pictures that are yet to be decoded, and what those who come later wait for of them. Pure."""

from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Expected:
    """What is kept for one request: rows of room, and rows that others wait for."""

    room: int
    ahead: int
    priority: int


class ExpectedRows:
    """All that a queue expects.

    A request of many pictures may take minutes to decode, in which its room would be refused to others, and comes at
    once when the last is done. So requests of several pictures keep at most a quarter of the queue each, and half of it
    with those that go before them. Of one that is larger, the other rows find room only when they come. And others wait
    for no more of it than fits into a batch.

    Args:
        max_queue_rows: The queue's.
        largest_batch: In rows.
        levels: Priorities, of which 1 goes first.
    """

    def __init__(self, max_queue_rows: int, largest_batch: int, levels: int) -> None:
        self.most_of_many = max(1, max_queue_rows // 2)
        self._most_of_one = max(1, max_queue_rows // 4)
        self._largest_batch = largest_batch
        self._room = [0] * levels
        self._ahead = [0] * levels

    @property
    def room(self) -> int:
        """Rows that room is kept for."""
        return sum(self._room)

    def leaves_room(self, rows: int, priority: int) -> bool:
        """Tell whether with a request of so many pictures others would still have their half."""
        return rows == 1 or sum(self._room[:priority]) + min(rows, self._most_of_one) <= self.most_of_many

    def add(self, rows: int, priority: int, *, pictures: bool) -> Expected:
        """Keep what a request needs; all of its room if there is nothing to decode, as it comes at once."""
        room = min(rows, self._most_of_one) if pictures else rows
        expected = Expected(room, min(rows, self._largest_batch), priority)
        self._room[priority - 1] += expected.room
        self._ahead[priority - 1] += expected.ahead
        return expected

    def arrived(self, expected: Expected, rows: int) -> None:
        """Give back what was kept for `rows`, which are queued now or will not come."""
        room, ahead = min(rows, expected.room), min(rows, expected.ahead)
        expected.room -= room
        expected.ahead -= ahead
        self._room[expected.priority - 1] -= room
        self._ahead[expected.priority - 1] -= ahead

    def ahead(self, priority: int) -> int:
        """Rows that a request that came now would wait for."""
        return sum(self._ahead[:priority])
