"""Compares caption policies in seconds, before they are built: a discrete-event simulation over tables of costs.

    python benchmarks/caption_policies.py [--server HOST:PORT --rigid-server HOST:PORT --model NAME]

Compared are the server's policy (captioning/encode_policy.py), those of captioners/policy_server.py, and fixed
thresholds, each with the server's schedule of jobs (captioning/schedule.py): encoding and steps take turns, or run
beside each other on a share of the cores each. Costs are those below, measured on two cores (OpenVINO provider with
AMX; CPU provider without), or those that two running servers have measured of a model: resonnx-server, and
policy_server.py with "rigid", whose sessions have all cores. Captions have 6 to 18 tokens, 11 on average, which no
policy may read.
"""

import argparse
import heapq
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Final, cast

from captioners.costs import DECODERS, ENCODER, ON_ALL, ON_ONE, Costs, served, table
from captioners.policy_server import OneAtATime, Rigid
from resonnx_server.captioning.encode_policy import EncodePolicy, Load
from resonnx_server.captioning.request import CaptionTask, Encoded
from resonnx_server.captioning.schedule import CaptionSchedule
from resonnx_server.scheduling.sharing import DEFAULT_PRIORITY, Turn

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
class Thresholds(EncodePolicy):
    """Encode up to `most` pictures when `gathered` wait or no more than `few` captions are under way."""

    most: int
    gathered: int
    few: int

    def encode_now(self, load: Load) -> int:
        is_time = load.waiting >= self.gathered or load.captions <= self.few
        return min(load.waiting, self.most) if is_time else 0


class _Search:
    """Of a greedy caption: one row."""

    width: Final = 1


_GREEDY: Final = _Search()


@dataclass(eq=False)
class _Caption:
    """The fields of a CaptionTask that a schedule reads, and those of the simulation."""

    arrival_ns: float
    tokens: int
    expected_steps: int = 11
    steps: int = 0
    search: Final[_Search] = _GREEDY
    on_words: Final[None] = None
    # All are of one caller.
    turn: Turn = (DEFAULT_PRIORITY, "")


@dataclass(frozen=True)
class Outcome:
    """Captions a second, the time from arrival to answer, and the median time to the first word."""

    rate: float
    p50_ms: float
    p99_ms: float
    first_word_ms: float


@dataclass(order=True)
class _Event:
    at_ns: float
    number: int
    # A caption that comes, captions that were encoded, or None where a step ends.
    what: "_Caption | list[_Caption] | None" = field(compare=False)


class Simulation:
    """One device under one policy.

    Args:
        policy: Decides between encoder batches and steps.
        costs: Times of both.
        seed: Seed of arrivals and lengths.
    """

    def __init__(self, policy: EncodePolicy, costs: Costs, seed: int = 0) -> None:
        self._policy, self._costs = policy, costs
        self._schedule = CaptionSchedule(
            policy, max_jobs=costs.instances, capacity=_SLOTS, largest=costs.encode.largest, mean_steps=10.0
        )
        self._random = random.Random(seed)
        self._events: list[_Event] = []
        self._number = 0
        self._waiting: deque[_Caption] = deque()
        self._active: list[_Caption] = []
        self._under_way = 0
        self._done: list[tuple[float, float]] = []
        self._first_words_ns: list[float] = []
        self._now = 0.0

    def closed(self, clients: int) -> Outcome:
        """So many clients, each with one picture under way."""
        for _ in range(clients):
            self._arrive(self._random.uniform(0, 1e6))
        return self._run(again=True)

    def open(self, rate: float) -> Outcome:
        """Poisson arrivals, `rate` a second."""
        at = 0.0
        for _ in range(_CAPTIONS):
            at += self._random.expovariate(rate / 1e9)
            self._arrive(at)
        return self._run(again=False)

    def _arrive(self, at_ns: float) -> None:
        (tokens,) = self._random.choices(_LENGTHS, _WEIGHTS)
        self._expect(at_ns, _Caption(at_ns, tokens))

    def _expect(self, at_ns: float, what: "_Caption | list[_Caption] | None") -> None:
        self._number += 1
        heapq.heappush(self._events, _Event(at_ns, self._number, what))

    def _run(self, *, again: bool) -> Outcome:
        while len(self._done) < _CAPTIONS:
            event = heapq.heappop(self._events)
            self._now = event.at_ns
            if isinstance(event.what, _Caption):
                self._waiting.append(event.what)
            elif event.what is None:
                self._stepped(again=again)
            else:
                self._under_way -= 1
                tasks = _tasks(event.what)
                self._schedule.end_encoding(tasks, [Encoded(task, (), (), row) for row, task in enumerate(tasks)])
            while self._schedule.can_begin and self._begin():
                pass
        return self._outcome()

    def _begin(self) -> bool:
        """Begin a job on a free lane, if there is one to begin."""
        fitting = self._schedule.fitting(_tasks(self._waiting))
        if pictures := self._schedule.to_encode(fitting, self._costs.instances - self._under_way):
            self._encode(pictures)
        elif self._schedule.can_step:
            self._step()
        else:
            return False
        self._under_way += 1
        return True

    def _encode(self, pictures: int) -> None:
        encode = self._costs.encode
        captions = [self._waiting.popleft() for _ in range(min(pictures, encode.best_size(pictures)))]
        self._schedule.begin_encoding(_tasks(captions), has_all_cores=self._costs.instances == 1)
        self._expect(self._now + encode.cost_ns(encode.padded_batch_size(len(captions))) + _OVERHEAD_NS, captions)

    def _step(self) -> None:
        self._active += cast(list[_Caption], [encoded.task for encoded in self._schedule.begin_step()])
        step = self._costs.step
        self._expect(self._now + step.cost_ns(step.padded_batch_size(len(self._active))) + _OVERHEAD_NS, None)

    def _stepped(self, *, again: bool) -> None:
        self._under_way -= 1
        for caption in self._active:
            if not caption.steps:
                self._first_words_ns.append(self._now - caption.arrival_ns)
            caption.steps += 1
        ended = [caption for caption in self._active if caption.steps >= caption.tokens]
        if isinstance(self._policy, Rigid) and len(ended) < len(self._active):
            ended = []
        else:
            self._active = [caption for caption in self._active if caption.steps < caption.tokens]
        self._schedule.end_step(_tasks(self._active))
        for caption in ended:
            self._schedule.learn(caption.tokens)
            self._done.append((self._now, self._now - caption.arrival_ns))
            if again:
                self._arrive(self._now + _TURNAROUND_NS)

    def _outcome(self) -> Outcome:
        warm = self._done[len(self._done) // 10 :]
        percentiles = quantiles((ns / 1e6 for _, ns in warm), n=100)
        rate = (len(warm) - 1) / (warm[-1][0] - warm[0][0]) * 1e9
        return Outcome(rate, percentiles[49], percentiles[98], median(self._first_words_ns) / 1e6)


def _tasks(captions: Iterable[_Caption]) -> list[CaptionTask]:
    return cast(list[CaptionTask], list(captions))


def compare(name: str, costs: Costs, beside: Costs | None = None) -> None:
    """Print each policy's outcomes: two numbers of clients, and arrivals at 70 % of rigid batches' throughput.

    Args:
        name: Name of the model.
        costs: Times of sessions that use all cores.
        beside: Times of several jobs at once.
    """
    saturation = Simulation(Rigid(costs.encode, costs.step), costs).closed(256).rate
    policies: dict[str, tuple[EncodePolicy, Costs]] = {
        "one at a time": (OneAtATime(costs.encode, costs.step), costs),
        "rigid": (Rigid(costs.encode, costs.step), costs),
        "encode first": (Thresholds(16, 1, 0), costs),
        "<= 8 when 4 wait or 2 decode": (Thresholds(8, 4, 2), costs),
        "<= 16 when 8 wait or 4 decode": (Thresholds(16, 8, 4), costs),
        "continuous": (EncodePolicy(costs.encode, costs.step), costs),
    }
    if beside is not None:
        policies[f"continuous, {beside.instances} at once"] = EncodePolicy(beside.encode, beside.step), beside
        policies[f"encode first, {beside.instances} at once"] = Thresholds(16, 1, 0), beside
    steady_loads = f"{0.7 * saturation:.0f}/s: p50 / p99 ms   {0.5 * saturation:.0f}/s: first word"
    print(f"{name}\n{'':32}16 clients  48 clients   {steady_loads}")
    for policy_name, (policy, of_policy) in policies.items():
        few = Simulation(policy, of_policy).closed(16)
        many = Simulation(policy, of_policy).closed(48)
        line = f"  {policy_name:30}{few.rate:8.0f}/s {many.rate:9.0f}/s"
        if policy_name != "one at a time":
            steady = Simulation(policy, of_policy).open(0.7 * saturation)
            line += f"   {steady.p50_ms:8.1f} / {steady.p99_ms:<10.1f}"
            line += f"{Simulation(policy, of_policy).open(0.5 * saturation).first_word_ms:8.1f} ms"
        print(line)


def main() -> None:
    """Compare over the tables above, or over servers'."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server")
    parser.add_argument("--rigid-server")
    parser.add_argument("--model", default="lstm_int8")
    arguments = parser.parse_args()
    if arguments.server is not None:
        beside = served(arguments.server, arguments.model)
        alone = served(arguments.rigid_server or arguments.server, arguments.model)
        if alone.instances > 1:
            parser.error("--server runs jobs at once: --rigid-server must say what they cost on all cores")
        compare(arguments.model, alone, beside if beside.instances > 1 else None)
        return
    for name, points in DECODERS.items():
        compare(name, Costs(table(ENCODER, _LARGEST_BATCH), table(points, _SLOTS)))
    on_all, on_one = ((table(e, _LARGEST_BATCH), table(d, _SLOTS)) for e, d in (ON_ALL, ON_ONE))
    compare("LSTM, fp32, CPU provider", Costs(*on_all), Costs(*on_one, instances=2))


if __name__ == "__main__":
    main()
