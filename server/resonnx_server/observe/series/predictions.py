"""What a classifier predicts: the shares of its classes, how sure it is, and how its probabilities spread.

Rows are counted many at a time, so that a small model's answer does not pay for a call of numpy. Event loop only.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from resonnx_server.observe.series.histogram import Histogram

# Probability of the best class.
CONFIDENCES: Final = (0.3, 0.5, 0.7, 0.9, 0.99)
# As shares of the most that the classes allow.
ENTROPIES: Final = (0.01, 0.05, 0.2, 0.4, 0.7)
# Classes that are told; the others are summed up.
MOST_CLASSES: Final = 20
# Predictions after which an earlier one counts half.
HALF_LIFE: Final = 1000
# Rows, and probabilities of all rows, that are counted at once: about 0.1 ms.
_ROWS: Final = 256
_ELEMENTS: Final = 1 << 14

Probabilities = npt.NDArray[Any]


class Predictions:
    """Counts the predictions of one version.

    Args:
        names: Names of its classes, by index.

    Attributes:
        confidence: Probability of the best class.
        entropy: Shannon's entropy of the probabilities, -sum p log p, divided by log K for K classes: 0 if all is on
            one class, 1 if all are equal.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.confidence = Histogram(CONFIDENCES)
        self.entropy = Histogram(ENTROPIES)
        # By class, with earlier ones counting less.
        self._weights = np.zeros(len(names))
        self._pending: list[Probabilities] = []
        self._rows = 0
        self._most_rows = max(1, min(_ROWS, _ELEMENTS // len(names)))

    def add(self, probabilities: Probabilities) -> None:
        """Count rows [n,K] of probabilities, which are finite."""
        self._pending.append(probabilities)
        self._rows += len(probabilities)
        if self._rows >= self._most_rows:
            self.count()

    def count(self) -> None:
        """Count the rows that were added and wait to be counted."""
        if not self._pending:
            return
        rows = np.concatenate(self._pending).astype(np.float64)
        self._pending, self._rows = [], 0
        best = rows.argmax(axis=1)
        highest = rows[np.arange(len(rows)), best]
        # 0 log 0 is 0.
        spread = -(rows * np.log(np.maximum(rows, np.finfo(np.float64).tiny))).sum(axis=1)
        if len(self.names) > 1:
            spread /= math.log(len(self.names))
        _observe(self.confidence, CONFIDENCES, highest)
        _observe(self.entropy, ENTROPIES, spread)
        self._weights *= 0.5 ** (len(rows) / HALF_LIFE)
        self._weights += np.bincount(best, minlength=len(self._weights))

    def shares(self) -> tuple[dict[int, float], float]:
        """Return the shares of the most frequent classes, most frequent first, and that of all others.

        Of about the last 1,000 predictions; nothing if there was none.
        """
        self.count()
        total = float(self._weights.sum())
        if not total:
            return {}, 0.0
        first = np.argsort(-self._weights, kind="stable")[:MOST_CLASSES]
        shares = {int(index): float(self._weights[index]) / total for index in first if self._weights[index]}
        return shares, max(0.0, 1.0 - sum(shares.values()))


def _observe(histogram: Histogram, bounds: Sequence[float], values: Probabilities) -> None:
    places = np.searchsorted(bounds, values)
    histogram.add(np.bincount(places, minlength=len(bounds) + 1).tolist(), float(values.sum()))
