"""Refuses requests that cannot meet their deadline, by predictions that are corrected by the outcomes.

An answer that comes too late takes device time from requests that could still be in time. There are two refusals:
`DeadlineUnreachable` where the deadline is too near even for an idle device, so a retry is useless, and `WaitTooLong`
where the work queued before is the reason, with a hint when to retry.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from resonnx_server.errors import DeadlineUnreachable, WaitTooLong
from resonnx_server.scheduling.device import Device
from resonnx_server.scheduling.latency import Freshness

# A wait shorter than this share of the request's own work does not count as a wait.
_NO_WAIT: Final = 0.05
# Share of requests near the limit that should be in time, and how fast the correction follows.
_IN_TIME: Final = 0.9
_RATE: Final = 0.05
_BOUNDS: Final = (0.5, 4.0)
# Only predictions above this share of the allowed time say whether the limit is right.
_NEAR_THE_LIMIT: Final = 0.5


@dataclass(frozen=True)
class Objective:
    """Target latency of a model.

    Attributes:
        latency_ns: From arrival to answer. Determines batch sizes and the order of models on a device.
        shed: Requests that would miss it are refused.
    """

    latency_ns: int
    shed: bool = False


class Decoding(NamedTuple):
    """Predicted ns until a request's pictures are decoded: as of now, and if no other pictures were queued."""

    expected_ns: float
    alone_ns: float


class Correction:
    """Ratio of actual to predicted times that nine in ten requests stay below, followed by small steps (Robbins-Monro).

    Args:
        clock: Monotonic ns.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._factor = 1.0
        self._age = Freshness(clock)

    @property
    def factor(self) -> float:
        """What to multiply predictions by. Decays to 1 without evidence."""
        self._factor = 1 + (self._factor - 1) * self._age.kept()
        return self._factor

    def learn(self, expected_ns: float, allowed_ns: float, took_ns: float | None) -> None:
        """Learn from a request.

        Args:
            expected_ns: Predicted time, uncorrected.
            allowed_ns: Time limit of the request.
            took_ns: Time until the answer; None if the limit passed first.
        """
        predicted_ns = expected_ns * self.factor
        if predicted_ns < _NEAR_THE_LIMIT * allowed_ns:
            return
        step = _RATE * (_IN_TIME if took_ns is None or took_ns > predicted_ns else _IN_TIME - 1)
        least, most = _BOUNDS
        self._factor = min(max(self._factor * (1 + step), least), most)
        self._age.renew()


@dataclass(frozen=True, slots=True)
class Prediction:
    """A request admitted at `at_ns` (monotonic) was predicted to take `expected_ns` of the `allowed_ns`."""

    at_ns: int
    expected_ns: float
    allowed_ns: float
    correction: Correction


class DeadlineAdmission:
    """Compares predictions with deadlines. Called under the device's lock.

    Args:
        device: Where the work runs.
        objective: The model's, or None.

    Attributes:
        sheds: Requests without a deadline must be checked as well.
    """

    def __init__(self, device: Device, objective: Objective | None) -> None:
        self._device = device
        self.sheds = objective is not None and objective.shed
        self._shed_after_ns = objective.latency_ns if objective is not None and objective.shed else None
        # Two corrections: requests that find an idle device err about the work, others about the queue.
        self._idle, self._waiting = Correction(device.clock), Correction(device.clock)

    def check(
        self, own_ns: float, deadline_ns: int | None, decoding: Decoding | None = None, ahead_ns: float = 0.0
    ) -> Prediction:
        """Predict the time of a request that arrives now.

        Args:
            own_ns: Expected time of its own batches on an idle device.
            deadline_ns: Its monotonic deadline, or None.
            decoding: Of its pictures, which overlaps with the queue's work; None if there are none.
            ahead_ns: Expected time of the queue before it.

        Raises:
            DeadlineUnreachable: It would be late even on an idle device.
            WaitTooLong: It would be late.
        """
        now = self._device.clock()
        decoding = decoding or Decoding(0.0, 0.0)
        idle = decoding.alone_ns + own_ns
        expected = max(self._device.under_way_ns(now) + ahead_ns, decoding.expected_ns) + own_ns
        left = math.inf if deadline_ns is None else deadline_ns - now
        allowed = left if self._shed_after_ns is None else min(left, self._shed_after_ns)
        if (predicted := idle * self._idle.factor) > allowed:
            raise DeadlineUnreachable(
                f"the answer would take {milliseconds(predicted)} even on an idle device, {self._limit(left)}"
            )
        if expected - idle <= _NO_WAIT * idle:
            return Prediction(now, idle, allowed, self._idle)
        if (predicted := expected * self._waiting.factor) > allowed:
            wait = milliseconds(expected - idle)
            message = f"the answer would take {milliseconds(predicted)}, with a wait of {wait}, {self._limit(left)}"
            raise WaitTooLong.for_ns(message, (predicted - allowed) / self._waiting.factor)
        return Prediction(now, expected, allowed, self._waiting)

    def learn(self, prediction: Prediction, *, too_late: bool) -> None:
        """Learn that the request of `prediction` ended now: answered, or too late."""
        took_ns = None if too_late else self._device.clock() - prediction.at_ns
        prediction.correction.learn(prediction.expected_ns, prediction.allowed_ns, took_ns)

    def _limit(self, left_ns: float) -> str:
        """Name the limit of a request with so much time left."""
        objective = self._shed_after_ns
        if objective is not None and objective < left_ns:
            return f"and the model's objective is {milliseconds(objective)}"
        return f"and its deadline allows {milliseconds(left_ns)}"


def milliseconds(ns: float) -> str:
    """Format a time in ms with three significant digits and its unit."""
    ms = max(ns, 0.0) / 1e6
    return f"{ms:.0f} ms" if ms >= 100 else f"{ms:.3g} ms"
