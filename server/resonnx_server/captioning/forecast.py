"""Predicts how long captions take that come now: encoding and decoding of those before them, and their own. Pure.

Guarded by the device's lock. What a prediction costs does not grow with what waits.
"""

import math
from typing import Final

from resonnx_server.captioning.demand import NOTHING, Demand
from resonnx_server.captioning.queue import CaptionQueue
from resonnx_server.captioning.schedule import CaptionSchedule
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.scheduling.session_pool import AnyInstanceGroup

# What a row of a step costs beside the graph's run, until that is known, and the weight of a step's against it.
_HANDLING_ROW_NS: Final = 10_000.0
_DECAY: Final = 0.05


class Forecast:
    """One captioner's.

    Args:
        queue: What waits.
        schedule: What is under way, and how many steps captions should take until any is seen.
        decoders: Run the steps.
        rows: Of a step, at most.
        captions: Decoded at once, at most.
        beside: Pictures are encoded beside steps, not in turns with them.
    """

    def __init__(
        self,
        queue: CaptionQueue,
        schedule: CaptionSchedule,
        decoders: AnyInstanceGroup,
        rows: int,
        captions: int,
        beside: bool,
    ) -> None:
        self._queue, self._schedule, self._decoders = queue, schedule, decoders
        self._rows, self._captions, self._beside = rows, captions, beside
        self._row_ns = _HANDLING_ROW_NS
        # Of captions that end by themselves. The schedule's mean is of all, cut or not, as they share steps.
        self._length = schedule.mean_steps

    def handled(self, rows: int, ns: int) -> None:
        """Learn how long a step of `rows` took beside the graph's run: rows put in, searches, words taken out."""
        if rows:
            self._row_ns += _DECAY * (ns / rows - self._row_ns)

    def ended(self, steps: int, least: int, most: int) -> None:
        """Learn how long captions are from one of `steps`, which by its request had to have `least` and at most `most`.

        One that was cut may have been as long as any, and one that had to go on, as short.
        """
        was_cut, had_to_go_on = steps >= most, least > self._length
        if (was_cut and steps < self._length) or (had_to_go_on and steps > self._length):
            return
        self._length += _DECAY * (steps - self._length)

    def steps(self, options: DecodeOptions) -> int:
        """Return how many tokens a caption of `options` should have."""
        return min(max(math.ceil(self._length), options.min_tokens), options.max_tokens)

    def of_one(self, options: DecodeOptions) -> Demand:
        """Return what a caption of `options` should ask of the decoder."""
        return Demand(1, options.beam_width, options.beam_width * self.steps(options))

    def wait_ns(self, pictures: int, options: DecodeOptions, priority: int) -> float:
        """Expected time until pictures that came now would have their captions, were the device this model's alone."""
        own = self.of_one(options) * pictures
        ahead = self._schedule.demand + self._queue.demand_before(priority)
        table, rows = self._decoders.table, self._rows_of_step(ahead + own)
        step_ns = table.cost_ns(table.padded_batch_size(rows)) + rows * self._row_ns
        decoding, encoding = self._steps_before(ahead, own) * step_ns, self._queue.ahead_ns(priority)
        # Side by side the longer of the two is waited for, and in turns both.
        before = max(encoding, decoding) if self._beside else encoding + decoding
        return before + self._queue.own_ns(pictures) + own.steps * step_ns

    def own_ns(self, pictures: int, options: DecodeOptions) -> float:
        """Expected time of pictures' captions on a device that does nothing else."""
        own = self.of_one(options) * pictures
        rows = self._rows_of_step(own)
        size = self._decoders.table.padded_batch_size(rows)
        step_ns = min(
            runner.table.cost_ns(size) for runner in (self._decoders.latency_session, self._decoders.throughput_session)
        )
        steps = self._steps_before(NOTHING, own) + own.steps
        return self._queue.own_ns(pictures) + steps * (step_ns + rows * self._row_ns)

    def _at_once(self, demand: Demand) -> int:
        """Return how many captions like those of `demand` share a step."""
        return max(1, min(self._rows * demand.captions // demand.rows, self._captions))

    def _rows_of_step(self, demand: Demand) -> int:
        """Return the rows of a step that captions of `demand` share, as many as can."""
        return min(self._rows, -(-demand.rows * min(demand.captions, self._at_once(demand)) // demand.captions))

    def _steps_before(self, ahead: Demand, own: Demand) -> float:
        """Return how many steps go before the last of `own`, which are alike, begins."""
        both = ahead + own
        at_once = self._at_once(both)
        if both.captions <= at_once:
            return 0.0
        before = both + -Demand(1, own.rows // own.captions, own.row_steps // own.captions)
        # All rows of a step that captions so wide can take are busy until then; and when the last begins, the others
        # that share its steps are half way on average.
        rows = both.rows / both.captions * at_once
        return max(0.0, before.row_steps / rows - (at_once - 1) / at_once / 2 * before.steps)
