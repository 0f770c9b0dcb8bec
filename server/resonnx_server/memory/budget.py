"""The memory budget of the server: what all requests together may hold, and how much of it one caller. Thread-safe."""

import threading
from types import TracebackType
from typing import Final, Self

from resonnx_server.errors import InvalidInput, MemorySpent

_RETRY_AFTER_MS: Final = 100
# Part of the budget that only answers to accepted requests may take: 1/8.
_FOR_ANSWERS: Final = 8
# Part of that in which only callers that hold little find room: 1/2, and 1/8 of it for each; half is for their answers.
_FOR_SMALL: Final = 2
_SMALL: Final = 8
# Part of what the decoder leaves that is kept for the batches of models at most: 1/4.
_FOR_BATCHES: Final = 4
# A caller that holds so much of the budget gets no more: if it is alone, so that another finds some, and beside others.
_SHARE_ALONE: Final = 3 / 4
_SHARE_BESIDE_OTHERS: Final = 1 / 2


class Charge:
    """Bytes of the budget that a caller holds, until `release` or the end of a `with` block.

    Attributes:
        caller: Who holds them.
        nbytes: Bytes that are held now; only the budget changes it.
    """

    __slots__ = ("_budget", "caller", "nbytes")

    def __init__(self, budget: "Budget", caller: str) -> None:
        self._budget = budget
        self.caller = caller
        self.nbytes = 0

    def resize(self, nbytes: int, *, answer: bool = False, held: bool = False) -> None:
        """Hold `nbytes` from now on, instead of what is held.

        Args:
            nbytes: 0 or more; fewer bytes are always possible.
            answer: They hold an answer to an accepted request: it may take what is kept for answers, and more than a
                share.
            held: The memory is taken already: it is counted even where the budget is spent.

        Raises:
            MemorySpent: The budget, or the caller's share of it, is spent. Nothing has changed.
            InvalidInput: So many bytes never fit.
        """
        self._budget.change(self, nbytes, answer=answer, held=held)

    def release(self) -> None:
        """Hold nothing any more. Safe to call again."""
        if self.nbytes:
            self._budget.change(self, 0)

    def __enter__(self) -> Self:
        """Hold the bytes until the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Budget:
    """Bounds the memory of all requests, from a request's first byte to the last byte of its answer.

    A caller that holds half of the budget gets no more while others hold some, and none that holds three quarters; the
    last request may exceed the share. An eighth is kept for answers to requests that are accepted. Half of that is only
    for callers that hold at most a sixteenth of it, and half of this again for their answers only: a few that hold all
    else, as requests or as answers that they do not read, do not close the server to others. What batches of the
    models take (`keep_for_batches`) is taken off before.

    Args:
        max_bytes: The whole budget.
        set_aside: The decoder's part of it, which it divides itself (Decoder); it is not charged here.

    Attributes:
        max_bytes: The whole budget.
        for_batches: Bytes that are kept for the batches of models.
        busy: Set when bytes are charged; whoever waits for it clears it.
    """

    def __init__(self, max_bytes: int, set_aside: int = 0) -> None:
        self.max_bytes = max_bytes
        self._beside_decoder = max_bytes - set_aside
        self.for_batches = 0
        self._divide()
        self._lock = threading.Lock()
        self._used = self._peak = self._unseen = 0
        self._by_caller: dict[str, int] = {}
        self.busy = threading.Event()

    def keep_for_batches(self, nbytes: int) -> int:
        """Keep memory for the batches of all models, in place of what was kept; it cannot be charged.

        Requests that are accepted hold what they have: where they hold more than is left, new ones are refused.

        Args:
            nbytes: 0 or more. At most a quarter of what the decoder leaves is kept.

        Returns:
            The bytes that are beyond this quarter.
        """
        with self._lock:
            self.for_batches = min(nbytes, self._beside_decoder // _FOR_BATCHES)
            self._divide()
            return nbytes - self.for_batches

    def _divide(self) -> None:
        """Compute the limits of charges."""
        self._most = self._beside_decoder - self.for_batches
        self._most_new = self._most - self._most // _FOR_ANSWERS
        reserve = (self._most - self._most_new) // _FOR_SMALL
        self._most_answers, self._small = self._most - reserve, reserve // _SMALL
        self._most_small = self._most - reserve // _FOR_SMALL
        self._share_alone = int(self._most_new * _SHARE_ALONE)
        self._share = int(self._most_new * _SHARE_BESIDE_OTHERS)

    def charge(self, caller: str, nbytes: int, *, answer: bool = False, held: bool = False) -> Charge:
        """Return a charge of `nbytes` to `caller`; arguments and errors are those of Charge.resize."""
        charge = Charge(self, caller)
        charge.resize(nbytes, answer=answer, held=held)
        return charge

    def change(self, charge: Charge, nbytes: int, *, answer: bool = False, held: bool = False) -> None:
        """Set what a charge holds; see Charge.resize."""
        with self._lock:
            before, caller = charge.nbytes, charge.caller
            more = nbytes - before
            own = self._by_caller.get(caller, 0)
            if more > 0 and not held:
                self._check(own - before, before, more, answer, alone=own == self._used)
            charge.nbytes = nbytes
            self._used += more
            if own + more:
                self._by_caller[caller] = own + more
            else:
                self._by_caller.pop(caller, None)
            if self._used > self._peak:
                self._peak = self._used
        if more > 0 and not self.busy.is_set():
            self.busy.set()

    def has_room(self, caller: str, nbytes: int) -> bool:
        """Whether `nbytes` could be charged to a caller now."""
        with self._lock:
            own = self._by_caller.get(caller, 0)
            try:
                self._check(own, 0, nbytes, False, alone=own == self._used)
            except MemorySpent:
                return False
        return True

    def _check(self, others: int, before: int, more: int, answer: bool, *, alone: bool) -> None:
        """Raise unless a charge of `before` bytes may hold `more`; its caller's other charges hold `others`."""
        most = self._most_answers if answer else self._most_new
        if more > most:
            raise InvalidInput(
                "request", f"needs {more} bytes of memory; memory_budget_bytes leaves {most} to requests. Send less"
            )
        used = self._used + self._unseen
        if others + before + more <= self._small:
            most = self._most if answer else self._most_small
        if used + more > most:
            raise MemorySpent(
                f"requests hold {used} of {most} bytes, their part of memory_budget_bytes; this one needs {more} more",
                _RETRY_AFTER_MS,
            )
        share = self._share_alone if alone else self._share
        if others >= share and not answer:
            raise MemorySpent(
                f"requests of this caller hold {others} bytes; its share of memory_budget_bytes is {share}",
                _RETRY_AFTER_MS,
            )

    @property
    def used(self) -> int:
        """Bytes that are charged now."""
        return self._used

    @property
    def unseen(self) -> int:
        """Bytes of the process beyond those charged, which count as used; see MemoryWatch."""
        return self._unseen

    @unseen.setter
    def unseen(self, nbytes: int) -> None:
        with self._lock:
            self._unseen = nbytes

    @property
    def most(self) -> int:
        """The part of the budget that can be charged, without those of the decoder and of batches."""
        return self._most

    def largest_before(self, caller: str) -> str | None:
        """Return the caller that holds the most, if `caller` holds less than an equal part of the budget; else None."""
        with self._lock:
            own, callers = self._by_caller.get(caller, 0), len(self._by_caller) + (caller not in self._by_caller)
            if own * callers >= self._most_new or not self._by_caller:
                return None
            largest = max(self._by_caller, key=self._by_caller.__getitem__)
        return None if largest == caller else largest

    @property
    def callers(self) -> int:
        """Callers that hold some of the budget."""
        return len(self._by_caller)

    def take_peak(self) -> int:
        """Return the most bytes that were charged since the last call."""
        with self._lock:
            peak, self._peak = self._peak, self._used
        return peak
