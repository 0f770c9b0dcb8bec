"""Compares caption policies in seconds, before they are built: a discrete-event simulation over tables of costs.

    python benchmarks/caption_policies.py [--server HOST:PORT --model NAME]

The policies are the server's own (engine/pacing.py) and fixed thresholds beside them. Costs are those below, measured
on two AVX-512 cores (OpenVINO provider; int8 ResNet-50 encoder, LSTM of 512 units, 10,000 words), or those that a
running server has measured of a model. Captions have 6 to 18 tokens, 11 on average, which no policy may read.
"""

import argparse
import heapq
import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

from resonnx import Client
from resonnx_server.engine.latency import LatencyTable, sizes_up_to
from resonnx_server.engine.pacing import Continuous, Load, OneAtATime, Pacing, Rigid

# ms by rows.
_ENCODER: Final = {1: 3.6, 2: 5.4, 16: 40.4}
_DECODERS: Final[dict[str, dict[int, float]]] = {
    "LSTM, fp32": {1: 0.65, 4: 0.71, 16: 1.06, 32: 1.87, 64: 3.4},
    "LSTM, bf16": {1: 0.66, 4: 0.75, 16: 0.8, 32: 1.05, 64: 1.8},
    "attention": {1: 0.85, 64: 7.15},
}
_SLOTS: Final = 64
_LARGEST_BATCH: Final = 16
# What Python adds to a job.
_OVERHEAD_NS: Final = 100_000
# From an answer to the same client's next picture.
_TURNAROUND_NS: Final = 300_000
_CAPTIONS: Final = 3000
_LENGTHS: Final = range(6, 19)
# Geometric weights that make the mean 11.
_WEIGHTS: Final = [0.93 ** (length - 6) for length in _LENGTHS]


@dataclass
class Thresholds:
    """Encode up to `most` pictures when `gathered` wait or no more than `few` captions are under way."""

    most: int
    gathered: int
    few: int
    holds_finished: bool = False

    def encode_now(self, load: Load) -> int:
        """See pacing.Pacing."""
        is_time = load.waiting >= self.gathered or load.captions <= self.few
        return min(load.waiting, self.most) if is_time else 0


@dataclass
class _Caption:
    arrival_ns: float
    tokens: int
    decoded: int = 0


@dataclass(frozen=True)
class Outcome:
    """Captions a second, and the time from arrival to answer in ms."""

    rate: float
    p50_ms: float
    p99_ms: float


class Simulation:
    """One device under one policy.

    Args:
        policy: When to encode and when to step.
        encode: Costs by pictures.
        step: Costs by rows.
        seed: Of arrivals and lengths.
    """

    def __init__(self, policy: Pacing, encode: LatencyTable, step: LatencyTable, seed: int = 0) -> None:
        self._policy, self._encode, self._step = policy, encode, step
        self._random = random.Random(seed)
        self._coming: list[tuple[float, int, _Caption]] = []
        self._waiting: deque[_Caption] = deque()
        self._active: list[_Caption] = []
        self._done: list[tuple[float, float]] = []
        self._now = 0.0
        self._count = 0
        self._mean_tokens = 10.0

    def closed(self, clients: int) -> Outcome:
        """So many clients, each with one picture under way."""
        for _ in range(clients):
            self._arrive(self._random.uniform(0, 1e6))
        return self._run(_CAPTIONS, again=True)

    def open(self, rate: float) -> Outcome:
        """Poisson arrivals, `rate` a second."""
        at = 0.0
        for _ in range(_CAPTIONS):
            at += self._random.expovariate(rate / 1e9)
            self._arrive(at)
        return self._run(_CAPTIONS, again=False)

    def _arrive(self, at_ns: float) -> None:
        (tokens,) = self._random.choices(_LENGTHS, _WEIGHTS)
        self._count += 1
        heapq.heappush(self._coming, (at_ns, self._count, _Caption(at_ns, tokens)))

    def _run(self, captions: int, *, again: bool) -> Outcome:
        while len(self._done) < captions:
            while self._coming and self._coming[0][0] <= self._now:
                self._waiting.append(heapq.heappop(self._coming)[2])
            active = len(self._active)
            waiting = min(len(self._waiting), _SLOTS - active, self._encode.largest)
            load = Load(waiting, active, active, self._mean_tokens)
            if waiting and (pictures := self._policy.encode_now(load)):
                self._encode_some(min(pictures, waiting))
            elif active:
                for caption in self._step_all():
                    if again:
                        self._arrive(self._now + _TURNAROUND_NS)
                    self._done.append((self._now, self._now - caption.arrival_ns))
            else:
                self._now = self._coming[0][0]
        return self._outcome()

    def _encode_some(self, pictures: int) -> None:
        pictures = min(pictures, self._encode.best_size(pictures))
        self._now += self._encode.cost_ns(self._encode.bucket(pictures)) + _OVERHEAD_NS
        self._active += [self._waiting.popleft() for _ in range(pictures)]

    def _step_all(self) -> list[_Caption]:
        self._now += self._step.cost_ns(self._step.bucket(len(self._active))) + _OVERHEAD_NS
        for caption in self._active:
            caption.decoded += 1
        ended = [caption for caption in self._active if caption.decoded >= caption.tokens]
        if self._policy.holds_finished and len(ended) < len(self._active):
            return []
        self._active = [caption for caption in self._active if caption.decoded < caption.tokens]
        for caption in ended:
            self._mean_tokens += 0.05 * (caption.tokens - self._mean_tokens)
        return ended

    def _outcome(self) -> Outcome:
        warm = self._done[len(self._done) // 10 :]
        percentiles = quantiles((ns / 1e6 for _, ns in warm), n=100)
        return Outcome((len(warm) - 1) / (warm[-1][0] - warm[0][0]) * 1e9, percentiles[49], percentiles[98])


def table(points: Mapping[int, float], largest: int) -> LatencyTable:
    """Return a table of all warmed sizes from a few of them (ms), by straight lines between."""
    return LatencyTable({size: _between(points, size) * 1e6 for size in sizes_up_to(largest)})


def _between(points: Mapping[int, float], size: int) -> float:
    low = max(point for point in points if point <= size)
    high = min((point for point in points if point > low), default=low)
    if low == high:
        return points[low]
    return points[low] + (points[high] - points[low]) * (size - low) / (high - low)


def compare(name: str, encode: LatencyTable, step: LatencyTable) -> None:
    """Print each policy's outcomes: two numbers of clients, and arrivals at 70 % of what rigid batches can do."""
    saturation = Simulation(Rigid(), encode, step).closed(256).rate
    policies: dict[str, Pacing] = {
        "one at a time": OneAtATime(),
        "rigid": Rigid(),
        "encode first": Thresholds(16, 1, 0),
        "<= 8 when 4 wait or 2 decode": Thresholds(8, 4, 2),
        "<= 16 when 8 wait or 4 decode": Thresholds(16, 8, 4),
        "continuous": Continuous(encode, step),
    }
    print(f"{name}\n{'':32}16 clients  48 clients   {0.7 * saturation:.0f}/s: p50 / p99 ms")
    for policy_name, policy in policies.items():
        few = Simulation(policy, encode, step).closed(16)
        many = Simulation(policy, encode, step).closed(48)
        line = f"  {policy_name:30}{few.rate:8.0f}/s {many.rate:9.0f}/s"
        if policy_name != "one at a time":
            steady = Simulation(policy, encode, step).open(0.7 * saturation)
            line += f"   {steady.p50_ms:8.1f} / {steady.p99_ms:.1f}"
        print(line)


def main() -> None:
    """Compare over the tables above, or over a server's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server")
    parser.add_argument("--model", default="lstm_int8")
    arguments = parser.parse_args()
    if arguments.server is None:
        for name, points in _DECODERS.items():
            compare(name, table(_ENCODER, _LARGEST_BATCH), table(points, _SLOTS))
        return
    with Client(arguments.server) as client:
        encoder, decoder = client.model(arguments.model).sessions
    tables = [LatencyTable({x.batch_size: x.median_s * 1e9 for x in s.latencies}) for s in (encoder, decoder)]
    compare(arguments.model, *tables)


if __name__ == "__main__":
    main()
