"""Copies of live requests that wait to be run on another version: few, and within the memory budget."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from resonnx_server.errors import ServerError
from resonnx_server.memory.budget import Budget, Charge
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.scheduling.sharing import COMPARISON

# Copies that wait, and the part of the memory that requests share which they may take: 1/16.
_MOST_COPIES: Final = 128
_PART_OF_MEMORY: Final = 16

# Probabilities float32 [K], or the ids of a caption's words.
Answer = npt.NDArray[np.float32] | tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Copy:
    """One picture of a live request.

    Attributes:
        pixels: uint8 [H,W,3], which nobody writes to any more.
        served: The answer that its caller has got.
        rows: Rows of the batch that gave it.
        options: Of a caption; None for a classifier.
        charge: Its memory.
    """

    pixels: Pixels
    served: Answer
    rows: int
    options: DecodeOptions | None
    charge: Charge


class Copies:
    """A queue of copies. Event loop only.

    Args:
        budget: Their memory is charged to it.

    Attributes:
        dropped: Pictures of chosen requests that found no room.
    """

    def __init__(self, budget: Budget) -> None:
        self.dropped = 0
        self._budget = budget
        self._waiting: deque[Copy] = deque()
        self._bytes = 0
        self._some = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, pixels: Pixels, served: list[Answer], rows: int, options: DecodeOptions | None = None) -> None:
        """Take the pictures of a request, uint8 [N,H,W,3], and their answers, unless there is no room."""
        for number, answer in enumerate(served):
            if (charge := self._charge(pixels[number].nbytes)) is None:
                self.dropped += len(served) - number
                return
            picture = pixels[0] if len(pixels) == 1 and _owns_memory(pixels) else pixels[number].copy()
            self._waiting.append(Copy(picture, answer, rows, options, charge))
            self._bytes += charge.nbytes
            self._some.set()

    async def some(self) -> None:
        """Wait until there are some."""
        await self._some.wait()

    def take(self, most: int) -> list[Copy]:
        """Remove and return the oldest ones, at most `most`."""
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._bytes -= sum(copy.charge.nbytes for copy in taken)
        if not self._waiting:
            self._some.clear()
        return taken

    def first(self) -> Copy | None:
        """Return the oldest one."""
        return self._waiting[0] if self._waiting else None

    def clear(self) -> None:
        """Free them."""
        for copy in self.take(len(self._waiting)):
            copy.charge.release()

    def _charge(self, nbytes: int) -> Charge | None:
        if len(self._waiting) >= _MOST_COPIES or self._bytes + nbytes > self._budget.most // _PART_OF_MEMORY:
            return None
        try:
            return self._budget.charge(COMPARISON, nbytes)
        except ServerError:
            # Requests need the memory.
            return None


def _owns_memory(array: Pixels) -> bool:
    """Whether an array lies in memory of its own: not in a message, nor in memory shared with a caller."""
    owner = array if array.base is None else array.base
    return isinstance(owner, np.ndarray) and owner.flags.owndata
