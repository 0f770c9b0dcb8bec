"""What of a captioner is under way, and what could begin. Pure: no threads, no clock; guarded by the device's lock.

One step at a time, as it owns the slots; beside it encoder batches, `instances` jobs in all.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, islice, takewhile
from typing import Final

from resonnx_server.captioning.demand import NOTHING, Demand
from resonnx_server.captioning.encode_policy import EncodePolicy, Load
from resonnx_server.captioning.request import CaptionTask, Encoded

# Weight of a finished caption's length against the mean of those before.
_DECAY: Final = 0.05


class CaptionSchedule:
    """One captioner's jobs and captions.

    Args:
        pacing: When to encode and when to step, where only one of them can begin.
        instances: Jobs at once.
        capacity: Decode slots.
        largest: Pictures of an encoder batch, at most.
        mean_steps: Steps of a caption, before any is seen.

    Attributes:
        active: What captions under way ask of the decoder, as of the last step.
        joining: Encoded, to be decoded from the next step on.
        mean_steps: As seen so far.
        has_whole_device: The job under way leaves no core for another.
    """

    def __init__(self, pacing: EncodePolicy, *, instances: int, capacity: int, largest: int, mean_steps: float) -> None:
        self.mean_steps = mean_steps
        self.active = NOTHING
        self.joining: list[Encoded] = []
        self.has_whole_device = False
        self._pacing, self._instances = pacing, instances
        self._capacity, self._largest = capacity, largest
        self._encoding: list[Sequence[CaptionTask]] = []
        self._stepping = False
        self._streaming = False

    @property
    def is_idle(self) -> bool:
        """No job is under way."""
        return not (self._stepping or self._encoding)

    @property
    def decodes(self) -> bool:
        """Captions are under way, or will be by the next step."""
        return self.active.captions > 0 or bool(self.joining)

    @property
    def can_begin(self) -> bool:
        """A job could begin beside those under way, if there is work for it."""
        return not self.has_whole_device and len(self._encoding) + self._stepping < self._instances

    @property
    def can_step(self) -> bool:
        """There are captions to decode, and no step is under way."""
        return self.decodes and not self._stepping

    @property
    def active_rows(self) -> int:
        """Slots that captions under way may come to need."""
        return self.active.rows

    @property
    def rows(self) -> int:
        """Slots that captions have, or will have before those that wait now."""
        return self.active_rows + rows_of(self._joining_tasks()) + sum(map(rows_of, self._encoding))

    @property
    def demand(self) -> Demand:
        """What captions ask of the decoder that have slots, or will have before those that wait now."""
        coming = chain(self._joining_tasks(), *self._encoding)
        return self.active + demand_of(coming)

    def fitting(self, waiting: Iterable[CaptionTask]) -> int:
        """Return how many pictures from the head of the queue would find slots, an encoder batch at most."""
        return _fitting(islice(waiting, self._largest), self._capacity - self.rows)

    def to_encode(self, waiting: int, idle_lanes: int) -> int:
        """Return how many of the pictures that wait to encode now; 0 is to step.

        Args:
            waiting: Pictures that would find slots.
            idle_lanes: Jobs that could begin now on the device, whosoever's.
        """
        if not waiting:
            return 0
        if self._instances == 1 or self.can_step:
            return self._pacing.encode_now(self._load(waiting, steps_go_on=idle_lanes > 1))
        # Nobody's words stand still for it, and each lane that could begin now takes its share.
        lanes = min(idle_lanes, self._instances - len(self._encoding) - self._stepping)
        return math.ceil(waiting / max(1, lanes))

    def begin_encoding(self, tasks: Sequence[CaptionTask], *, has_all_cores: bool) -> None:
        """Take note of an encoder batch that begins."""
        self._encoding.append(tasks)
        self.has_whole_device = has_all_cores

    def end_encoding(self, tasks: Sequence[CaptionTask], joining: list[Encoded]) -> None:
        """Take note of its end: `joining` have captions to decode."""
        self._encoding.remove(tasks)
        self.joining += joining
        self.has_whole_device = False

    def begin_step(self) -> list[Encoded]:
        """Take note of a step that begins; return who joins with it: as many as have room, first come, first served."""
        fitting = _fitting(self._joining_tasks(), self._capacity - self.active_rows)
        joining, self.joining = self.joining[:fitting], self.joining[fitting:]
        self._stepping = True
        self.active += demand_of(encoded.task for encoded in joining)
        return joining

    def end_step(self, owners: Iterable[CaptionTask]) -> None:
        """Take note of its end: `owners` go on."""
        tasks = list(owners)
        self.active = demand_of(tasks)
        self._streaming = any(task.on_words is not None for task in tasks)
        self._stepping = self.has_whole_device = False

    def learn(self, steps: int) -> None:
        """Learn from a finished caption."""
        self.mean_steps += _DECAY * (steps - self.mean_steps)

    def clear(self) -> list[CaptionTask]:
        """Forget everybody; return who was about to join."""
        tasks = list(self._joining_tasks())
        self.joining, self.active = [], NOTHING
        return tasks

    def _joining_tasks(self) -> Iterable[CaptionTask]:
        return (encoded.task for encoded in self.joining)

    def _load(self, waiting: int, *, steps_go_on: bool) -> Load:
        captions = self.active.captions + len(self.joining) + sum(map(len, self._encoding))
        return Load(waiting, captions, self.rows, self.mean_steps, self._streaming and not steps_go_on)


def rows_of(tasks: Iterable[CaptionTask]) -> int:
    """Rows that captions may come to need."""
    return sum(task.search.width for task in tasks)


def demand_of(tasks: Iterable[CaptionTask]) -> Demand:
    """What captions still ask of the decoder: rows that they may come to need, for one more step each at least."""
    captions = rows = row_steps = 0
    for task in tasks:
        width = task.search.width
        captions += 1
        rows += width
        row_steps += width * max(1, task.expected_steps - task.steps)
    return Demand(captions, rows, row_steps)


def _fitting(tasks: Iterable[CaptionTask], room: int) -> int:
    """Return how many tasks, from the first on, find their rows in `room`."""
    rows = accumulate(task.search.width for task in tasks)
    return sum(1 for _ in takewhile(lambda taken: taken <= room, rows))
