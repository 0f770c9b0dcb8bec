"""Computes the latency of a queue whose server runs all waiting requests as one batch.

Arrivals are Poisson; a batch takes a fixed time that depends on its size; an idle server starts at once. Queue lengths
at the ends of batches form a Markov chain (N. T. J. Bailey, "On queueing processes with bulk service", J. Royal
Statistical Society B 16, 1954). Dynamic batching of inference servers is this queue with batch times that grow with the
size (Y. Inoue, "Queueing analysis of GPU-based inference servers with dynamic batching: A closed-form
characterization", Performance Evaluation 147, 2021). The chain is solved numerically here, as tables of measured times
follow no formula, and latencies are those that a random arrival sees.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

# Number of queue lengths of the chain: a multiple of the largest batch, and some more.
_LENGTHS: Final = 8
_LEAST_LENGTHS: Final = 64
# A busier queue is taken for one that grows without limit.
MOST_BUSY: Final = 0.97
# The chain has settled when no probability changes by more than this; or after so many steps.
_SETTLED: Final = 1e-9
_MOST_STEPS: Final = 5_000
# Moments within a batch's time at which arrivals are looked at.
_MOMENTS: Final = 16


@dataclass(frozen=True)
class BatchQueue:
    """A queue with its server.

    Args:
        times_s: Seconds that a batch takes, by size; a batch of another size takes as long as the next larger one.
        rate: Arrivals a second, over 0.
    """

    times_s: Mapping[int, float]
    rate: float

    @property
    def busy(self) -> float:
        """The least share of its time for which the server is busy, if all batches were as large as they can be."""
        return self.rate / max(size / seconds for size, seconds in self.times_s.items())

    def percentile_s(self, share: float) -> float:
        """Return the latency in seconds that `share` (0 to 1) of arrivals do not exceed; infinity beyond MOST_BUSY."""
        most = max(self.times_s)
        if self.rate * self.times_s[most] / most > MOST_BUSY:
            return math.inf
        latencies = sorted(self._latencies())
        sums = list(accumulate(weight for _, weight in latencies))
        goal = share * sums[-1]
        return next(seconds for (seconds, _), reached in zip(latencies, sums, strict=True) if reached >= goal)

    def _latencies(self) -> list[tuple[float, float]]:
        """Return latencies in seconds of a random arrival and their weights."""
        lengths = self._lengths()
        most, last_s = max(self.times_s), self.times_s[max(self.times_s)]
        # An arrival at an idle server is a batch of its own.
        found = [(self._time_s(1), lengths[0])]
        # Shares of batches, by their time and the requests that they leave in the queue: only the largest leave any.
        batches: dict[tuple[float, int], float] = {}
        for length, share in enumerate(lengths):
            key = self._time_s(min(max(length, 1), most)), max(0, length - most)
            batches[key] = batches.get(key, 0.0) + share
        arrivals = {
            (seconds, moment): (self._arrivals(seconds * moment), self._sizes(seconds * (1 - moment), most))
            for seconds in {seconds for seconds, _ in batches}
            for moment in ((number + 0.5) / _MOMENTS for number in range(_MOMENTS))
        }
        for (seconds, left), share in batches.items():
            if share < _SETTLED:
                continue
            weight = share * self.rate * seconds / _MOMENTS
            for number in range(_MOMENTS):
                moment = (number + 0.5) / _MOMENTS
                before, sizes = arrivals[seconds, moment]
                rest_s = seconds * (1 - moment)
                for earlier, chance in enumerate(before):
                    ahead = left + earlier
                    if ahead >= most:
                        # In a later batch, which is taken for a full one.
                        found.append((rest_s + (ahead // most + 1) * last_s, weight * chance))
                        continue
                    found += [(rest_s + own_s, weight * chance * part) for own_s, part in sizes[ahead]]
        return found

    def _sizes(self, seconds: float, most: int) -> list[list[tuple[float, float]]]:
        """Return the times in seconds of the next batch and their chances, by the number of requests ahead.

        Args:
            seconds: Time until it begins.
            most: Size of the largest batch.
        """
        later = self._arrivals(seconds)
        found = []
        for ahead in range(most):
            chances: dict[float, float] = {}
            for number, chance in enumerate(later):
                own_s = self._time_s(min(ahead + 1 + number, most))
                chances[own_s] = chances.get(own_s, 0.0) + chance
            found.append(list(chances.items()))
        return found

    def _lengths(self) -> list[float]:
        """Return the chances of queue lengths at the end of a batch, from 0 on."""
        most = max(self.times_s)
        count = _LENGTHS * most + _LEAST_LENGTHS
        arrivals = {seconds: self._arrivals(seconds) for seconds in set(self.times_s.values())}
        lengths = [1.0] + [0.0] * (count - 1)
        for _ in range(_MOST_STEPS):
            after = [0.0] * count
            starts: dict[tuple[float, int], float] = {}
            for length, share in enumerate(lengths):
                key = self._time_s(min(max(length, 1), most)), max(0, length - most)
                starts[key] = starts.get(key, 0.0) + share
            for (seconds, left), share in starts.items():
                if share < _SETTLED * _SETTLED:
                    continue
                for number, chance in enumerate(arrivals[seconds]):
                    after[min(left + number, count - 1)] += share * chance
            change = max(abs(a - b) for a, b in zip(lengths, after, strict=True))
            lengths = after
            if change < _SETTLED:
                break
        return lengths

    def _arrivals(self, seconds: float) -> list[float]:
        """Return the chances of 0, 1, … arrivals within `seconds`, up to six standard deviations above the mean."""
        mean = self.rate * seconds
        count = int(mean + 6 * math.sqrt(mean) + 8)
        logarithms = [
            number * math.log(mean) - mean - math.lgamma(number + 1) if mean else 0.0 for number in range(count)
        ]
        chances = [math.exp(each) for each in logarithms] if mean else [1.0]
        whole = sum(chances)
        return [chance / whole for chance in chances]

    def _time_s(self, size: int) -> float:
        """Return the time of a batch in seconds."""
        return self.times_s[min(given for given in self.times_s if given >= size)]
