"""A captioner's queue with its decoder work, and the time that new captions will take. Pure.

Guarded by the device's lock. Sums are kept as captions come and go: a prediction costs the same for any queue.
"""

import math
from itertools import islice
from typing import Any, Final

from resonnx_server.captioning.request import CaptionCost, CaptionTask
from resonnx_server.captioning.schedule import NOTHING, CaptionSchedule, Demand, demand_of
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.scheduling.batcher import Batcher
from resonnx_server.scheduling.queue import Entry, QueueReservation
from resonnx_server.scheduling.session_pool import AnyInstanceGroup
from resonnx_server.scheduling.sharing import PRIORITY_LEVELS, Backlog, Turn

# Weight of a new observation.
_DECAY: Final = 0.05


class CaptionQueue(Batcher[CaptionTask]):
    """A batcher of pictures that sums the demand of their captions by priority."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._demands = [NOTHING] * PRIORITY_LEVELS
        self._row_steps = Backlog()
        self._decoding: set[Turn] = set()

    def decoding(self, turns: set[Turn]) -> None:
        """Note whose captions are decoded now. They count as waiting: the device's time goes on being shared."""
        if turns == self._decoding:
            return
        for priority, caller in turns - self._decoding:
            self._shares[priority - 1].begin(caller)
        for priority, caller in self._decoding - turns:
            self._shares[priority - 1].end(caller)
        self._decoding = set(turns)

    def in_turn(self, pictures: int) -> int:
        """Return how many of the first waiting pictures may be encoded before captions go on; 0 is none.

        An encoder batch pauses all captions. Callers whose captions are decoded while none of their pictures waits lose
        by it. So a batch of another caller begins only if half of it fits into what they were served before it: no two
        orders of batches and steps share the device's time more evenly. More urgent captions are not paused. Pictures
        of further callers join a batch as far as their own turns reach.

        Args:
            pictures: Of the batch, at least 1.
        """
        if len({caller for _, caller in self._decoding}.union(self._held)) <= 1:
            return pictures
        served = {(level, caller): self._served(level, caller) for level, caller in self._decoding}
        first, count = None, 0
        for entry in islice(self, pictures):
            turn = level, caller = entry.priority, entry.caller
            cost = self._expected_ns(entry)
            own = served[turn] if turn in served else self._served(level, caller)
            if first is None:
                first, reach = caller, own + cost * pictures / 2
                paused = (
                    other for other in served if other[1] != caller and not self._turns[other[0] - 1].waiting(other[1])
                )
                if any(other[0] < level or (other[0] == level and served[other] < reach) for other in paused):
                    return 0
            elif caller != first and any(
                other[0] < level or (other[0] == level and time < own)
                for other, time in served.items()
                if other[1] != caller
            ):
                break
            served[turn] = own + cost
            count += 1
        return count

    def _served(self, priority: int, caller: str) -> float:
        return self._shares[priority - 1].served(caller)

    def demand_before(self, priority: int, caller: str, own: Demand) -> Demand:
        """Return the demand of captions, waiting or reserved, that precede a new request of the demand `own`.

        Of its priority, the part that counts is that of the steps that precede it by the turns of the callers.
        """
        urgent, alike = sum(self._demands[: priority - 1], NOTHING), self._demands[priority - 1]
        before = self._row_steps.before(caller, priority, own.row_steps) - urgent.row_steps
        return urgent + alike.part(before / alike.row_steps if alike.row_steps else 0.0)

    def _count_waiting(self, entry: Entry[CaptionTask], rows: int) -> None:
        super()._count_waiting(entry, rows)
        # The demand of a waiting caption does not change.
        self._count_demand(entry.caller, entry.priority, demand_of([entry.payload]) * rows)

    def _count_reserved(self, reservation: QueueReservation, room: int, ahead: int) -> None:
        super()._count_reserved(reservation, room, ahead)
        self._count_demand(reservation.caller, reservation.priority, reservation.row_demand * ahead)

    def _count_demand(self, caller: str, priority: int, demand: Demand) -> None:
        self._demands[priority - 1] += demand
        self._row_steps.add(caller, priority, demand.row_steps)


class Forecast:
    """Predicts the time of new captions.

    Args:
        queue: Waiting and reserved captions.
        schedule: Captions under way, and the measured lengths of those that ended.
        decoders: Run the steps.
        rows: Most rows of a step.
        beside: Pictures are encoded beside steps, not in turns with them.
    """

    def __init__(
        self, queue: CaptionQueue, schedule: CaptionSchedule, decoders: AnyInstanceGroup, rows: int, *, beside: bool
    ) -> None:
        self._queue, self._schedule, self._decoders = queue, schedule, decoders
        self._rows, self._beside = rows, beside
        # Of captions that end by themselves; the schedule's mean is of all captions, as all share steps.
        self._length = schedule.mean_steps

    def learn_length(self, steps: int, options: DecodeOptions) -> None:
        """Learn from a finished caption of `steps`.

        A caption that its request's limits made shorter or longer is ignored.
        """
        was_cut, was_stretched = steps >= options.max_tokens, options.min_tokens > self._length
        if (was_cut and steps < self._length) or (was_stretched and steps > self._length):
            return
        self._length += _DECAY * (steps - self._length)

    def steps(self, options: DecodeOptions) -> int:
        """Return the expected number of tokens of a caption."""
        return min(max(math.ceil(self._length), options.min_tokens), options.max_tokens)

    def of_one(self, options: DecodeOptions) -> Demand:
        """Return the expected demand of a caption."""
        return Demand(1, options.beam_width, options.beam_width * self.steps(options))

    def weight(self, options: DecodeOptions) -> float:
        """Return the device time of a caption with its encoding, as a multiple of the latter in a full batch."""
        steps = self._decoders.table
        row_step_ns = steps.cost_ns(steps.largest) / steps.largest + self._schedule.handling_row_ns
        return 1.0 + self.of_one(options).row_steps * row_step_ns / self._queue.row_ns()

    def wait_ns(self, cost: CaptionCost, priority: int, caller: str = "") -> float:
        """Expected time until a caller's new request would have its captions, if no other model used the device."""
        own = self.of_one(cost.options) * cost.pictures
        ahead = self._schedule.demand + self._queue.demand_before(priority, caller, own)
        table, rows = self._decoders.table, self._rows_of_step(ahead + own)
        step_ns = table.cost_ns(table.padded_batch_size(rows)) + rows * self._schedule.handling_row_ns
        decoding, encoding = (
            self._steps_before(ahead, own) * step_ns,
            self._queue.ahead_ns(priority, caller, cost.pictures),
        )
        before = max(encoding, decoding) if self._beside else encoding + decoding
        return before + self._queue.own_ns(cost.pictures) + own.steps * step_ns

    def own_ns(self, cost: CaptionCost) -> float:
        """Expected time of a request on an idle device."""
        own = self.of_one(cost.options) * cost.pictures
        rows = self._rows_of_step(own)
        size = self._decoders.table.padded_batch_size(rows)
        step_ns = min(table.cost_ns(size) for table in self._decoders.tables)
        steps = self._steps_before(NOTHING, own) + own.steps
        return self._queue.own_ns(cost.pictures) + steps * (step_ns + rows * self._schedule.handling_row_ns)

    def _at_once(self, demand: Demand) -> int:
        """Return how many captions of the mean width of `demand` fit into a step."""
        return max(1, self._rows * demand.captions // demand.rows)

    def _rows_of_step(self, demand: Demand) -> int:
        """Return the rows of a step that holds the captions of `demand`, or as many of them as fit."""
        return min(self._rows, -(-demand.rows * min(demand.captions, self._at_once(demand)) // demand.captions))

    def _steps_before(self, ahead: Demand, own: Demand) -> float:
        """Return the number of steps until the last caption of `own`, which have equal demands, begins."""
        both = ahead + own
        at_once = self._at_once(both)
        if both.captions <= at_once:
            return 0.0
        before = both - Demand(1, own.rows // own.captions, own.row_steps // own.captions)
        # Until then steps are full; when the last caption begins, the others in its step are half finished on average.
        rows = both.rows / both.captions * at_once
        return max(0.0, before.row_steps / rows - (at_once - 1) / at_once / 2 * before.steps)
