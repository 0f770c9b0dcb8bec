"""The order of a stream's answers: each waits for those to the requests before it. Knows neither gRPC nor asyncio."""

from collections import deque
from typing import Generic, TypeVar

R = TypeVar("R")


class _Waiting:
    """The type of `_WAITING`."""


_WAITING = _Waiting()


class Turn(Generic[R]):
    """One request's place in the order, and its answer once that is there."""

    __slots__ = ("answer",)

    def __init__(self) -> None:
        self.answer: R | _Waiting = _WAITING


class Turns(Generic[R]):
    """Gives turns to requests as they come, and answers back when their turn has come."""

    def __init__(self) -> None:
        self._turns: deque[Turn[R]] = deque()

    def take(self) -> Turn[R]:
        """Return the turn of a request, after all that were taken before."""
        turn: Turn[R] = Turn()
        self._turns.append(turn)
        return turn

    def settle(self, turn: Turn[R], answer: R) -> list[R]:
        """Take the answer to a turn's request, and return those whose turn has come with it, in their order."""
        turn.answer = answer
        due: list[R] = []
        turns = self._turns
        while turns and not isinstance(next_answer := turns[0].answer, _Waiting):
            turns.popleft()
            due.append(next_answer)
        return due
