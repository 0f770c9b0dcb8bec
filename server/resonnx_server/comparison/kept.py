"""Pictures with differing answers, kept for the report of a rollback: few, and within the memory budget."""

from typing import Final, NamedTuple

from resonnx_server.comparison.copies import Answer, Copy
from resonnx_server.comparison.differences import Difference
from resonnx_server.errors import ServerError
from resonnx_server.memory.budget import Budget, Charge
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.scheduling.sharing import COMPARISON

# The part of the memory that requests share which the pictures of a comparison may take: 1/16.
_PART_OF_MEMORY: Final = 16


class Disagreement(NamedTuple):
    """A picture, uint8 [H,W,3], and both answers for it."""

    pixels: Pixels
    base: Answer
    new: Answer
    difference: Difference


class Kept:
    """The first disagreements of a comparison. Event loop only.

    Args:
        most: Their number; 0 keeps none.
        budget: Their memory is charged to it.
        of_new: The answers that are checked are the new version's; else the serving one's.
    """

    def __init__(self, most: int, budget: Budget, *, of_new: bool) -> None:
        self._most, self._of_new = most, of_new
        self._budget, self._most_bytes = budget, budget.most // _PART_OF_MEMORY
        self._charges: list[Charge] = []
        self.found: list[Disagreement] = []

    def add(self, copy: Copy, answer: Answer, difference: Difference) -> None:
        """Keep a disagreement, if there is room."""
        if len(self.found) < self._most and self._charged(copy.pixels.nbytes):
            base, new = (copy.served, answer) if self._of_new else (answer, copy.served)
            self.found.append(Disagreement(copy.pixels, base, new, difference))

    def clear(self) -> None:
        """Keep none any more."""
        self.found.clear()
        for charge in self._charges:
            charge.release()
        self._charges.clear()

    def _charged(self, nbytes: int) -> bool:
        """Whether there is memory for another picture; it is charged then."""
        if sum(charge.nbytes for charge in self._charges) + nbytes > self._most_bytes:
            return False
        try:
            self._charges.append(self._budget.charge(COMPARISON, nbytes))
        except ServerError:
            # Requests need the memory.
            return False
        return True
