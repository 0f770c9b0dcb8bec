"""The shares of cells on the last requests, with weights that decay with each row."""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from resonnx_server.drift.usual import Usual

# Effective rows of the windows: the first sees a change soon, the second a small one.
WINDOWS: Final = (100, 1000)
# Rows that are counted together: counting costs most of its time for each call.
_BLOCK: Final = 64
# With fewer effective rows shares are coarse, and nothing is told.
_LEAST_EFFECTIVE: Final = 30


class Reading(NamedTuple):
    """A window's distance from the reference, its bound, and the effective number of rows behind it."""

    window: int
    distance: float
    bound: float
    effective: float


@dataclass(slots=True)
class _Sums:
    """Of each window: weighted cells [2,d], weights [2], and squares of weights [2]."""

    cells: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]


class Estimate:
    """Decayed shares, in memory that does not grow. Not thread-safe.

    Row t rows ago has the weight r^t with r = 1 - 2 / (window + 1), so that the effective number of rows,
    (sum of weights)^2 / (sum of their squares) (Kish), tends to `window`.

    Args:
        usual: The reference.
        width: Values of a row.
        dtype: Their type.
        blank: Fills rows that are shorter.
    """

    def __init__(self, usual: Usual, width: int, dtype: npt.DTypeLike = np.float32, blank: float = 0) -> None:
        self._usual, self._blank = usual, blank
        self._block = np.full((_BLOCK, width), blank, dtype)
        self._used = 0
        ages = np.arange(_BLOCK - 1, -1, -1)
        rates = 1 - 2 / (np.array(WINDOWS)[:, np.newaxis] + 1)
        # Of the rows of a full block, and of all sums after 0, 1, ... rows more.
        self._weights = rates**ages
        self._decays = rates ** np.arange(_BLOCK + 1)
        size, count = len(usual.shares), len(WINDOWS)
        self._sums = _Sums(np.zeros((count, size)), np.zeros(count), np.zeros(count))

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Add rows [n, at most `width`], oldest first."""
        start = 0
        while start < len(rows):
            count = min(len(rows) - start, _BLOCK - self._used)
            part = self._block[self._used : self._used + count]
            part[:, : rows.shape[1]] = rows[start : start + count]
            part[:, rows.shape[1] :] = self._blank
            self._used += count
            start += count
            if self._used == _BLOCK:
                self._count()

    def readings(self) -> list[Reading]:
        """Return a reading of each window; none before there are enough rows."""
        self._count()
        sums, usual = self._sums, self._usual
        readings = []
        for i, window in enumerate(WINDOWS):
            effective = float(sums.weights[i] ** 2 / sums.squares[i]) if sums.squares[i] else 0.0
            if effective >= _LEAST_EFFECTIVE:
                shares = (sums.cells[i] / sums.weights[i]).astype(np.float32)
                readings.append(Reading(window, usual.distance(shares), usual.bound(effective), effective))
        return readings

    def _count(self) -> None:
        """Move the rows of the block into the sums."""
        used, sums = self._used, self._sums
        if not used:
            return
        weights, decay = self._weights[:, _BLOCK - used :], self._decays[:, used]
        cells = self._usual.cells(self._block[:used])
        sums.cells = sums.cells * decay[:, np.newaxis] + weights @ cells
        sums.weights = sums.weights * decay + weights.sum(axis=1)
        sums.squares = sums.squares * decay**2 + np.square(weights).sum(axis=1)
        self._used = 0
