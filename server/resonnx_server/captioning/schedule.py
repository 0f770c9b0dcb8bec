"""Which jobs of a captioner run, and which could begin. No threads, an injected clock; guarded by the device's lock.

One step runs at a time, as it owns the slots; beside it encoder batches, up to `max_jobs` in all.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, takewhile
from typing import Final

from resonnx_server.captioning.encode_policy import EncodePolicy, Load
from resonnx_server.captioning.request import CaptionTask, Encoded
from resonnx_server.scheduling.latency import LastingMean
from resonnx_server.scheduling.sharing import Turn

# Weight of a new observation in a mean.
_DECAY: Final = 0.05
# First guess of a row's share of a step beside the graph's run.
_HANDLING_ROW_NS: Final = 10_000.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Decoder work of some captions.

    Attributes:
        captions: Number of captions.
        rows: Rows of a step that holds all of them, one for each beam.
        row_steps: Sum of each caption's rows times its expected steps still to come.
    """

    captions: int = 0
    rows: int = 0
    row_steps: int = 0

    def __add__(self, other: "Demand") -> "Demand":
        return Demand(self.captions + other.captions, self.rows + other.rows, self.row_steps + other.row_steps)

    def __sub__(self, other: "Demand") -> "Demand":
        return self + other * -1

    def __mul__(self, captions: int) -> "Demand":
        return Demand(captions * self.captions, captions * self.rows, captions * self.row_steps)

    def part(self, share: float) -> "Demand":
        """Return a share, 0..1, of the demand, rounded up."""
        return Demand(*(math.ceil(each * share) for each in (self.captions, self.rows, self.row_steps)))

    @property
    def steps(self) -> float:
        """Mean steps of a caption, weighted by rows."""
        return self.row_steps / self.rows if self.rows else 0.0


NOTHING = Demand()


def demand_of(tasks: Iterable[CaptionTask]) -> Demand:
    """Return the demand of captions: all rows that they may need, for at least one more step."""
    captions = rows = row_steps = 0
    for task in tasks:
        width = task.search.width
        captions += 1
        rows += width
        row_steps += width * max(1, task.expected_steps - task.steps)
    return Demand(captions, rows, row_steps)


class CaptionSchedule:
    """One captioner's jobs and captions.

    Args:
        policy: When to encode and when to step, if only one of them can run.
        max_jobs: Most jobs at once.
        capacity: Decode slots.
        largest: Most pictures of an encoder batch.
        mean_steps: Steps of a caption until any has ended.
        clock: Monotonic ns.

    Attributes:
        active: Demand of the captions in the slots, as of the last step.
        joining: Encoded pictures that join at the next step.
        mean_steps: Mean steps of captions that have ended.
        is_idle: No job runs.
        decodes: Captions are in the slots, or join at the next step.
        decoding: Whose captions these are.
        can_begin: Another job could begin, if there is work for it.
        can_step: There are captions to decode, and no step runs.
    """

    def __init__(
        self,
        policy: EncodePolicy,
        *,
        max_jobs: int,
        capacity: int,
        largest: int,
        mean_steps: float,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.mean_steps = mean_steps
        self._handling_row_ns = LastingMean(_HANDLING_ROW_NS, clock)
        self.active = NOTHING
        self.joining: list[Encoded] = []
        self.decoding: set[Turn] = set()
        self._policy, self._max_jobs = policy, max_jobs
        self._capacity, self._largest = capacity, largest
        self._encoding: list[Sequence[CaptionTask]] = []
        self._has_step = self._is_exclusive = self._streaming = False
        self._update()

    @property
    def demand(self) -> Demand:
        """Demand of captions that have slots, or will have before those that wait now."""
        return self.active + demand_of(chain(self._joining_tasks(), *self._encoding))

    @property
    def handling_row_ns(self) -> float:
        """Mean time of a row of a step beside the graph's run."""
        return self._handling_row_ns.value

    def fitting(self, waiting: Iterable[CaptionTask]) -> int:
        """Return how many pictures from the head of the queue would find slots, an encoder batch at most."""
        return _fitting(islice(waiting, self._largest), self._capacity - self.demand.rows)

    def to_encode(self, waiting: int, idle_lanes: int) -> int:
        """Return how many waiting pictures to encode now; 0 is to step.

        Args:
            waiting: Pictures that would find slots.
            idle_lanes: Lanes of the device that are idle, the asking one included.
        """
        if not waiting:
            return 0
        if self._max_jobs == 1 or self.can_step:
            demand, streaming = self.demand, self._streaming and idle_lanes <= 1
            return self._policy.encode_now(Load(waiting, demand.captions, demand.rows, self.mean_steps, streaming))
        # No caption pauses for it, and the lanes that could begin now share the pictures.
        lanes = min(idle_lanes, self._max_jobs - len(self._encoding) - self._has_step)
        return math.ceil(waiting / max(1, lanes))

    def begin_encoding(self, tasks: Sequence[CaptionTask], *, has_all_cores: bool) -> None:
        """Note that an encoder batch begins."""
        self._encoding.append(tasks)
        self._is_exclusive = has_all_cores
        self._update()

    def end_encoding(self, tasks: Sequence[CaptionTask], joining: list[Encoded]) -> None:
        """Note that it has ended; `joining` have captions to decode."""
        self._encoding.remove(tasks)
        self.joining += joining
        self.decoding |= {encoded.task.turn for encoded in joining}
        self._is_exclusive = False
        self._update()

    def begin_step(self) -> list[Encoded]:
        """Note that a step begins; return the pictures that join with it, in order of arrival, as many as have room."""
        joining: list[Encoded] = []
        if self.joining:
            fitting = _fitting(self._joining_tasks(), self._capacity - self.active.rows)
            joining, self.joining = self.joining[:fitting], self.joining[fitting:]
            self.active += demand_of(encoded.task for encoded in joining)
        self._has_step = True
        self._update()
        return joining

    def take_device(self) -> None:
        """Note that the step that begins uses all cores, so that no other job may begin."""
        self._is_exclusive = True
        self._update()

    def end_step(self, owners: Iterable[CaptionTask], rows: int = 0, handling_ns: float = 0.0) -> None:
        """Note that the step has ended.

        Args:
            owners: Captions that go on.
            rows: Rows that it ran; 0 if it failed.
            handling_ns: Its time beside the graph's run.
        """
        if rows:
            self._handling_row_ns.learn(handling_ns / rows)
        tasks = list(owners)
        self.active = demand_of(tasks)
        self.decoding = {task.turn for task in chain(tasks, self._joining_tasks())}
        self._streaming = any(task.on_words is not None for task in tasks)
        self._has_step = self._is_exclusive = False
        self._update()

    def learn(self, steps: int) -> None:
        """Learn from the length of a finished caption."""
        self.mean_steps += _DECAY * (steps - self.mean_steps)

    def clear(self) -> list[CaptionTask]:
        """Forget all captions; return those that were about to join."""
        tasks = list(self._joining_tasks())
        self.joining, self.active, self.decoding = [], NOTHING, set()
        self._update()
        return tasks

    def _joining_tasks(self) -> Iterable[CaptionTask]:
        return (encoded.task for encoded in self.joining)

    def _update(self) -> None:
        """Update the attributes that lanes read several times between two changes."""
        jobs = len(self._encoding) + self._has_step
        self.is_idle = not jobs
        self.can_begin = not self._is_exclusive and jobs < self._max_jobs
        self.decodes = self.active.captions > 0 or bool(self.joining)
        self.can_step = self.decodes and not self._has_step


def _fitting(tasks: Iterable[CaptionTask], room: int) -> int:
    """Return how many tasks, from the first on, find their rows in `room`."""
    rows = accumulate(task.search.width for task in tasks)
    return sum(1 for _ in takewhile(lambda taken: taken <= room, rows))
