"""Pictures with differing answers, kept for the report of a rollback."""

from typing import NamedTuple

from resonnx_server.comparison.copies import Answer, Copy
from resonnx_server.comparison.differences import Difference
from resonnx_server.runtime.pictures.images import Pixels


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
        of_new: The answers that are checked are the new version's; else the serving one's.
    """

    def __init__(self, most: int, *, of_new: bool) -> None:
        self._most, self._of_new = most, of_new
        self.found: list[Disagreement] = []

    def add(self, copy: Copy, answer: Answer, difference: Difference) -> None:
        """Keep a disagreement, if there is room."""
        if len(self.found) < self._most:
            base, new = (copy.served, answer) if self._of_new else (answer, copy.served)
            self.found.append(Disagreement(copy.pixels, base, new, difference))

    def clear(self) -> None:
        """Keep none any more."""
        self.found.clear()
