"""Refuses on arrival what cannot be answered in time: predicted time against the caller's deadline.

Computing an answer that comes too late takes the device from requests that could still be in time. Predictions are
wrong in their own way on every machine, so what became of them is learnt from (correction.py).

Two refusals, for two kinds of callers. Who asks for less time than the request takes on an idle device is told so
(DeadlineUnreachable): waiting was not the reason, and coming back is no help. Who would be late for what waits before
it is told when to come back (WaitTooLong).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from resonnx_server.errors import DeadlineUnreachable, WaitTooLong, milliseconds
from resonnx_server.scheduling.correction import Correction
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import LatencyTable

# Who waits for less than this part of its own work does not wait.
_NO_WAIT: Final = 0.05


@dataclass(frozen=True)
class Objective:
    """What a model should keep.

    Attributes:
        latency_ns: From arrival to answer. Steers batch sizes and whose turn it is.
        shed: Refuse also what would miss it.
    """

    latency_ns: int
    shed: bool = False


class Decoding(NamedTuple):
    """Expected time until a request's pictures are decoded, and what it would be if no others were before them, ns."""

    expected_ns: float
    alone_ns: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """That a request made at `at_ns` (monotonic) would take `expected_ns` of the `allowed_ns`; and who was asked."""

    at_ns: int
    expected_ns: float
    allowed_ns: float
    correction: Correction


class DeadlineAdmission:
    """Compares a prediction with a deadline. Called under the device's lock.

    Args:
        device: What else it has to do.
        objective: The model's, if it has one.
        tables: What predictions are made of.
    """

    def __init__(self, device: Device, objective: Objective | None, tables: Sequence[LatencyTable] = ()) -> None:
        self._device = device
        self._tables = tables
        self._shed_after_ns = objective.latency_ns if objective is not None and objective.shed else None
        # Of those who have the device to themselves, and of those who wait: one errs about the work, the other about
        # the queue, and what a queue taught must not be told to somebody who has none before him.
        self._alone, self._waiting = Correction(device.clock), Correction(device.clock)

    def has_limit(self, deadline_ns: int | None) -> bool:
        """Tell whether a request has to be checked at all."""
        return deadline_ns is not None or self._shed_after_ns is not None

    def forget(self) -> None:
        """Let go of what is known of the machine's speed, as far as no batch has told it lately: before predictions."""
        for table in self._tables:
            table.fade()

    def check(
        self, own_ns: float, deadline_ns: int | None, decoding: Decoding | None = None, ahead_ns: float = 0.0
    ) -> Prediction:
        """Return what is predicted for a request that came now.

        Args:
            own_ns: Expected time of its own batches, on a device that does nothing else.
            deadline_ns: The caller's, monotonic.
            decoding: Of its pictures, while the device works off the queue; None if there are none.
            ahead_ns: Expected time of the model's queue before it.

        Raises:
            DeadlineUnreachable: It would be late even if nothing were before it.
            WaitTooLong: It would be late.
        """
        now = self._device.clock()
        self.forget()
        decoding = decoding or Decoding(0.0, 0.0)
        alone = decoding.alone_ns + own_ns
        expected = max(self._device.under_way_ns(now) + ahead_ns, decoding.expected_ns) + own_ns
        waits = expected - alone > _NO_WAIT * alone
        left = math.inf if deadline_ns is None else deadline_ns - now
        allowed = left if self._shed_after_ns is None else min(left, self._shed_after_ns)
        if (predicted := alone * self._alone.factor) > allowed:
            raise DeadlineUnreachable(
                f"the answer would take {milliseconds(predicted)} even on an idle device {self._wanted(left)}"
            )
        if not waits:
            return Prediction(now, alone, allowed, self._alone)
        if (predicted := expected * self._waiting.factor) > allowed:
            wait = milliseconds(expected - alone)
            message = f"the answer would take {milliseconds(predicted)}, with a wait of {wait}, {self._wanted(left)}"
            raise WaitTooLong.for_ns(message, (predicted - allowed) / self._waiting.factor)
        return Prediction(now, expected, allowed, self._waiting)

    def learn(self, prediction: Prediction, *, too_late: bool) -> None:
        """Take note that the request of `prediction` has ended now: answered, or given up because time ran out."""
        took_ns = None if too_late else self._device.clock() - prediction.at_ns
        prediction.correction.learn(prediction.expected_ns, prediction.allowed_ns, took_ns)

    def _wanted(self, left_ns: float) -> str:
        """Return by when an answer is wanted, and by whom, if the caller has so much time left."""
        objective = self._shed_after_ns
        if objective is not None and objective < left_ns:
            return f"and the model's objective is {milliseconds(objective)}"
        return f"and is wanted within {milliseconds(left_ns)}"
