"""What is known of a new version so far: answers compared, and times. Event loop only."""

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from resonnx_server.comparison.differences import Difference
from resonnx_server.comparison.latencies import Latencies

# Pairs of runs that the ratio of compute times is made of: the latest ones, and at least so many.
_KEPT_PAIRS: Final = 256
LEAST_PAIRS: Final = 16
# Answers of each version before their 99th percentiles are compared.
LEAST_FOR_P99: Final = 200


@dataclass(slots=True)
class Evidence:
    """Counts of one comparison; an answer is that for one picture.

    Attributes:
        n: Compared answers.
        agreeing: Those of them that are equal: the same best class, or the same words.
        dp_sum: Sum over answers of the largest difference of a probability.
        dp_max: The largest of them.
        edits: Sum of the edit distances, in words.
        errors: Answers that could not be compared, as the new version failed.
        runs: Answers that the new version was asked for: compared ones and errors.
        served: Latencies of calls that the new version answered (canary).
        served_by_base: Those of the calls that the serving version answered meanwhile.
    """

    n: int = 0
    agreeing: int = 0
    dp_sum: float = 0.0
    dp_max: float = 0.0
    edits: int = 0
    errors: int = 0
    served: Latencies = field(default_factory=Latencies)
    served_by_base: Latencies = field(default_factory=Latencies)
    _ratios: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_PAIRS))

    @property
    def runs(self) -> int:
        """Answers that were compared, and errors."""
        return self.n + self.errors

    def add(self, difference: Difference) -> None:
        """Count one compared answer."""
        self.n += 1
        self.agreeing += difference.agrees
        self.dp_sum += difference.dp
        self.dp_max = max(self.dp_max, difference.dp)
        self.edits += difference.edits

    def add_pair(self, new_ns: float, base_ns: float) -> None:
        """Count the compute times of both versions for one batch of the same rows, each alone on the device."""
        if base_ns > 0:
            self._ratios.append(new_ns / base_ns)

    @property
    def pairs(self) -> int:
        """Number of pairs that `compute` is made of."""
        return len(self._ratios)

    @property
    def compute(self) -> float | None:
        """Median of the new version's compute time as a multiple of the serving one's; None while too few are known."""
        return median(self._ratios) if len(self._ratios) >= LEAST_PAIRS else None

    @property
    def p99_s(self) -> tuple[float, float] | None:
        """99th percentiles of latency of the new and the serving version, in s; None while too few are known."""
        if min(self.served.count, self.served_by_base.count) < LEAST_FOR_P99:
            return None
        return self.served.quantile_s(0.99), self.served_by_base.quantile_s(0.99)
